#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in stages; prints one table at the end. Runs from the root of a copy of this tree, with
# the programs that the preset gpu-check makes (they need no library that a bare system lacks):
#   cmake --preset gpu-check && cmake --build --preset gpu-check && cmake --install build/gpu-check --strip
#   tools/gpu_check.sh [--programs FOLDER] [--out FOLDER] [--pack FILE.tar.gz] [STAGE…]
#
#   start     the program finds the card, measures on it by itself, and records it as nvidia-smi names it
#   ops       the op tests, single linears, goldens and sessions of the CUDA backend
#   figures   decoding, by the project's own bench, beside the read rate of the same run
#   batches   decoding of 1 to 32 sequences, each beside it alone, and prompts of 8 tokens
#   op_figures  each op × format of the real shapes alone: µs, GB/s, share of the read rate
#   sanitize  compute-sanitizer memcheck over the persistent kernel, and with racecheck over the op tests of the small shape
#   parity    whole models beside transformers and bitsandbytes' arithmetic (tools/parity.py; python3 with torch and
#             transformers); made of parity_llama and parity_phi
#   soak      every bit of all logits must repeat; made of soak_MODEL_PRECISION (llama or phi; fp16, int8 or 4bit), 100,000
#             tokens each, and chaos_MODEL_PRECISION, 10,000 of a build whose persistent kernel waits at random, where
#             build/gpu-check-chaos-folder is: hashes as without
#   turing    the op tests and goldens by a build of compute_75 PTX alone, where build/gpu-check-turing-folder is
# The last two need their own builds (X: chaos or turing):
#   cmake --preset gpu-check-X && cmake --build --preset gpu-check-X && cmake --install build/gpu-check-X --strip --component checks
# Each stage (of parity and soak: each part) takes at most five minutes, each run in it has a limit of its own. Output goes
# to the out folder, and into the packed file, as it comes; a run that fails does not stop the others. Exit status 1 if any
# failed.
set -uo pipefail
programs=build/gpu-check-folder/bin
chaos_programs=build/gpu-check-chaos-folder/bin
turing_programs=build/gpu-check-turing-folder/bin
out=build/gpu-check-results
packed=""
all_stages=(start ops figures batches op_figures sanitize parity soak turing)
parity_stages=(parity_llama parity_phi)
soak_stages=({soak,chaos}_{llama,phi}_{fp16,int8,4bit})
stages=()
while [ $# -gt 0 ]; do
  case " $1 " in
    " --programs ") programs="${2:?}"; shift 2 ;;
    " --out ") out="${2:?}"; shift 2 ;;
    " --pack ") packed="$(realpath -m "${2:?}")"; shift 2 ;;
    *)
      # One name: with its blanks replaced, "ops figures" is none.
      case " ${all_stages[*]} ${parity_stages[*]} ${soak_stages[*]} " in
        *" ${1// /?} "*) stages+=("$1"); shift ;;
        *) sed -n '2,29s/^# \{0,1\}//p' "$0"; exit 64 ;;
      esac ;;
  esac
done
[ ${#stages[@]} -gt 0 ] || stages=("${all_stages[@]}")
mkdir -p "$out"
if [ -e "$out/table.txt" ]; then
  rm -f "$out"/*.txt  # of an earlier run
elif [ -n "$(ls -A "$out")" ]; then
  echo "gpu_check: $out holds something else than results; name another folder with --out"
  exit 64
fi
rows=()
failed=0
stage_end=0

# row NAME VERDICT SECONDS TEXT
row() {
  rows+=("$(printf '%-32s %-18s %4d s  %s' "$1" "$2" "$3" "$(cut -c1-170 <<< "$4")")")
  echo "${rows[-1]}" | tee -a "$out/table.txt"
  if [ -n "$packed" ]; then tar -czf "$packed.new" -C "$out" . && mv "$packed.new" "$packed"; fi
}
skip() { row "$1" skipped 0 "$2"; }

# run NAME SECONDS COMMAND…: one row of the table.
run() {
  local name="$1" limit="$2" left=$((stage_end - SECONDS)) start=$SECONDS status=0
  shift 2
  [ "$left" -ge "$limit" ] || limit=$((left > 1 ? left : 1))
  timeout "$limit" "$@" > "$out/$name.txt" 2>&1 || status=$?
  [ $status -eq 0 ] || failed=1
  local verdict="passed"
  [ $status -eq 0 ] || verdict="FAILED ($status)"
  [ $status -ne 124 ] || verdict="FAILED (over $limit s)"
  row "$name" "$verdict" $((SECONDS - start)) "$(tail -n 1 "$out/$name.txt")"
  return $status
}

export QB_REQUIRE_GPU=1  # a test that finds none fails
start() {
  local uuid share="$programs/../share/quantbench/models"
  # The model need not be carried twice.
  if [ ! -e "$share/bundled" ]; then mkdir -p "$share" && ln -s "$PWD/models/bundled" "$share/bundled"; fi
  run start_doctor 60 "$programs/quantbench" doctor --device cuda
  rm -rf "$out/start_records"
  run start_run 120 "$programs/quantbench" run -r 3 --max-new-tokens 32 --out "$out/start_records"
  uuid="$(nvidia-smi --query-gpu=uuid --format=csv,noheader | head -n 1)"
  run start_names_the_card 10 grep -c "\"uuid\": \"$uuid\"" "$out"/start_records/*.json
  run start_without_the_card 60 env CUDA_VISIBLE_DEVICES= "$programs/quantbench" generate --max-new-tokens 4
}
ops() {
  run ops_test 150 "$programs/ops_test" --gtest_brief=1
  run engine_test 120 "$programs/engine_test" --gtest_brief=1 '--gtest_filter=*cuda*'
}
figures() {
  local model engine
  local bench=("$programs/bench_decode" --device cuda --rounds 5 -n 64 -p 8 --read-bytes 2576980378)
  for model in meta-llama/Llama-3.2-1B microsoft/phi-2; do
    for engine in persistent graph; do
      run "decode_${model#*/}_$engine" 60 "${bench[@]}" --model-id "$model" --engine "$engine" \
        --precision fp16,int8,4bit --check 32 --prefill-rounds $([ $engine = graph ] && echo 5 || echo 0)
      # What outliers cost. The two engines cannot be held to one another here: where an output rounds the other way, an
      # activation can cross the threshold, and from there on they differ. engine_test and ops_test check outliers.
      run "decode_${model#*/}_${engine}_outliers" 60 "${bench[@]}" --model-id "$model" --engine "$engine" \
        --precision int8 --outlier-channels 16 --prefill-rounds $([ $engine = graph ] && echo 5 || echo 0)
    done
  done
}
batches() {
  local model bench=("$programs/bench_decode" --device cuda --engine graph)
  for model in meta-llama/Llama-3.2-1B microsoft/phi-2; do
    run "batches_${model#*/}" 90 "${bench[@]}" --model-id "$model" -b 1,2,4,8,16,32 -n 16 --rounds 2 --prefill-rounds 0
    run "prompt8_${model#*/}" 30 "${bench[@]}" --model-id "$model" --rounds 0 --prefill 8 --prefill-rounds 12
  done
}
sanitize() {
  if ! command -v compute-sanitizer > /dev/null; then
    skip sanitize "compute-sanitizer is not here"
    return
  fi
  run sanitize_memcheck_persistent 60 compute-sanitizer --tool memcheck --error-exitcode 9 "$programs/bench_decode" \
    --device cuda --engine persistent --precision fp16,int8,4bit -n 2 -p 4 --rounds 1 --prefill-rounds 0 --check 0
  local tool
  for tool in memcheck racecheck; do
    run "sanitize_$tool" 140 compute-sanitizer --tool "$tool" --error-exitcode 9 "$programs/ops_test" --gtest_brief=1 \
      '--gtest_filter=*small_1:*small_5:*odd_5'
  done
}
op_figures() {
  run op_figures 290 "$programs/ops_bench" --device=cuda '--benchmark_filter=llama|phi'
}
# parity_part MODEL
parity_part() {
  local name="parity_${1#*/}"
  if ! python3 -c 'import torch, transformers; assert torch.cuda.is_available()' 2> /dev/null; then
    skip "$name" "python3 here has no torch with CUDA, or no transformers"
    return
  fi
  run "$name" 290 python3 tools/parity.py --program "$programs/engine_check" --model "$1" --out "$out/$name"
}
parity() {
  local part
  for part in "${parity_stages[@]}"; do stage "$part"; done
}
# soak_run NAME LIMIT FOLDER MODEL PRECISION ENGINE ARGUMENT…
soak_run() {
  local name="$1" limit="$2" folder="$3" model="$4" precision="$5" engine="$6"
  shift 6
  run "$name" "$limit" "$folder/engine_check" --device cuda --model "$model" --precision "$precision" --engine "$engine" soak "$@"
}
# soak_part MODEL PRECISION: the graph engine, whose order is CUDA's, less often.
soak_part() {
  soak_run "soak_${1#*/}_${2}_persistent" 260 "$programs" "$1" "$2" persistent --tokens 100000
  soak_run "soak_${1#*/}_${2}_graph" 60 "$programs" "$1" "$2" graph --tokens 1 --generations 10
}
# chaos_part MODEL PRECISION: one pass of each build. Prompts without cuBLASLt, whose kernels are chosen by a timing and so
# may be others, with other roundings, in another process.
chaos_part() {
  local name="chaos_${1#*/}_$2"
  if [ ! -x "$chaos_programs/engine_check" ]; then
    skip "$name" "$chaos_programs/engine_check is not here"
    return
  fi
  export QUANTBENCH_CUBLASLT=off
  soak_run "${name}_without" 60 "$programs" "$1" "$2" persistent --tokens 1 --passes 1
  soak_run "$name" 230 "$chaos_programs" "$1" "$2" persistent --tokens 1 --passes 1
  unset QUANTBENCH_CUBLASLT
  run "${name}_hash" 10 bash -c '
    hash() { grep -o "hash [0-9a-f]\{16\}" "$1"; }
    echo "without: $(hash "$1"), with chaos: $(hash "$2")"
    grep -q "chaos build" "$2" && [ -n "$(hash "$1")" ] && [ "$(hash "$1")" = "$(hash "$2")" ]' \
    _ "$out/${name}_without.txt" "$out/$name.txt"
}
soak() {
  local part
  for part in "${soak_stages[@]}"; do stage "$part"; done
}
turing() {
  if [ ! -x "$turing_programs/ops_test" ]; then
    skip turing "$turing_programs/ops_test is not here"
    return
  fi
  # The driver compiles what each test is the first to use.
  run turing_ops_test 180 "$turing_programs/ops_test" --gtest_brief=1
  run turing_engine_test 110 "$turing_programs/engine_test" --gtest_brief=1 '--gtest_filter=*cuda*'
}

command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/gpu.txt"
# stage NAME: within five minutes.
stage() {
  local kind model precision
  stage_end=$((SECONDS + 300))
  IFS=_ read -r kind model precision <<< "$1"
  case "$model" in
    llama) "${kind}_part" meta-llama/Llama-3.2-1B "$precision" ;;
    phi) "${kind}_part" microsoft/phi-2 "$precision" ;;
    *) "$1" ;;
  esac
}
for name in "${stages[@]}"; do stage "$name"; done
echo
printf '%s\n' "${rows[@]}"
for file in "$out"/decode_*.txt; do [ -f "$file" ] && cat "$file"; done
exit $failed
