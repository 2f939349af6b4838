#!/usr/bin/env bash
# Everything worth knowing from a machine with a GPU, in two runs of at most 400 s each, so that both fit 15 minutes with
# a machine's start. Needs what scripts/gpu-archive.sh packs, or a checkout after npm ci and npm run build: no network, and
# nothing installed but a driver and cuBLASLt.
#
#   scripts/gpu-check.sh check [RESULTS]   is it right: doctor, kernel tests and goldens on `cuda`, LoRA and QLoRA against
#                                          the CPU's losses, runs end to end, compute-sanitizer
#   scripts/gpu-check.sh bench [RESULTS]   how fast: training by shape and kernel, then PyTorch + PEFT, and Unsloth where it
#                                          is installed, on the same card
#
# The most important comes first. Each step has a limit of its own, and the run has one: what no longer fits is named
# and left out. Results are JSON and logs in RESULTS (gpu-results by default), with table.txt and, for the README, table.md.
#
#   NEFTUNE_GPU_SECONDS=400      what a run may take
#   NEFTUNE_GPU_REHEARSAL=1      small shapes and few tests, for a rehearsal under the emulator (NEFTUNE_CUDA_LIBRARY)
#   NEFTUNE_GPU_PYTHON=python3   the Python that has PyTorch and PEFT
set -uo pipefail
part="${1:-}"
[ "$part" = check ] || [ "$part" = bench ] || { sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2; exit 2; }
results="$(realpath -m "${2:-gpu-results}")"
cd "$(dirname "$0")/.."
neftune="$PWD/dist/neftune"
bun="$PWD/node_modules/@oven/bun-linux-x64/bin/bun"
python="${NEFTUNE_GPU_PYTHON:-python3}"
rehearsal="${NEFTUNE_GPU_REHEARSAL:-}"
end=$((SECONDS + ${NEFTUNE_GPU_SECONDS:-400}))
backend=cuda
[ -z "${NEFTUNE_CUDA_LIBRARY:-}" ] || backend=emulated
mkdir -p "$results"
# What an earlier run left must not pass for this one's.
if [ "$part" = check ]; then
  rm -f "$results"/losses-*.json "$results"/losses.log "$results"/doctor.json "$results"/doctor.log
else
  rm -f "$results"/bench-*.json "$results"/peer-*.json
fi
failed=0

# step NAME SECONDS COMMAND…: runs it with a limit, keeps what it said in NAME.log, tells the outcome.
step() {
  local name="$1" limit="$2" start=$SECONDS left=$((end - SECONDS))
  shift 2
  if [ "$left" -lt 5 ]; then
    echo "left out $name: the run's time is used up"
    failed=1
    return 1
  fi
  [ "$limit" -le "$left" ] || limit=$left
  timeout -k 10 "$limit" "$@" >"$results/$name.log" 2>&1 </dev/null
  local status=$?
  if [ $status = 0 ]; then
    echo "ok       $name ($((SECONDS - start)) s)"
  else
    failed=1
    local what="FAILED   $name (status $status after $((SECONDS - start)) s)"
    case $status in 124 | 137) what="cut      $name after $((SECONDS - start)) s" ;; esac
    echo "$what: $results/$name.log"
    tail -n 15 "$results/$name.log" | sed 's/^/         /'
  fi
  return $status
}

# bench NAME DEVICE SECONDS OPTIONS…: neftune bench into NAME.json, which appears whole or not at all.
bench() {
  local name="$1" device="$2" limit="$3"
  shift 3
  step "$name" "$limit" bash -c '"$0" bench --device "$2" --json "${@:3}" >"$1.part" && mv "$1.part" "$1"' \
    "$neftune" "$results/$name.json" "$device" "$@"
}

tests() {
  NEFTUNE_TEST_BACKENDS=$backend step "$1" "$2" "$bun" test --timeout 120000 "${@:3}"
}

# cuBLASLt is often in a Python environment that nothing else points to.
if [ -z "${NEFTUNE_CUDA_HOME:-}" ] && command -v "$python" >/dev/null; then
  wheel="$("$python" -c 'import nvidia, os; print(next((p for p in (os.path.join(list(nvidia.__path__)[0], d) for d in ("cu13", "cublas")) if os.path.isdir(os.path.join(p, "lib"))), ""))' 2>/dev/null)"
  [ -z "$wheel" ] || export NEFTUNE_CUDA_HOME="$wheel"
fi

check() {
  step doctor 40 sh -c '"$0" doctor --json >"'"$results"'/doctor.json" && "$0" doctor' "$neftune"
  cat "$results/doctor.log"
  if [ -n "$rehearsal" ]; then
    tests kernels 100 test/kernels/swiglu.test.ts test/kernels/rope.test.ts
    tests goldens 60 test/golden/model.test.ts -t "forward: logits"
    work=(--shape m25 --batch-size 1 --max-length 24 --steps 2 --warmup 1)
  else
    tests native 30 test/native
    tests kernels 150 test/kernels
    tests goldens 90 test/golden test/train/golden-run.test.ts test/model/laid-rank.test.ts
    work=(--shape m25 --batch-size 4 --max-length 512 --steps 8 --warmup 1)
  fi
  for mode in lora qlora; do
    bench "losses-$mode-cuda" cuda 60 --mode $mode "${work[@]}"
    bench "losses-$mode-cpu" cpu 60 --mode $mode "${work[@]}"
  done
  step losses 10 "$bun" scripts/gpu-losses.ts "$results"
  cat "$results/losses.log" 2>/dev/null
  if [ -z "$rehearsal" ]; then
    tests end-to-end 90 test/e2e/cuda.test.ts
    tests ranks 30 test/ranks/sharding.test.ts
  fi
  sanitize
}

sanitize() {
  local sanitizer
  sanitizer="$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")"
  [ -x "$sanitizer" ] || { echo "left out compute-sanitizer: not installed"; return; }
  # Enough tokens for sums that the last of several blocks finishes.
  local run=("$neftune" bench --shape m25 --device cuda --steps 1 --warmup 0 --batch-size 6 --max-length 96)
  for tool in memcheck racecheck synccheck; do
    step "$tool" 60 "$sanitizer" --tool "$tool" --error-exitcode 9 "${run[@]}" || break
    # Some virtual machines keep the tool from the device; then nothing was found, and nothing was looked at.
    ! grep -q "Device not supported" "$results/$tool.log" || { echo "         the tool cannot be used here"; break; }
  done
}

# Each line: shape, mode, batch, tokens a row, seconds. First all of ours, then the others on the same work.
works() {
  if [ -n "$rehearsal" ]; then
    printf '%s\n' "m25 lora 1 24 100" "m25 qlora 1 24 100"
  else
    printf '%s\n' "llama2-7b lora 8 512 50" "llama3-8b lora 2 4096 50" "llama3-8b qlora 2 4096 60" "s135m lora 4 512 25"
  fi
}

measure() {
  local steps=(--steps 8 --warmup 3)
  [ -z "$rehearsal" ] || steps=(--steps 2 --warmup 1)
  while read -r shape mode batch length limit; do
    bench "bench-$shape-$mode-${batch}x$length" cuda "$limit" --shape "$shape" --mode "$mode" --batch-size "$batch" \
      --max-length "$length" "${steps[@]}"
  done < <(works)
  for program in peft unsloth; do
    if ! "$python" -c "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ['torch', '$program'])))"; then
      echo "left out $program: $python does not have it"
      continue
    fi
    # One process for all works: importing takes as long as measuring. It writes each result as it is there.
    works >"$results/works.txt"
    step "peer-$program" 220 "$python" scripts/gpu-peer.py --program "$program" --works "$results/works.txt" \
      --results "$results" ${rehearsal:+--device cpu --steps 2 --warmup 1}
  done
  "$bun" scripts/gpu-table.ts "$results" | tee "$results/table.txt" || failed=1
  "$bun" scripts/gpu-table.ts "$results" --markdown >"$results/table.md" || failed=1
}

if [ "$part" = check ]; then check; else measure; fi
echo "$part: $SECONDS s"
exit $failed
