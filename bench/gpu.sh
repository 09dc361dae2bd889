#!/usr/bin/env bash
# Builds, tests and measures on a machine with a CUDA GPU in one call, offline: bench/gpu.sh [folder for results].
# Correctness first (gpu tests, compute-sanitizer), then the benches. Needs torch, pybind11 or torch's own headers,
# CMake and nvcc; pytest, hypothesis and scipy for the tests. RCFAST_DATA with mnist.npz adds MNIST.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-bench/results}
mkdir -p "$out"
status=0
step() { printf '\n== %s\n' "$*"; "$@" || { status=$?; echo "FAILED ($status): $*"; }; }

RCFAST_CUDA=1 step python3 -m pip install -q --no-build-isolation --no-deps -e . || exit 1
step python3 -m rcfast.info
step python3 -m pytest -q -m gpu
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        step compute-sanitizer --tool "$tool" --error-exitcode 9 python3 -m pytest -q -x -m gpu \
            tests/test_vote.py tests/test_sample_hypercube.py -k "cuda_equals_cpu or bits_equal_cpu"
    done
fi
step python3 bench/throughput.py --device cuda --out "$out/throughput-gpu.json"
# Without the literal loops: one example at a time, they take longer than a GPU is lent for.
step python3 bench/attacks.py --device cuda --out "$out/attacks-gpu.json" \
    --only "deepfool,jsma,cw-l2,cw-linf rcfast,cw-linf rcfast fast,cw-l0 rcfast,cw-l0 rcfast fast"
exit "$status"
