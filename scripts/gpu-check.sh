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
# and left out. Files with tests that fail run once more, each in a process of its own: a kernel that fails spoils its
# process's GPU for all that comes behind it. Results are JSON and logs in RESULTS (gpu-results by default), with table.txt
# and, for the README, table.md; RESULTS.tar.gz has all of them.
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
[ -e "$neftune" ] || "$bun" scripts/gpu-executable.ts join "$neftune.difference" "$neftune" || exit 1
# What an earlier run left must not pass for this one's.
if [ "$part" = check ]; then
  rm -f "$results"/losses-*.json "$results"/losses.log "$results"/doctor.json "$results"/doctor.log "$results"/*-again-*.log
else
  rm -f "$results"/bench-*.json "$results"/peer-*.json
fi
failed=0
trap 'tar -czf "$results.tar.gz" -C "$results" .' EXIT

# What a log says of a failure: failed tests and their errors, or its end.
essence() {
  if grep -q '^(fail)' "$1"; then
    grep -E '^(error: |\(fail\)| +[0-9]+ fail)' "$1" | cut -c 1-300 | head -n 40
  else
    tail -n 15 "$1"
  fi
}

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
    essence "$results/$name.log" | sed 's/^/         /'
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

# tests NAME SECONDS FILES OR FOLDERS… [-t PATTERN]: by several processes, as most of the time goes to references on the CPU.
tests() {
  local name="$1" processes
  processes="$(nproc)"
  [ "$processes" -le 8 ] || processes=8
  NEFTUNE_TEST_BACKENDS=$backend step "$name" "$2" "$bun" test --parallel="$processes" --timeout 120000 "${@:3}" && return
  again "$name"
}

# The first files of a step that have failed tests, each alone. Launches wait until their kernel has run, so that an error
# is told by the call that made it.
again() {
  local file
  while read -r file; do
    CUDA_LAUNCH_BLOCKING=1 NEFTUNE_TEST_BACKENDS=$backend step "$1-again-$(basename "$file" .test.ts)" 40 \
      "$bun" test --timeout 120000 "./$file"
  done < <(awk '/\.test\.ts:$/ { file = substr($0, 1, length($0) - 1) } /^\(fail\)/ && !seen[file]++ { print file }' \
    "$results/$1.log" | head -n 5)
}

# cuBLASLt and NCCL are often in a Python environment that nothing else points to.
if command -v "$python" >/dev/null; then
  packages="$("$python" -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null)"
  for wheel in cu13 cublas; do
    [ -z "${NEFTUNE_CUDA_HOME:-}" ] && [ -d "$packages/$wheel/lib" ] && export NEFTUNE_CUDA_HOME="$packages/$wheel"
  done
  case "$packages" in
    */lib/python3*/nvidia) export VIRTUAL_ENV="${VIRTUAL_ENV:-${packages%/lib/python3*}}" ;;
  esac
fi

# What the numbers are of.
machine='
  nvidia-smi
  nvidia-smi -q -d CLOCK,POWER,MEMORY,COMPUTE
  uname -a
  env | grep -E "^(NEFTUNE|CUDA|NVIDIA|LD_LIBRARY|VIRTUAL_ENV|CONDA)"
  "$0" -c "import importlib.metadata as m; print(*(d.name + \" \" + d.version for d in m.distributions()), sep=\"\\n\")" |
    grep -iE "^(torch|peft|transformers|nvidia|unsloth|bitsandbytes)"'

check() {
  step machine 15 sh -c "$machine; true" "$python"
  step doctor 40 sh -c '"$0" doctor --json >"'"$results"'/doctor.json" && "$0" doctor' "$neftune"
  cat "$results/doctor.log"
  if [ -n "$rehearsal" ]; then
    tests kernels 100 test/kernels/swiglu.test.ts test/kernels/rope.test.ts
    tests goldens 60 test/golden/model.test.ts -t "forward: logits"
    work=(--shape m25 --batch-size 1 --max-length 24 --steps 2 --warmup 1)
  else
    # Alone: it looks at how much of the GPU's memory is in use.
    tests device 40 test/kernels/device.test.ts
    mapfile -t kernels < <(ls test/kernels/*.test.ts | grep -v '/device\.test')
    tests kernels 150 "${kernels[@]}"
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
    tests end-to-end 120 test/e2e/cuda.test.ts
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
