#!/usr/bin/env bash
# One command for every test: installs what is missing, builds with warnings as errors, runs the unit tests, the checks of
# the tree and those of the program, and fuzzes for a minute; skips aloud what this machine cannot run. The last line is the
# count.
#
#   ./test.sh [--full] [CTEST ARGUMENT…]     --full: also builds with g++-11 where it is installed, and runs the unit tests
#                                            under the address and undefined-behaviour sanitizers and that of threads
#                                            With CTEST ARGUMENTs (-R NAME) just these tests are run, without fuzzing
case "${1:-}" in
  -h | --help)
    sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac
. "$(dirname "${BASH_SOURCE[0]}")/tools/setup.sh"

full=0
if [ "${1:-}" = --full ]; then
  full=1
  shift
fi
passed=0
failed=0
skipped=0
notes=""

# run_tests PRESET [CTEST ARGUMENT…]: ctest shows a line a test on the terminal and the output of those that fail.
run_tests() {
  local preset="$1" status=0 folder="$QB_ROOT/build/$1" before=$failed counts p f s
  shift
  qb_say "Testing ($preset)"
  mkdir -p "$folder/Testing/Temporary"
  : > "$folder/Testing/Temporary/LastTest.log"
  # Tests run side by side: pinned, they would share the first CPU and leave the others idle.
  (cd "$QB_ROOT" && QUANTBENCH_PIN_THREADS=0 ctest --preset "$preset" --no-tests=error --parallel "$(nproc)" "$@") 2>&1 |
    tee "$folder/ctest_output.txt" || status=$?
  cat "$folder/Testing/Temporary/LastTest.log" >> "$QB_LOG"
  counts="$(awk -f "$QB_ROOT/tools/count_tests.awk" "$folder/ctest_output.txt" "$folder/Testing/Temporary/LastTest.log")"
  read -r p f s <<< "$counts"
  passed=$((passed + p))
  failed=$((failed + f))
  skipped=$((skipped + s))
  notes+="$(tail -n +2 <<< "$counts" | sed "s/^/$preset: /")"$'\n'
  if [ $status -ne 0 ] && [ "$failed" -eq "$before" ]; then
    failed=$((failed + 1))
    notes+="$preset: failed: ctest ended with status $status"$'\n'
  fi
}

# A check that is a step of its own and not a ctest test.
check() {
  local name="$1"
  shift
  if qb_try "$name" "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    notes+="failed: $name"$'\n'
  fi
}

# A minute of fuzzing, shared out to its targets. What it finds is in build/fuzz/findings.
fuzz() {
  local status=0 output
  qb_say "Fuzzing (tools/fuzz.sh, 60 seconds and the time to build)"
  output="$("$QB_ROOT/tools/fuzz.sh" --seconds 60 2>&1)" || status=$?
  printf '%s\n' "$output" >> "$QB_LOG"
  if [ $status -eq 77 ]; then
    skipped=$((skipped + 1))
    notes+="skipped: fuzzing: ${output##*skipped: }"$'\n'
    return
  fi
  grep -E '^(target|[a-z]+) +[a-z0-9-]+ +[a-z0-9-]+ +[a-z0-9-]+ |FOUND|findings/|FAILED' <<< "$output" || true
  if [ $status -eq 0 ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    notes+="failed: fuzzing (status $status; build/logs/fuzz.log)"$'\n'
  fi
}

qb_begin test
qb_install "${QB_PACKAGES[@]}" "${QB_TEST_PACKAGES[@]}"
qb_configure ci
qb_build ci
run_tests ci "$@"
[ $# -gt 0 ] || fuzz

if [ $full -eq 1 ]; then
  if command -v g++-11 > /dev/null; then
    check "Configuring (gcc11)" qb_in_root cmake --preset gcc11 "${QB_LAUNCHER[@]}"
    check "Building (gcc11)" cmake --build "$QB_ROOT/build/gcc11"
  else
    skipped=$((skipped + 1))
    notes+="skipped: build with g++-11: it is not installed"$'\n'
  fi
  check "Unit tests under sanitizers (tools/sanitize.sh)" "$QB_ROOT/tools/sanitize.sh"
fi

echo
grep -v '^$' <<< "$notes" || true
if [ $skipped -gt 0 ]; then
  qb_say "$passed passed, $failed failed, $skipped skipped"
else
  qb_say "$passed passed, $failed failed"
fi
[ $failed -eq 0 ]
