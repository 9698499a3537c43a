#!/usr/bin/env bash
# Other CPUs than this one, in qemu's user mode:
#   tools/qemu_checks.sh avx2 BUILD_FOLDER      a CPU with AVX2 and no AVX-512 (Haswell) computes the goldens' logits and
#                                               generates the same text as this machine's AVX2 kernels
#   tools/qemu_checks.sh refusal BUILD_FOLDER   a CPU without AVX (Nehalem) starts the program, which says what is missing
#                                               and ends with exit code 68; nothing before that may be an illegal instruction
# BUILD_FOLDER is one that a preset has built, such as build/release. Ends with 77 (skipped) where qemu is missing or too
# old to know AVX2 (before 7.2).
set -euo pipefail
usage() { sed -n '2,9s/^# \{0,1\}//p' "$0"; echo "$*"; exit 64; }
[ $# -eq 2 ] || usage
check="$1"
build="$2"
program="$build/src/app/quantbench"
case "$check" in
  avx2) needed=("$program" "$build/src/engine/engine_test") ;;
  refusal) needed=("$program") ;;
  *) usage "There is no check '$check'." ;;
esac
for file in "${needed[@]}"; do
  [ -x "$file" ] || usage "There is no $file; build first: cmake --preset release && cmake --build --preset release"
done

qemu="$(command -v qemu-x86_64 || command -v qemu-x86_64-static || true)"
if [ -z "$qemu" ]; then
  echo "skipped: qemu-x86_64 is not here (package qemu-user)"
  exit 77
fi
version="$("$qemu" --version | sed -n 's/^qemu-x86_64 version \([0-9]*\.[0-9]*\).*/\1/p')"
if [ "$(printf '%s\n7.2\n' "$version" | sort -V | head -n 1)" != 7.2 ]; then
  echo "skipped: qemu $version emulates no AVX2; 7.2 is the first that does"
  exit 77
fi
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
# qemu warns of features of that CPU which it does not emulate; ours to care about are AVX2, FMA and F16C alone.
# The filter runs after the program, not beside it, so that all it said is there once this returns.
on() {
  local status=0
  "$qemu" -cpu "$@" 2> "$scratch/stderr" || status=$?
  grep -v "TCG doesn't support requested feature" "$scratch/stderr" >&2 || true
  return $status
}

avx2() {
  on Haswell "$build/src/engine/engine_test" --gtest_brief=1 --gtest_filter='*Goldens*/cpu_*' | tee "$scratch/goldens"
  if ! grep -q '^\[==========\] [1-9]' "$scratch/goldens"; then echo "no golden was computed"; return 1; fi
  for precision in fp16 int8 4bit; do
    local flags=(generate --model-id bundled --precision "$precision" --max-new-tokens 16 --prompt "It was a dark night,")
    on Haswell "$program" "${flags[@]}" > "$scratch/emulated"
    if ! grep -q '[a-z]' "$scratch/emulated"; then echo "$precision: no text"; return 1; fi
    if grep -q avx2 /proc/cpuinfo; then
      QUANTBENCH_ISA=avx2 "$program" "${flags[@]}" > "$scratch/here"
      if ! cmp -s "$scratch/here" "$scratch/emulated"; then
        echo "$precision: the text differs from this machine's AVX2 kernels':"
        diff "$scratch/here" "$scratch/emulated" || true
        return 1
      fi
    fi
    echo "$precision: $(tr '\n' ' ' < "$scratch/emulated")"
  done
}

refusal() {
  local status
  for arguments in "--version" "--help" "run --help"; do
    on Nehalem "$program" $arguments > "$scratch/out" || { echo "$arguments: exit code $?, expected 0"; return 1; }
  done
  # Not `run`: its worker process would be started outside the emulation.
  for arguments in "generate --max-new-tokens 2" "generate --max-new-tokens 2 --device cpu" doctor; do
    status=0
    on Nehalem "$program" $arguments > "$scratch/out" 2> "$scratch/err" || status=$?
    if [ $status -ne 68 ]; then echo "$arguments: exit code $status, expected 68"; return 1; fi
    if ! grep -q 'lacks AVX2' "$scratch/out" "$scratch/err"; then echo "$arguments: the message does not name AVX2"; return 1; fi
  done
  echo "refused with exit code 68: $(grep -h -o 'the cpu backend cannot run.*' "$scratch/out" "$scratch/err" | head -n 1)"
}

"$check"
