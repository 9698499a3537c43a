#!/usr/bin/env bash
# Sees that the program can start, and refuse politely, on any x86-64: AVX instructions may only be in functions that
# run after the CPU was asked. Two things can break that, and both are looked for in the object files of a build:
#   1. AVX instructions in a function whose name does not say so (…avx2…, …avx512…, …vnni…), in an object whose path does
#      not say so either: a flag set too widely;
#   2. an inline function of a header, compiled into a file of kernels with AVX and into another file without: the linker
#      keeps one of the two for the whole program, perhaps the wrong one.
#
#   tools/check_isa.sh BUILD_FOLDER         a folder that a preset has built, such as build/release
set -euo pipefail
if [ $# -ne 1 ] || [ ! -d "$1" ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0"
  [ $# -ne 1 ] || echo "There is no folder '$1'."
  exit 64
fi
build="$1"
if ! command -v objdump > /dev/null || ! command -v nm > /dev/null; then
  echo "skipped: objdump and nm (package binutils) are not here"
  exit 77
fi
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

mapfile -t objects < <(find "$build/src" -name '*.o' ! -name '*_test.cpp.o' ! -name '*_bench.cpp.o' 2> /dev/null | sort)
if [ ${#objects[@]} -eq 0 ]; then
  echo "no object files under $build/src; build first: cmake --preset release && cmake --build --preset release"
  exit 64
fi
kernels=()
others=()
for object in "${objects[@]}"; do
  if [[ "${object#"$build"/}" =~ (avx2|avx512|vnni) ]]; then kernels+=("$object"); else others+=("$object"); fi
done

status=0
for object in "${others[@]}"; do
  # Every AVX instruction starts with a v, which none does that a compiler writes for baseline x86-64; the rest is BMI2.
  objdump -d --no-show-raw-insn "$object" | awk '
    /^[0-9a-f]+ <.*>:$/ { name = $2; told = 0 }
    !told && /\t(v[a-z]|kmov|shlx|shrx|sarx|rorx|mulx|andn |bzhi|pdep |pext )/ && name !~ /avx2|avx512|vnni/ { print name, $0; told = 1 }
  ' > "$scratch/found"
  if [ -s "$scratch/found" ]; then
    echo "${object#"$build"/}: AVX in functions that may run on any CPU:"
    c++filt < "$scratch/found" | cut -c1-150 | head -5 | sed 's/^/    /'
    status=1
  fi
done

# The weak function symbols (W: inline functions and templates) that objects bring along, name by name.
weak_functions() { nm --defined-only "$@" 2> /dev/null | awk '$2 == "W" { print $3 }' | sort -u; }
if [ ${#kernels[@]} -gt 0 ]; then
  weak_functions "${others[@]}" > "$scratch/others"
  for object in "${kernels[@]}"; do
    weak_functions "$object" | comm -12 - "$scratch/others" > "$scratch/shared"
    if [ -s "$scratch/shared" ]; then
      echo "${object#"$build"/}: $(wc -l < "$scratch/shared") inline functions of headers are compiled with AVX here and" \
           "without it elsewhere; the linker keeps either. Keep headers with code out of this file:"
      c++filt < "$scratch/shared" | cut -c1-150 | head -8 | sed 's/^/    /'
      status=1
    fi
  done
fi
[ $status -eq 0 ] && echo "${#others[@]} objects keep AVX to functions named so, ${#kernels[@]} kernel objects share no inline function with them"
exit $status
