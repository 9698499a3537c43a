#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in stages; prints one table at the end. Runs from the root of a copy of this tree, with
# the programs that the preset gpu-check makes (they need no library that a bare system lacks):
#   cmake --preset gpu-check && cmake --build --preset gpu-check && cmake --install build/gpu-check --strip
#   tools/gpu_check.sh [--programs FOLDER] [--out FOLDER] [STAGE…]
#
#   start     the program finds the card, measures on it by itself, and records it as nvidia-smi names it
#   ops       the op tests, single linears, goldens and sessions of the CUDA backend
#   figures   decoding, by the project's own bench, beside the read rate of the same run
#   sanitize  compute-sanitizer memcheck and racecheck over the op tests of the small shape
# Each stage has a limit of its own, its output goes to the out folder as it comes, and one that fails does not stop the
# others. Exit status 1 if any failed.
set -uo pipefail
programs=build/gpu-check-folder/bin
out=build/gpu-check-results
stages=()
while [ $# -gt 0 ]; do
  case "$1" in
    --programs) programs="${2:?}"; shift 2 ;;
    --out) out="${2:?}"; shift 2 ;;
    start|ops|figures|sanitize) stages+=("$1"); shift ;;
    *) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 64 ;;
  esac
done
[ ${#stages[@]} -gt 0 ] || stages=(start ops figures sanitize)
mkdir -p "$out"
rm -f "$out"/*.txt  # of an earlier run
rows=()
failed=0

# run NAME SECONDS COMMAND…: one row of the table.
run() {
  local name="$1" limit="$2" start=$SECONDS status=0
  shift 2
  timeout "$limit" "$@" > "$out/$name.txt" 2>&1 || status=$?
  [ $status -eq 0 ] || failed=1
  local verdict="passed"
  [ $status -eq 0 ] || verdict="FAILED ($status)"
  [ $status -ne 124 ] || verdict="FAILED (over $limit s)"
  rows+=("$(printf '%-28s %-18s %4d s  %s' "$name" "$verdict" $((SECONDS - start)) "$(tail -n 1 "$out/$name.txt" | cut -c1-110)")")
  echo "${rows[-1]}"
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
sanitize() {
  if ! command -v compute-sanitizer > /dev/null; then
    rows+=("sanitize                     skipped: compute-sanitizer is not here")
    return
  fi
  local tool
  for tool in memcheck racecheck; do
    run "sanitize_$tool" 140 compute-sanitizer --tool "$tool" --error-exitcode 9 "$programs/ops_test" --gtest_brief=1 \
      '--gtest_filter=*small_1:*small_5:*odd_5'
  done
}

command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/gpu.txt"
for stage in "${stages[@]}"; do "$stage"; done
echo
printf '%s\n' "${rows[@]}" | tee "$out/table.txt"
for file in "$out"/decode_*.txt; do [ -f "$file" ] && cat "$file"; done
exit $failed
