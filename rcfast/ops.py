"""The operators ``torch.ops.rcfast.*``: schemas, fakes, CPU and CUDA kernels; the only user of ``data_ptr``.

Operators write in place and return None, never allocate on the device and never synchronise, so that CUDA
graphs can capture them. They check shapes, dtypes and devices; values (x in [0,1], no NaN) are the caller's
promise, for looking at them would cost a synchronisation: :class:`rcfast.RegionClassifier` checks them once per
call.
"""

import math
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

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_CLIPS = {"intersect": 0, "clamp": 1}


def _native() -> ModuleType:
    if _C is None:
        raise RuntimeError(
            f"the native module of rcfast is missing or broken ({_MISSING}): run `pip install -e .`"
        ) from _MISSING
    return _C


def build_info() -> dict[str, Any]:
    """What the native module was built with: CUDA version and targets, compiler, CPU instruction set in use."""
    return dict(_native().build_info())


def _where(tensor: Tensor) -> tuple[int, int | None]:
    """Threads for the CPU; the current stream of the tensor's device for CUDA."""
    if tensor.device.type == "cpu":
        return torch.get_num_threads(), None
    if _native().build_info()["cuda"] is None:
        raise RuntimeError(
            "rcfast was built without CUDA kernels: install nvcc and run `RCFAST_CUDA=1 pip install -e .`, "
            "or move the tensors to the CPU"
        )
    return 0, torch.cuda.current_stream(tensor.device).cuda_stream


def _check_device(name: str, tensor: Tensor, like: Tensor) -> None:
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on {like.device} like the output, got {tensor.device}")


def _check(name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], shape: tuple[int, ...]) -> None:
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name} must be {' or '.join(map(str, dtypes))}, got {tensor.dtype}")
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(tensor.shape)}")


def _check_value(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.int64 or tensor.numel() != 1:
        raise TypeError(f"{name} must be one int64 value, got {tensor.dtype} of shape {list(tensor.shape)}")
    return tensor


def _channels(out: Tensor) -> int:
    """1 where the elements of a point lie in order, C where ``out`` [B, s, C, ...] is channels_last."""
    if out.is_contiguous():
        return 1
    if out.dim() > 3 and out.movedim(2, -1).is_contiguous():
        return out.shape[2]
    raise ValueError(f"out must be contiguous or channels_last, got strides {list(out.stride())}")


# torch.library.custom_op would do all of this, but imports the whole compiler at the first call: 147 MB of memory
# and two seconds.
_library = torch.library.Library("rcfast", "FRAGMENT")


def _operator(schema: str) -> Callable[[Callable[..., None]], OpOverload]:
    """Registers a kernel for CPU and CUDA that returns None and writes to the arguments marked in the schema."""
    name = schema.partition("(")[0]

    def register(kernel: Callable[..., None]) -> OpOverload:
        _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        operator: OpOverload = getattr(torch.ops.rcfast, name).default
        written = [i for i, a in enumerate(operator._schema.arguments) if a.is_write]

        def call(*arguments: Any) -> None:
            kernel(*arguments)
            for i in written:
                if not arguments[i].is_inference():  # which track no versions
                    torch.autograd.graph.increment_version(arguments[i])

        for key in ("CPU", "CUDA"):
            _library.impl(name, call, key)
        torch.library.register_fake(f"rcfast::{name}", lambda *arguments: None, lib=_library)
        return operator

    return register


@_operator(
    "sample_hypercube_(Tensor(a!) out, Tensor x, float r, Tensor? r_each, Tensor example_ids, SymInt seed, "
    "Tensor? seed_tensor, SymInt first_sample, Tensor? first_sample_tensor, str clip) -> ()"
)
def _sample_hypercube_(
    out: Tensor,
    x: Tensor,
    r: float,
    r_each: Tensor | None,
    example_ids: Tensor,
    seed: int,
    seed_tensor: Tensor | None,
    first_sample: int,
    first_sample_tensor: Tensor | None,
    clip: str,
) -> None:
    samples, n = out.shape[1], math.prod(out.shape[2:])
    if out.numel() == 0:
        return
    threads, stream = _where(out)
    arguments = (
        *(out.data_ptr(), _DTYPES[out.dtype], x.data_ptr(), r),
        *(r_each.data_ptr() if r_each is not None else 0, example_ids.data_ptr()),
        *(seed, seed_tensor.data_ptr() if seed_tensor is not None else 0),
        *(first_sample, first_sample_tensor.data_ptr() if first_sample_tensor is not None else 0),
        *(out.shape[0], samples, n, _channels(out), _CLIPS[clip], threads, stream),
    )
    if stream is None:
        _native().sample_hypercube(*arguments)
    else:
        with torch.cuda.device(out.device):
            _native().sample_hypercube(*arguments)


@_operator("vote_(Tensor(a!) counts, Tensor logits) -> ()")
def _vote_(counts: Tensor, logits: Tensor) -> None:
    if logits.numel() == 0:
        return
    threads, stream = _where(counts)
    arguments = (counts.data_ptr(), logits.data_ptr(), _DTYPES[logits.dtype], *logits.shape, threads, stream)
    if stream is None:
        _native().vote(*arguments)
    else:
        with torch.cuda.device(counts.device):
            _native().vote(*arguments)


@_operator(
    "saliency_pair_(Tensor(a!) out, Tensor(b!) workspace, Tensor a, Tensor b, Tensor free, bool down) -> ()"
)
def _saliency_pair_(out: Tensor, workspace: Tensor, a: Tensor, b: Tensor, free: Tensor, down: bool) -> None:
    if out.numel() == 0:
        return
    threads, stream = _where(out)
    tensors = (out, a, b, free, workspace)
    arguments = (*(t.data_ptr() for t in tensors), *a.shape, down, threads, stream)
    if stream is None:
        _native().saliency_pair(*arguments)
    else:
        with torch.cuda.device(out.device):
            _native().saliency_pair(*arguments)


def sample_hypercube_(
    out: Tensor,
    x: Tensor,
    r: float | Tensor,
    *,
    seed: int | Tensor = 0,
    example_ids: Tensor,
    first_sample: int | Tensor = 0,
    clip: str = "intersect",
) -> None:
    """Fill ``out`` with points of the hypercubes around ``x`` (Cao and Gong, section 4).

    The point is a pure function of (seed, example id, sample index, element index) and ``x``: it does not
    depend on the batch, the chunk, the number of threads, the memory format or the device. Reduced dtypes are
    the float32 point rounded to nearest even. Each coordinate takes one of 65,536 equally spaced values of its
    interval.

    Args:
        out: [B, s, ...] float32, float16 or bfloat16, contiguous or, as [B, s, C, ...], channels_last;
            overwritten.
        x: [B, ...] float32 in [0, 1] (a promise, not checked).
        r: half-width of the cube, a number >= 0 or one per example, float32 [B].
        seed: 64-bit key; an int64 tensor of one value on the same device where CUDA graphs must see it
            change.
        example_ids: int64 [B].
        first_sample: index of out[:, 0]; first_sample + s at most 2^32 (of a tensor like ``seed``, a promise, not
            checked).
        clip: "intersect" draws from B(x, r) ∩ [0,1]^n; "clamp" draws x + U(-r, r) and clamps it.

    Raises:
        TypeError: a dtype other than the above.
        ValueError: a shape, device, layout or value other than the above.
    """
    if out.dim() < 3:
        raise ValueError(f"out must have shape [B, s, ...], got {list(out.shape)}")
    if out.dtype not in _DTYPES:
        raise TypeError(f"out must be float32, float16 or bfloat16, got {out.dtype}")
    _check("x", x, (torch.float32,), (out.shape[0], *out.shape[2:]))
    _check("example_ids", example_ids, (torch.int64,), (out.shape[0],))
    if clip not in _CLIPS:
        raise ValueError(f"clip must be 'intersect' or 'clamp', got {clip!r}")
    first_tensor = None
    if isinstance(first_sample, Tensor):
        first_tensor, first_sample = _check_value("first_sample", first_sample), 0
    elif not 0 <= first_sample <= 2**32 - out.shape[1]:
        raise ValueError(f"first_sample must lie in [0, 2^32 - {out.shape[1]}], got {first_sample}")
    r_each = None
    if isinstance(r, Tensor):
        _check("r", r, (torch.float32,), (out.shape[0],))
        r_each, r = r.contiguous(), 0.0
    elif not 0 <= r < math.inf:
        raise ValueError(f"r must be a finite number >= 0, got {r}")
    seed_tensor = None
    if isinstance(seed, Tensor):
        seed_tensor, seed = _check_value("seed", seed), 0
    elif not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must fit 64 bits, got {seed}")
    tensors = {
        "x": x,
        "example_ids": example_ids,
        "r": r_each,
        "seed": seed_tensor,
        "first_sample": first_tensor,
    }
    for name, tensor in tensors.items():
        if tensor is not None:
            _check_device(name, tensor, out)
    _channels(out)
    signed = seed - 2**64 if seed >= 2**63 else seed
    _sample_hypercube_(
        out,
        x.contiguous(),
        float(r),
        r_each,
        example_ids.contiguous(),
        signed,
        seed_tensor,
        first_sample,
        first_tensor,
        clip,
    )


def vote_(counts: Tensor, logits: Tensor) -> None:
    """Add the histogram over samples of the argmax of ``logits`` to ``counts``.

    Ties go to the lowest label. A row with a NaN casts no vote: the sum of ``counts`` then falls short of the
    samples.

    Args:
        counts: int32 [B, L], contiguous; added to.
        logits: [B, s, L] float32, float16 or bfloat16.

    Raises:
        TypeError: a dtype other than the above.
        ValueError: a shape, device or layout other than the above.
    """
    if logits.dim() != 3:
        raise ValueError(f"logits must have shape [B, s, L], got {list(logits.shape)}")
    if logits.dtype not in _DTYPES:
        raise TypeError(f"logits must be float32, float16 or bfloat16, got {logits.dtype}")
    _check("counts", counts, (torch.int32,), (logits.shape[0], logits.shape[2]))
    _check_device("logits", logits, counts)
    if not counts.is_contiguous():
        raise ValueError(f"counts must be contiguous, got strides {list(counts.stride())}")
    _vote_(counts, logits.contiguous())


_SALIENCY_TILE = 256  # kSaliencyTile of csrc/kernels.h


def saliency_pair(a: Tensor, b: Tensor, free: Tensor, *, down: bool = False) -> Tensor:
    """The pair of coordinates that the saliency map of JSMA rates highest, (-1, -1) if none: int64 [B, 2].

    The pair p < q maximises the float32 score -(a_p + a_q)·(b_p + b_q), both sums and the product rounded, among
    those with a_p + a_q > 0 > b_p + b_q (down: with the signs the other way round); the lowest p, then the lowest q,
    wins ties. The search is exact over all pairs without an n×n tensor, and gives the same pair on every device.

    Args:
        a: float32 [B, n], gradient of the target's logit; NaN never qualifies.
        b: float32 [B, n], gradient of the sum of the other logits.
        free: bool [B, n], coordinates that may be chosen.
        down: seek the pair that is to be lowered.

    Raises:
        TypeError: a dtype other than the above.
        ValueError: a shape or device other than the above, or n beyond 2^31.
    """
    if a.dim() != 2 or a.shape[1] > 2**31:
        raise ValueError(f"a must have shape [B, n] with n up to 2^31, got {list(a.shape)}")
    _check("a", a, (torch.float32,), tuple(a.shape))
    _check("b", b, (torch.float32,), tuple(a.shape))
    _check("free", free, (torch.bool,), tuple(a.shape))
    _check_device("b", b, a)
    _check_device("free", free, a)
    if a.shape[1] == 0:
        return a.new_full((len(a), 2), -1, dtype=torch.int64)
    out = torch.empty(len(a), 2, dtype=torch.int64, device=a.device)
    tiles = 0 if a.device.type == "cpu" else -(-a.shape[1] // _SALIENCY_TILE)
    workspace = torch.empty(len(a), 2 * tiles + 1, device=a.device)
    _saliency_pair_(out, workspace, a.contiguous(), b.contiguous(), free.contiguous(), down)
    return out


@_operator(
    "conv3x3_(Tensor(a!) out, Tensor x, Tensor weights, Tensor bias, SymInt padding, bool relu, bool pool) -> ()"
)
def _conv3x3_(
    out: Tensor, x: Tensor, weights: Tensor, bias: Tensor, padding: int, relu: bool, pool: bool
) -> None:
    if out.numel() == 0:
        return
    if out.device.type != "cpu":
        raise RuntimeError(f"conv3x3_ runs on the CPU alone, got tensors on {out.device}")
    images, channels, height, width = x.shape
    _native().conv3x3(
        *(out.data_ptr(), x.data_ptr(), weights.data_ptr(), bias.data_ptr()),
        *(images, height, width, channels, out.shape[1], padding),
        *(weights.shape[0] == _TRANSFORMED, relu, pool, torch.get_num_threads()),
    )


_TRANSFORMED = 36  # planes of Winograd's transformed weights
CONV_FILTERS = 16  # kConvFilters of csrc/kernels.h
CONV_FEW = 4  # channels up to which a convolution is computed directly


def conv3x3_(
    out: Tensor,
    x: Tensor,
    weights: Tensor,
    bias: Tensor,
    *,
    padding: int = 0,
    relu: bool = False,
    pool: bool = False,
) -> None:
    """Fill ``out`` with the 3×3 convolution of ``x``, stride 1, plus ``bias``, ReLU and the maxima over 2×2 if wished.

    CPU alone, float32. An image gives the same bits in any batch and on any number of threads. With 36 planes of
    weights by Winograd's F(4×4, 3×3), whose results differ from the sums by rounding, some ten times as much as
    theirs: 5e-6 of the largest (64 channels).

    Args:
        out: float32 [N, K, H', W'], channels_last; H' = H + 2·padding - 2, halved with ``pool``, like W'.
        x: float32 [N, C, H, W], channels_last.
        weights: what :func:`rcfast.winograd.pack` made of the weight [K, C, 3, 3].
        bias: float32 [K].
        padding: zeros on each side, 0 to 2.
        relu: NaN stays NaN. pool: after ReLU, only with C > 4; the last row or column of an odd number is left out.

    Raises:
        TypeError: a dtype other than the above.
        ValueError: a shape, layout, device or value other than the above.
    """
    if x.dim() != 4:
        raise ValueError(f"x must have shape [N, C, H, W], got {list(x.shape)}")
    if not 0 <= padding <= 2:
        raise ValueError(f"padding must lie in [0, 2], got {padding}")
    images, channels, *sides = x.shape
    filters = len(bias)
    planes = 9 if channels <= CONV_FEW else _TRANSFORMED
    if pool and planes == 9:
        raise ValueError(f"pool must be False with up to {CONV_FEW} channels, got {channels}")
    _check(
        "weights", weights, (torch.float32,), (planes, -(-filters // CONV_FILTERS), channels, CONV_FILTERS)
    )
    made = [(side + 2 * padding - 2) // (2 if pool else 1) for side in sides]
    if min(sides) + 2 * padding < 3:
        raise ValueError(
            f"x must have sides of at least {3 - 2 * padding} with padding {padding}, got {sides}"
        )
    _check("x", x, (torch.float32,), tuple(x.shape))
    _check("bias", bias, (torch.float32,), (filters,))
    _check("out", out, (torch.float32,), (images, filters, *made))
    for name, tensor in (("x", x), ("weights", weights), ("bias", bias)):
        _check_device(name, tensor, out)
    for name, tensor in (("out", out), ("x", x)):
        if not tensor.is_contiguous(memory_format=torch.channels_last):
            raise ValueError(f"{name} must be channels_last, got strides {list(tensor.stride())}")
    _conv3x3_(out, x, weights.contiguous(), bias.contiguous(), padding, relu, pool)
