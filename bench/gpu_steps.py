"""Steps of bench/gpu.sh that are more than a command: device DEVICE | tests MARK XML [PYTEST ARGS] | kernels DEVICE."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import torch

from rcfast import ops

ROOT = Path(__file__).resolve().parent.parent


def device(name: str) -> None:
    """The device is there and the kernels for it were built: no test may be skipped for want of it."""
    from rcfast.info import main as info

    info([])  # not the arguments of this script
    if name == "cuda":
        if not torch.cuda.is_available():
            sys.exit("torch sees no CUDA device")
        if ops.build_info()["cuda"] is None:
            sys.exit("rcfast was built without CUDA kernels")
        major, minor = torch.cuda.get_device_capability()
        print(torch.cuda.get_device_name(), f"sm_{major}{minor}, targets", ops.build_info()["cuda_targets"])
    out = torch.empty(1, 2, 8, device=name)
    ops.sample_hypercube_(
        out, torch.zeros(1, 8, device=name), 0.5, example_ids=torch.zeros(1, dtype=torch.int64, device=name)
    )
    assert 0 < float(out.min()) <= float(out.max()) <= 0.5


def tests(marked: str, xml: str, *more: str) -> None:
    """Of the files that speak of GPUs, those tests; none of them skipped, and at least one there."""
    files = [p for p in sorted((ROOT / "tests").glob("test_*.py")) if "mark.gpu" in p.read_text()]
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked, f"--junitxml={xml}", *more]
    code = subprocess.run([sys.executable, *command, *map(str, files)], cwd=ROOT).returncode
    (suite,) = ElementTree.parse(xml).getroot().iter("testsuite")
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    print(counts)
    if code or not counts["tests"]:
        sys.exit("tests failed" if counts["tests"] else "no test was run")
    # Instruction sets of the CPU are tested on processors that have them.
    skipped = [case.attrib["message"] for case in suite.iter("skipped")]
    skipped = [why for why in skipped if not why.startswith("this processor has no")]
    if marked == "gpu" and skipped:
        sys.exit(f"{len(skipped)} tests were skipped, nothing was shown by them: {', '.join(set(skipped))}")


def kernels(name: str) -> None:
    """Each kernel once, at sizes with ragged ends, against the CPU: small enough for compute-sanitizer."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for shape, layout in (
            ((1, 28, 28), torch.contiguous_format),
            ((1, 5, 7), torch.contiguous_format),
            ((3, 32, 32), torch.channels_last),
            ((3, 8, 13), torch.channels_last),
            ((3, 5, 7), torch.channels_last),
            ((4, 4, 6), torch.channels_last),
        ):
            x, ids = torch.rand(3, *shape), torch.arange(3)
            for clip in ("intersect", "clamp"):
                found, apart = [], []
                for where in ("cpu", name):
                    out = torch.empty(3 * 19, *shape, dtype=dtype, device=where, memory_format=layout)
                    points, distances = out.unflatten(0, (3, 19)), torch.empty(3, 19, device=where)
                    ops.sample_hypercube_(points, x.to(where), 0.3, example_ids=ids.to(where), clip=clip)
                    ops.distance_(distances, points, x.to(where))
                    found.append(out.cpu())
                    apart.append(distances.cpu())
                assert torch.equal(*found), (dtype, shape, clip)
                assert torch.equal(*apart), (dtype, shape, clip)
        for noise in ("gaussian", "laplace", "l2_ball", "l1_ball", "sphere"):
            x, ids = torch.rand(3, 3, 8, 13), torch.arange(3)
            found = []
            for where in ("cpu", name):
                out = torch.empty(3, 19, 3, 8, 13, dtype=dtype, device=where)
                ops.sample_noise_(out, x.to(where), 0.3, noise=noise, example_ids=ids.to(where))
                found.append(out.cpu())
            assert torch.equal(*found), (dtype, noise)
        for labels in (10, 100):
            logits = torch.randn(3, 300, labels).to(dtype)
            found = []
            for where in ("cpu", name):
                counts = torch.zeros(3, 3, labels, dtype=torch.int32, device=where)
                ops.vote_(counts, logits.to(where), [7, 7, 300])
                found.append(counts.cpu())
            assert torch.equal(*found), (dtype, labels)
            for mode in ("softmax", "margin", "weighted"):
                weights = torch.randint(1 << 24, (3, 300), dtype=torch.int32) if mode == "weighted" else None
                totals = []
                for where in ("cpu", name):
                    total = torch.zeros(3, labels, dtype=torch.int64, device=where)
                    cast = torch.zeros(3, dtype=torch.int32, device=where)
                    given = None if weights is None else weights.to(where)
                    ops.vote_soft_(total, cast, logits.to(where), mode=mode, weights=given)
                    totals.append(total.cpu())
                assert torch.equal(*totals), (dtype, labels, mode)
    for n in (2, 257, 600):
        a, b, free = torch.randn(2, n), torch.randn(2, n), torch.rand(2, n) < 0.7
        pairs = [ops.saliency_pair(a.to(d), b.to(d), free.to(d)).cpu() for d in ("cpu", name)]
        assert torch.equal(*pairs), n
    print("kernels: the bits of the CPU")


if __name__ == "__main__":
    {"device": device, "tests": tests, "kernels": kernels}[sys.argv[1]](*sys.argv[2:])
