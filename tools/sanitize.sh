#!/usr/bin/env bash
# Runs the unit tests under the sanitizers of addresses and undefined behaviour (preset asan) and of threads (tsan): one test
# program after another, the next being built meanwhile. Status 1 if a test fails or something is reported.
#
#   tools/sanitize.sh [--seconds N] [--from N] [PRESET[:PROGRAM,…]…]   e.g. asan  tsan:core_test,bench_test  (default: all of both)
#     --seconds: shared out to the PRESETs that are left; what has not ended by then is ended, and said
#     --from: begins each list with its Nth program, counted round and round, so that runs that are too short for all of it see
#       all of it in turn
# A program that takes longer than it ever does (5 minutes; report_test, bench_test and engine_test 15, ops_test and app_test two
# hours) hangs, which is a failure too.
#
# A test that a program is to be run without under a sanitizer says so itself. Kernels for GPUs are looked at by tools/gpu_check.sh.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# What reads files of others first; ops_test and app_test take longest.
all=(core_test text_test checkpoint_test quant_test image_test hub_test import_test model_test report_test bench_test
  backend_test backend_cpu_test engine_test app_test ops_test)
seconds="" from=0 presets=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    --seconds) seconds="${2:?}"; shift ;;
    --from) from="${2:?}"; shift ;;
    asan | tsan | asan:* | tsan:*) presets+=("$1") ;;
    *) echo "no flag or preset '$1'; expected --seconds N, --from N, asan or tsan" >&2; exit 64 ;;
  esac
  shift
done
[ ${#presets[@]} -gt 0 ] || presets=(asan tsan)

qb_begin sanitize
export QUANTBENCH_PIN_THREADS=0 ASAN_OPTIONS="${ASAN_OPTIONS:-detect_stack_use_after_return=1}"
export LSAN_OPTIONS="${LSAN_OPTIONS:-suppressions=$QB_ROOT/tools/lsan.supp:print_suppressions=0}"
export TSAN_OPTIONS="${TSAN_OPTIONS:-suppressions=$QB_ROOT/tools/tsan.supp}"
result=0 begun=$SECONDS number=0 looked=0 late=()

# left END: seconds until then, at least one.
left() { local s=$(($1 - SECONDS)); echo $((s > 0 ? s : 1)); }
# limit PROGRAM END: of its run.
limit() {
  local most=300 s
  case "$1" in
    report_test | bench_test | engine_test) most=900 ;;
    ops_test | app_test) most=7200 ;;
  esac
  s="$(left "$2")"
  echo $((s < most ? s : most))
}

# run_preset PRESET[:PROGRAM,…] END
run_preset() {
  local preset="${1%%:*}" end="$2" folder program status output began count tests=() suites=("${all[@]}")
  [ "$1" = "$preset" ] || IFS=, read -r -a suites <<< "${1#*:}"
  suites=("${suites[@]:from % ${#suites[@]}}" "${suites[@]:0:from % ${#suites[@]}}")
  folder="$QB_ROOT/build/$preset"
  qb_configure "$preset"
  rm -rf "$folder/built"
  mkdir -p "$folder/built"
  (
    for program in "${suites[@]}"; do
      status=0
      timeout "$(left "$end")" cmake --build "$folder" --target "$program" > "$folder/built/log" 2>&1 || status=$?
      cp "$folder/built/log" "$folder/built/$program.log"
      echo $status > "$folder/built/status"
      mv "$folder/built/status" "$folder/built/$program"
      [ $status -ne 124 ] || break
    done
  ) &
  for program in "${suites[@]}"; do
    while [ ! -e "$folder/built/$program" ] && [ $SECONDS -lt "$end" ]; do sleep 0.5; done
    status="$(cat "$folder/built/$program" 2> /dev/null || echo 124)"
    if [ "$status" -eq 124 ]; then late+=("$preset:$program"); continue; fi
    if [ "$status" -ne 0 ]; then
      qb_say "$preset: $program could not be built:"
      tail -n 30 "$folder/built/$program.log"
      result=1
      continue
    fi
    output="$folder/built/$program.txt" status=0 began=$SECONDS
    tests=("$(find "$folder/src" -name "$program" -type f -perm -u+x)" --gtest_brief=1)
    timeout "$(limit "$program" "$end")" "${tests[@]}" > "$output" 2>&1 || status=$?
    if grep -q 'LeakSanitizer has encountered a fatal error' "$output"; then  # a process here may not be traced
      qb_say "$preset: leaks are not looked for: LeakSanitizer does not work on this machine"
      export ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0"
      status=0
      timeout "$(limit "$program" "$end")" "${tests[@]}" > "$output" 2>&1 || status=$?
    elif grep -q 'FATAL: ThreadSanitizer: unexpected memory mapping' "$output"; then
      status=0
      timeout "$(limit "$program" "$end")" setarch "$(uname -m)" -R "${tests[@]}" > "$output" 2>&1 || status=$?
      if grep -q 'setarch: \|unexpected memory mapping' "$output"; then
        qb_say "$preset: skipped: ThreadSanitizer cannot map its memory on this machine (vm.mmap_rnd_bits)"
        late+=("$preset:$program and what follows it") looked=$((looked + 1))
        wait
        return
      fi
    fi
    cat "$output" >> "$QB_LOG"
    count="$(sed -n 's/^\[  \(PASSED\|SKIPPED\) *\] \([0-9]*\) tests*\(, listed below:\|\.\)*$/\2 \1/p' "$output" | tr '[:upper:]' '[:lower:]' |
      paste -sd ' ') in $((SECONDS - began)) s"
    if [ $status -eq 124 ] && [ $SECONDS -ge "$end" ]; then
      late+=("$preset:$program")
    elif [ $status -eq 124 ]; then
      qb_say "$preset: $program FAILED: it hangs (ended after $((SECONDS - began)) s)"
      tail -n 5 "$output"
      result=1
    elif [ $status -eq 0 ] && ! grep -q '^\[  PASSED  \] [1-9]' "$output"; then
      qb_say "$preset: $program FAILED: it ran no test"
      result=1
    elif [ $status -ne 0 ]; then
      qb_say "$preset: $program FAILED (status $status): $count"
      grep -v '^Running main\|Skipped$' "$output" | tail -n 60
      result=1
    else
      qb_say "$preset: $program: $count"
      looked=$((looked + 1))
    fi
  done
  wait
}

end=$((seconds ? begun + seconds : begun + 1000000))
for preset in "${presets[@]}"; do
  run_preset "$preset" $((SECONDS + (end - SECONDS) / (${#presets[@]} - number)))
  number=$((number + 1))
done
if [ $looked -eq 0 ] && [ $result -eq 0 ]; then
  qb_say "FAILED: no program was looked at"
  result=1
fi
[ ${#late[@]} -eq 0 ] || qb_say "NOT LOOKED AT, for want of time: ${late[*]}"
[ $result -ne 0 ] || qb_say "sanitizers: nothing found"
exit $result
