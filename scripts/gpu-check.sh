#!/usr/bin/env bash
# Everything worth knowing from a machine with a GPU, within ten minutes: kernel tests and goldens on `cuda`,
# compute-sanitizer on a short run, training speed by shape, time by kernel. Needs the executable and a checkout (or
# scripts/gpu-archive.sh's archive, unpacked); no network, Bun or Node: the executable runs the tests itself.
#
#   scripts/gpu-check.sh [RESULTS]      the folder for JSON and logs, gpu-results by default
#   NEFTUNE_GPU_CHECK=tests|bench|all   what is done (all)
#   NEFTUNE_GPU_REHEARSAL=1             small shapes, for a rehearsal under the emulator (NEFTUNE_CUDA_LIBRARY)
set -uo pipefail
results="$(realpath -m "${1:-gpu-results}")"
cd "$(dirname "$0")/.."
neftune="$PWD/dist/neftune"
what="${NEFTUNE_GPU_CHECK:-all}"
rehearsal="${NEFTUNE_GPU_REHEARSAL:-}"
backend=cuda
[ -z "${NEFTUNE_CUDA_LIBRARY:-}" ] || backend=emulated
mkdir -p "$results"
failed=0

# step NAME SECONDS COMMAND…: runs it with a limit, keeps what it said in NAME.log, tells the outcome.
step() {
  local name="$1" limit="$2" start=$SECONDS
  shift 2
  if timeout "$limit" "$@" >"$results/$name.log" 2>&1; then
    echo "ok      $name ($((SECONDS - start)) s)"
  else
    local status=$?
    failed=1
    echo "FAILED  $name (status $status after $((SECONDS - start)) s): $results/$name.log"
    tail -n 15 "$results/$name.log" | sed 's/^/        /'
  fi
}

# bench NAME SECONDS OPTIONS…: neftune bench into NAME.json.
bench() {
  local name="$1" limit="$2"
  shift 2
  step "$name" "$limit" sh -c '"$0" bench --device cuda --json "$@" >"'"$results/$name"'.json"' "$neftune" "$@"
}

tests() {
  NEFTUNE_TEST_BACKENDS=$backend BUN_BE_BUN=1 step "$1" "$2" "$neftune" test --timeout 120000 "${@:3}"
}

# cuBLASLt is often in a Python environment that nothing else points to.
if [ -z "${NEFTUNE_CUDA_HOME:-}" ] && command -v python3 >/dev/null; then
  wheel="$(python3 -c 'import nvidia, os; print(next((p for p in (os.path.join(list(nvidia.__path__)[0], d) for d in ("cu13", "cublas")) if os.path.isdir(os.path.join(p, "lib"))), ""))' 2>/dev/null)"
  [ -z "$wheel" ] || export NEFTUNE_CUDA_HOME="$wheel"
fi

step doctor 60 sh -c '"$0" doctor --json >"'"$results"'/doctor.json" && "$0" doctor' "$neftune"
cat "$results/doctor.log"

if [ "$what" != bench ]; then
  tests native 30 test/native
  tests kernels 120 test/kernels
  tests goldens 90 test/golden test/train/golden-run.test.ts
  tests end-to-end 60 test/e2e/cuda.test.ts
  tests ranks 30 test/ranks/sharding.test.ts
  sanitizer="$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")"
  if [ -x "$sanitizer" ]; then
    run=("$neftune" bench --shape m25 --device cuda --steps 1 --warmup 0 --batch-size 2 --max-length 96)
    for tool in memcheck racecheck synccheck; do
      step "$tool" 75 "$sanitizer" --tool "$tool" --error-exitcode 9 "${run[@]}"
      # Some virtual machines keep the tool from the device; then nothing was found, and nothing was looked at.
      ! grep -q "Device not supported" "$results/$tool.log" || { echo "        the tool cannot be used here"; break; }
    done
  else
    echo "skipped compute-sanitizer: not installed"
  fi
fi

if [ "$what" != tests ]; then
  if [ -n "$rehearsal" ]; then
    bench bench-m25 300 --shape m25 --batch-size 1 --max-length 32 --steps 2 --warmup 1
  else
    bench bench-s135m-4x512 40 --shape s135m --batch-size 4 --max-length 512 --steps 10 --warmup 3
    bench bench-llama2-7b-4x2048 60 --shape llama2-7b --batch-size 4 --max-length 2048 --steps 8 --warmup 3
    bench bench-llama2-7b-8x512 60 --shape llama2-7b --batch-size 8 --max-length 512 --steps 8 --warmup 3
    bench bench-llama3-8b-4x2048 60 --shape llama3-8b --batch-size 4 --max-length 2048 --steps 8 --warmup 3
    bench bench-llama3-8b-2x4096 60 --shape llama3-8b --batch-size 2 --max-length 4096 --steps 8 --warmup 3
    bench qlora-llama3-8b-2x4096 60 --shape llama3-8b --mode qlora --batch-size 2 --max-length 4096 --steps 8 --warmup 3
  fi
fi

BUN_BE_BUN=1 "$neftune" scripts/gpu-table.ts "$results" | tee "$results/table.txt"
exit $failed
