"""What every operator needs: the native module, where a tensor lives, checks, registration with torch."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

try:
    from rcfast import _C
except ImportError as error:  # imports work without the module; calls say what to do
    _C, _MISSING = None, error

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def native() -> ModuleType:
    if _C is None:
        raise RuntimeError(
            f"the native module of rcfast is missing or broken ({_MISSING}): run `pip install -e .`"
        ) from _MISSING
    return _C


def build_info() -> dict[str, Any]:
    """What the native module was built with: CUDA version and targets, compiler, CPU instruction set in use."""
    return dict(native().build_info())


def where(tensor: Tensor) -> tuple[int, int | None]:
    """Threads for the CPU; the current stream of the tensor's device for CUDA."""
    if tensor.device.type == "cpu":
        return torch.get_num_threads(), None
    if native().build_info()["cuda"] is None:
        raise RuntimeError(
            "rcfast was built without CUDA kernels: install nvcc and run `RCFAST_CUDA=1 pip install -e .`, "
            "or move the tensors to the CPU"
        )
    return 0, torch.cuda.current_stream(tensor.device).cuda_stream


def check_device(name: str, tensor: Tensor, like: Tensor) -> None:
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on {like.device} like the output, got {tensor.device}")


def check(name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], shape: tuple[int, ...]) -> None:
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name} must be {' or '.join(map(str, dtypes))}, got {tensor.dtype}")
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(tensor.shape)}")


def check_value(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.int64 or tensor.numel() != 1:
        raise TypeError(f"{name} must be one int64 value, got {tensor.dtype} of shape {list(tensor.shape)}")
    return tensor


# torch.library.custom_op would do all of this, but imports the whole compiler at the first call: 147 MB of memory
# and two seconds.
_library = torch.library.Library("rcfast", "FRAGMENT")


def operator(
    schema: str, keys: tuple[str, ...] = ("CPU", "CUDA")
) -> Callable[[Callable[..., None]], OpOverload]:
    """Registers a kernel for these devices that returns None and writes to the arguments marked in the schema."""
    name = schema.partition("(")[0]

    def register(kernel: Callable[..., None]) -> OpOverload:
        _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        made: OpOverload = getattr(torch.ops.rcfast, name).default
        written = [i for i, a in enumerate(made._schema.arguments) if a.is_write]

        def call(*arguments: Any) -> None:
            kernel(*arguments)
            for i in written:
                if not arguments[i].is_inference():  # which track no versions
                    torch.autograd.graph.increment_version(arguments[i])

        for key in keys:
            _library.impl(name, call, key)
        torch.library.register_fake(f"rcfast::{name}", lambda *arguments: None, lib=_library)
        return made

    return register


def run(kernel: str, arguments: tuple[Any, ...], like: Tensor) -> None:
    """Calls a native kernel on the CPU's threads, or on the current stream of the device of ``like``."""
    threads, stream = where(like)
    function = getattr(native(), kernel)
    if stream is None:
        function(*arguments, threads, stream)
    else:
        with torch.cuda.device(like.device):
            function(*arguments, threads, stream)


def address(tensor: Tensor | None) -> int:
    """Where a tensor's data lies; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()
