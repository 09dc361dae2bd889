"""What dtype="auto" means: by the instruction set of the model's device, the same in votes, training and attacks."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcfast import RegionClassifier, hardware, info, learn_length, training
from rcfast.attacks._passes import searched
from rcfast.attacks.attacked import AttackedModel
from rcfast.data import Split
from rcfast.regions import Cube, Gaussian, L1Ball, L2Ball, Laplace, Region, Sphere, sample
from rcfast.training import Recipe

CPU = torch.device("cpu")
BF16 = torch.bfloat16
SEEN: list[torch.dtype] = []  # by all models: copies too
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """processor(flags, limit): from now on the processor has these flags and oneDNN this limit."""

    def choose(flags: str, limit: str | None = None, variable: str = LIMITS[0]) -> None:
        monkeypatch.setattr(hardware, "_cpu_flags", lambda: frozenset(flags.split()))
        for name in LIMITS:
            monkeypatch.delenv(name, raising=False)
        if limit is not None:
            monkeypatch.setenv(variable, limit)

    return choose


@pytest.mark.parametrize(
    ("flags", "limit", "dtype", "why"),
    [
        ("avx2 fma", None, torch.float32, "none of AVX512_BF16, AMX_BF16, Arm BF16"),
        ("avx2 avx512f avx512_vnni", None, torch.float32, "none of"),
        ("avx2 avx512f avx512_bf16", None, BF16, "AVX512_BF16"),
        ("avx512_bf16 amx_bf16 amx_tile", None, BF16, "AVX512_BF16, AMX_BF16"),
        ("asimd bf16 i8mm", None, BF16, "Arm BF16"),
        ("asimd", None, torch.float32, "none of"),
        ("", None, torch.float32, "none of"),  # no /proc/cpuinfo
        ("avx512_bf16 amx_bf16", "DEFAULT", BF16, "AVX512_BF16, AMX_BF16"),
        ("avx512_bf16 amx_bf16", "AVX512_CORE_BF16", BF16, "AVX512_BF16"),
        ("amx_bf16", "avx512_core_bf16", torch.float32, "ONEDNN_MAX_CPU_ISA=avx512_core_bf16 takes away"),
        ("avx512_bf16 amx_bf16", "AVX2", torch.float32, "ONEDNN_MAX_CPU_ISA=AVX2 takes away"),
        ("avx512_bf16", "AVX512_CORE_VNNI", torch.float32, "takes away"),
        ("asimd bf16", "AVX2", BF16, "Arm BF16"),  # a name that means nothing there
    ],
)
def test_the_instruction_set_decides(
    processor: Any, flags: str, limit: str | None, dtype: torch.dtype, why: str
) -> None:
    processor(flags, limit)
    assert hardware.automatic_dtype(CPU) == dtype
    assert why in hardware.bfloat16_units(CPU)[1]
    assert info.precision(CPU)["dtype"] == str(dtype).removeprefix("torch.")


def test_the_older_name_of_the_limit_counts_too(processor: Any) -> None:
    processor("avx512_bf16", "AVX2", "DNNL_MAX_CPU_ISA")
    assert hardware.automatic_dtype(CPU) == torch.float32


def test_the_gpu_asked_is_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    each = {0: (7, 5), 1: (8, 0), 2: (9, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: each[device.index])
    found = [hardware.automatic_dtype(torch.device("cuda", i)) for i in each]
    assert found == [torch.float32, BF16, BF16]
    assert hardware.automatic_dtype(torch.device("meta")) == torch.float32


def test_what_this_processor_has_is_read() -> None:
    """Another source says the same: torch's own look at the processor."""
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch does not tell")
    said = torch.cpu.get_capabilities()
    for flag in ("avx512_bf16", "amx_bf16"):
        assert (flag in hardware._cpu_flags()) == bool(said.get(flag))


class Watched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))

    def forward(self, x: Tensor) -> Tensor:
        SEEN.append(x.dtype)
        return self.body(x)


@pytest.mark.parametrize(("flags", "dtype"), [("avx2", torch.float32), ("avx512_bf16", BF16)])
@pytest.mark.parametrize("own", [torch.float32, torch.float64, BF16])
def test_votes_run_in_what_auto_means(
    processor: Any, flags: str, dtype: torch.dtype, own: torch.dtype
) -> None:
    processor(flags)
    model = Watched().to(own)
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    votes = RegionClassifier(model, 0.3, m=50, stop=None, dtype="auto", chunk=200).vote(x)
    assert SEEN[-1] == dtype
    explicit = RegionClassifier(model, 0.3, m=50, stop=None, dtype=dtype, chunk=200).vote(x)
    assert (votes.counts - explicit.counts).abs().max() <= 2  # copy or autocast, by timing
    assert model.body[0].weight.dtype == own


def test_a_length_is_learnt_in_what_auto_means(processor: Any) -> None:
    processor("avx512_bf16")
    model, x = Watched(), torch.rand(8, 1, 8, 8)
    learn_length(model, x, model(x).argmax(1), step=0.5, r_max=0.5, m=20, dtype="auto")
    assert SEEN[-1] == BF16


@pytest.mark.parametrize(
    ("region", "dtype"),
    [
        (Cube(0.01), torch.float32),
        (Cube(1 / 16), BF16),
        (Cube(torch.full((8,), 0.3)), torch.float32),  # whoever else is in the batch
        (Gaussian(0.02), torch.float32),
        (Gaussian(0.1), BF16),
        (Sphere(0.2), torch.float32),  # 0.04 a coordinate of 64
        (Sphere(0.4), BF16),
    ],
)
def test_auto_is_float32_where_bfloat16_is_coarse(processor: Any, region: Region, dtype: torch.dtype) -> None:
    processor("avx512_bf16")
    model, x = Watched(), torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    votes = RegionClassifier(model, region, m=50, stop=None, dtype="auto", chunk=200).vote(x)
    assert SEEN[-1] == dtype
    if dtype == torch.float32:
        full = RegionClassifier(model, region, m=50, stop=None, dtype=torch.float32, chunk=200)
        assert torch.equal(votes.counts, full.vote(x).counts)


def test_a_search_in_small_steps_is_in_float32(processor: Any) -> None:
    processor("avx512_bf16")
    model, x = Watched(), torch.rand(8, 1, 8, 8)
    learn_length(model, x, model(x).argmax(1), step=0.02, r_max=0.1, m=20, dtype="auto")
    assert SEEN[-1] == torch.float32


@pytest.mark.filterwarnings("always")
def test_a_dtype_that_is_too_coarse_is_taken_and_said(processor: Any) -> None:
    processor("avx512_bf16")
    model, x = Watched(), torch.rand(8, 1, 8, 8)
    for dtype, r, said in (
        (BF16, 0.02, 1),
        (BF16, 0.1, 0),
        (torch.float16, 0.02, 0),
        (torch.float16, 0.005, 1),
    ):
        with warnings.catch_warnings(record=True) as found:
            RegionClassifier(model, r, m=20, dtype=dtype, chunk=200).vote(x)
        assert [w.category for w in found] == [RuntimeWarning] * said
        assert SEEN[-1] == dtype
    with pytest.warns(RuntimeWarning, match=r"bfloat16 is coarse for Cube\(r=0.02"):
        learn_length(model, x, model(x).argmax(1), step=0.02, r_max=0.02, m=20, dtype=BF16)


@pytest.mark.parametrize(
    "region", [Cube(0.4), Gaussian(0.3), Laplace(0.2), L2Ball(1.5), L1Ball(2.0), Sphere(1.5)]
)
def test_the_spread_of_a_region_is_what_its_points_show(region: Region) -> None:
    x = torch.full((1, 30), 0.5)
    if hasattr(region, "clip"):
        region = replace(region, clip="clamp" if isinstance(region, Cube) else None)
    points = sample(x, region, 4000, seed=3)
    assert float((points - x[:, None]).square().mean().mul(3).sqrt()) == pytest.approx(
        region.spread(30), rel=0.02
    )


def test_attacks_and_recipes_follow_the_same_rule(processor: Any) -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(400, 3)).eval(), torch.rand(2, 1, 20, 20)
    attacked = AttackedModel(model, num_classes=3, limit=64, queries=torch.zeros(2, dtype=torch.int64))
    for flags, low in (("avx2", False), ("avx512_bf16", True)):
        processor(flags)
        pair = searched(attacked, x, "auto")
        assert (pair.rough is not pair.exact) == low
        assert Recipe().dtype(CPU) == (BF16 if low else torch.float32)
        assert Recipe().on(CPU).precision == ("bfloat16" if low else "float32")
        assert Recipe(precision="bfloat16").on(CPU).precision == "bfloat16"


def test_training_does_not_go_on_in_another_precision(tmp_path: Any, processor: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.rand(32, 1, 8, 8, generator=generator), torch.arange(32) % 10)
    processor("avx2")
    training.fit(Watched(), split, epochs=1, checkpoint=tmp_path / "c.safetensors")
    training.fit(Watched(), split, epochs=1, precision="float32", checkpoint=tmp_path / "c.safetensors")
    processor("avx512_bf16")
    with pytest.raises(ValueError, match=r"recipe\.precision is 'float32' there and 'bfloat16' here"):
        training.fit(Watched(), split, epochs=1, checkpoint=tmp_path / "c.safetensors")


@pytest.mark.parametrize("before", [True, False])
def test_full_float32_leaves_the_settings_as_they_were(before: bool) -> None:
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    settings = convolutions.allow_tf32, products.allow_tf32
    try:
        convolutions.allow_tf32 = products.allow_tf32 = before
        with hardware.full_float32():
            assert (convolutions.allow_tf32, products.allow_tf32) == (False, False)
        assert (convolutions.allow_tf32, products.allow_tf32) == (before, before)
    finally:
        convolutions.allow_tf32, products.allow_tf32 = settings


@pytest.mark.parametrize("first_leaves", [0, 1])
def test_full_float32_holds_until_the_last_thread_has_left(first_leaves: int) -> None:
    convolutions = torch.backends.cudnn
    before = convolutions.allow_tf32
    try:
        convolutions.allow_tf32 = True
        inside = [hardware.full_float32(), hardware.full_float32()]
        for each in inside:
            each.__enter__()
        inside.pop(first_leaves).__exit__(None, None, None)
        assert not convolutions.allow_tf32
        inside.pop().__exit__(None, None, None)
        assert convolutions.allow_tf32
    finally:
        convolutions.allow_tf32 = before


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="an older torch")
def test_full_float32_where_torchs_newer_interface_was_used() -> None:
    """Reading the older one, allow_tf32, is an error from then on."""
    parts: list[Any] = [torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul]
    settings = [part.fp32_precision for part in parts]
    try:
        for part, value in zip(parts, ("tf32", "ieee", "tf32"), strict=True):
            part.fp32_precision = value
        with hardware.full_float32():
            assert [part.fp32_precision for part in parts] == ["ieee"] * 3
        assert [part.fp32_precision for part in parts] == ["tf32", "ieee", "tf32"]
    finally:
        for part, value in zip(parts, settings, strict=True):
            part.fp32_precision = value


def test_full_float32_where_products_are_in_bfloat16() -> None:
    try:
        torch.set_float32_matmul_precision("medium")
        with hardware.full_float32():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="an older torch")
def test_full_float32_where_tf32_was_asked_for_everywhere() -> None:
    backends: Any = torch.backends
    parts = (backends, backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    before = [part.fp32_precision for part in parts]
    try:
        backends.fp32_precision = "tf32"
        settings = [part.fp32_precision for part in parts]
        with hardware.full_float32():
            assert [part.fp32_precision for part in parts] == ["ieee"] * 4
        assert [part.fp32_precision for part in parts] == settings
    finally:
        for part, value in zip(parts, before, strict=True):
            part.fp32_precision = value
