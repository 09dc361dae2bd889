#!/usr/bin/env bash
# Builds, tests and measures on a machine with a CUDA GPU in one call of at most nine minutes, offline:
#     bench/gpu.sh OUT [cuda|cpu]
# Each step has its own time limit and writes its results to OUT as it ends, whatever becomes of the others: log.txt,
# steps.tsv (step, seconds, outcome), tests.xml, sass.json, throughput.json, attacks.json. Exits 0 if every step passed.
# Needs Python, torch, CMake, ninja, pybind11 and nvcc; for the tests pytest, hypothesis and scipy. RCFAST_DATA with
# mnist.npz measures MNIST, else the embedded digits at its size. "cpu" is the dry run of the check: the same steps with
# the GPU replaced; GPU_PATIENCE times the limits, and GPU_SECONDS in all, for a busy machine.
set -uo pipefail
out=$(mkdir -p "${1:?folder for the results}" && cd "$1" && pwd)
device=${2:-cuda}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
total=${GPU_SECONDS:-530}
failed=0
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
: >"$out/log.txt"
printf 'step\tseconds\toutcome\n' >"$out/steps.tsv"

# step NAME LIMIT COMMAND...: no longer than LIMIT seconds, nor than what is left of all.
step() {
    local name=$1 limit=$(($2 * ${GPU_PATIENCE:-1})) began=$SECONDS outcome
    shift 2
    ((limit > total - SECONDS)) && limit=$((total - SECONDS))
    printf '\n== %s (at most %s s): %s\n' "$name" "$limit" "$*" | tee -a "$out/log.txt"
    if ((limit < 1)); then
        outcome="no time left"
    else
        timeout --kill-after=5 "$limit" "$@" > >(tee -a "$out/log.txt") 2>&1
        case $? in
            0) outcome=passed ;;
            124 | 137) outcome="out of time" ;;
            *) outcome=FAILED ;;
        esac
    fi
    printf '%s\t%s\t%s\n' "$name" $((SECONDS - began)) "$outcome" | tee -a "$out/steps.tsv"
    [ "$outcome" = passed ] || { failed=1; return 1; }
}
# Nothing that follows could pass.
need() { step "$@" || { echo "no $1, no results" | tee -a "$out/log.txt"; exit 1; }; }

if [ "$device" = cuda ]; then
    export RCFAST_CUDA=1
    build=(setup.py -q build_ext --inplace)
    marked=gpu few=() dataset=auto images=1000 quick=() examples=10
    attacks="deepfool rcfast,jsma rcfast,cw-l2 rcfast,cw-l2 rcfast fast,cw-linf rcfast fast,cw-l0 rcfast fast"
else
    build=(-c "from rcfast import ops; print(ops.build_info())")  # stands already
    marked="not slow" few=(-k "opcheck or waits or replayed") dataset=digits images=8 quick=(--quick) examples=1
    attacks="deepfool rcfast,jsma rcfast,cw-l2 rcfast fast"  # that the step runs; a full budget takes minutes
fi
need build 150 python3 "${build[@]}"
need device 60 python3 bench/gpu_steps.py device "$device"
# Only the files that speak of GPUs: others import libraries that a bare machine lacks.
step tests 150 python3 bench/gpu_steps.py tests "$marked" "$out/tests.xml" "${few[@]}"
throughput=(python3 bench/throughput.py --device "$device" --dataset "$dataset" "${quick[@]}")
throughput+=(--out "$out/throughput.json")
step kernels 60 "${throughput[@]}" --parts kernels
step votes 100 "${throughput[@]}" --parts votes --images "$images"
if command -v compute-sanitizer >/dev/null && [ "$device" = cuda ]; then
    ours=()  # kernels alone, where the tool can be told so
    compute-sanitizer --help 2>&1 | grep -q kernel-regex && ours=(--kernel-regex kns=rcfast)
    for tool in memcheck racecheck; do
        step "$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 "${ours[@]}" \
            python3 bench/gpu_steps.py kernels "$device"
    done
else
    step "kernels once" 60 python3 bench/gpu_steps.py kernels "$device"
    if [ "$device" = cuda ]; then
        printf 'memcheck\t0\tno compute-sanitizer on the path\n' | tee -a "$out/steps.tsv"
        failed=1
    fi
fi
if command -v nvcc >/dev/null; then
    step sass 60 python3 bench/sass.py --out "$out/sass.json"
elif [ "$device" = cuda ]; then
    printf 'sass\t0\tno nvcc on the path\n' | tee -a "$out/steps.tsv"
    failed=1
fi
# Without the literal loops: one example at a time, they take longer than a GPU is lent for.
step attacks 90 python3 bench/attacks.py --device "$device" --dataset "$dataset" --out "$out/attacks.json" \
    --examples "$examples" --untargeted $((10 * examples)) \
    --only "$attacks"
echo
cat "$out/steps.tsv"
exit "$failed"
