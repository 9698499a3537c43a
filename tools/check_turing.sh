#!/usr/bin/env bash
# What the code for Turing (sm_75) takes, read from the object files of a build: no Turing card need be at hand to see that
# every kernel can be launched on one. Prints a line for each that cannot; status 1 if any; 77 where there is nothing to read.
#
#   tools/check_turing.sh BUILD_FOLDER      CUOBJDUMP names the tool, else it is looked for in PATH and /usr/local/cuda/bin
#
# What a multiprocessor of Turing has, 64 KB of shared memory for a block and 65,536 registers, is compared with each kernel's
# threads (__launch_bounds__) and registers, static shared memory and what its launch adds to it. A kernel may spill what is
# written down below and no more. Copies past the registers and products of bf16 do not compile for sm_75; that none is there
# is looked at all the same.
set -euo pipefail
build="${1:?usage: tools/check_turing.sh BUILD_FOLDER}"
dump="${CUOBJDUMP:-$(command -v cuobjdump || echo /usr/local/cuda/bin/cuobjdump)}"
if ! [ -x "$dump" ]; then
  echo "skipped: cuobjdump is not here (it comes with NVIDIA's toolkit, package cuda-cuobjdump)"
  exit 77
fi
kernels=0
failed=0
objects=0
while IFS= read -r object; do
  # Readers read to the end: one that stops early ends the pipe with an error, and the file would be left out.
  elfs="$("$dump" --list-elf "$object" 2> /dev/null || true)"
  [[ "$elfs" == *sm_75* ]] || continue
  objects=$((objects + 1))
  table="$({ "$dump" -arch sm_75 -elf "$object"; "$dump" -arch sm_75 -res-usage "$object"; } 2> /dev/null | awk -v object="$(basename "$object")" '
    # The longest dynamic shared memory of a launch, in bytes: heads of 256 (flash_attention.cu asserts it), and a row that a
    # block of a product makes ready for itself, for which CudaOps::makes_own_rows leaves all but 41 KB. Products of one row
    # ask for what is left beside kStaticShared; those of NF4 count what else they have themselves, those of batches all.
    function dynamic(name) {
      return name ~ /flash_kernel|row_product_kernel/ ? 63 * 1024 : name ~ /[0-9]product_kernel/ ? (64 - 41) * 1024 : 0
    }
    # Spills that were looked at, in bytes a thread. They cost time and nothing else. The finish of LLM.int8 keeps to 128
    # registers, for two blocks on a multiprocessor (docs/performance.md); the int8 product of rows made ready before sets one
    # number of each of its matrices aside, once, to stay within 64; attention of two heads of 64 has one number too many.
    function allowed(name) {
      return name ~ /finish_kernelILb1E/ ? 136 : name ~ /product_kernelILNS0_12WeightFormatE2E|attend_by_lanes_kernelILi4ELi2E/ ? 8 : 0
    }
    function number(hex,   i, value) {
      for (i = 3; i <= length(hex); ++i) value = value * 16 + index("0123456789abcdef", substr(hex, i, 1)) - 1
      return value
    }
    function bad(text) { printf "%s: %s: %s\n", object, name, text; ++failures }
    /^\.nv\.info\./ { of = substr($1, 10) }
    /EIATTR_MAX_THREADS/ { want = 1 }
    want && /Value:/ { threads[of] = number($2); want = 0 }
    $1 == "Function" { name = $2; sub(/:$/, "", name) }
    $1 ~ /^REG:/ {
      split("", found)
      for (i = 1; i <= NF; ++i) { split($i, pair, ":"); found[pair[1]] = pair[2] }
      ++kernels
      if (!(name in threads)) { bad("no __launch_bounds__"); next }
      registers = int((found["REG"] + 7) / 8) * 8 * threads[name]
      if (registers > 65536) bad(registers " registers for " threads[name] " threads")
      if (found["SHARED"] + dynamic(name) > 65536) bad(found["SHARED"] " + " dynamic(name) " bytes of shared memory")
      if (found["LOCAL"] + found["STACK"] > allowed(name))
        bad("keeps " found["STACK"] " bytes outside registers, " allowed(name) " are allowed")
    }
    END { print "kernels " kernels; exit (failures > 0) }')" || failed=1
  grep -v '^kernels ' <<< "$table" || true
  kernels=$((kernels + $(sed -n 's/^kernels \([0-9]*\)$/\1/p' <<< "$table")))
  found="$("$dump" -arch sm_75 -sass "$object" 2> /dev/null | awk '/LDGSTS|BF16|UBLKCP/ && !seen++')" || found="its code cannot be read"
  if [ -n "$found" ]; then
    echo "$(basename "$object"): not Turing's: $found"
    failed=1
  fi
done < <(find "$build/src/backend/cuda" -name '*.cu.o' | sort)
if [ $objects -eq 0 ]; then
  echo "skipped: $build has no code for sm_75"
  exit 77
fi
[ $failed -eq 0 ] && echo "sm_75: all $kernels kernels of $objects files fit"
exit $failed
