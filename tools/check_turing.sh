#!/usr/bin/env bash
# What the code for Turing (sm_75) takes, read from the object files of a build: no Turing card need be at hand to see that
# every kernel can be launched on one. Prints a line for each that cannot; status 1 if any; 77 where there is nothing to read.
#
#   tools/check_turing.sh BUILD_FOLDER      CUOBJDUMP names the tool, else it is looked for in PATH and /usr/local/cuda/bin
#   tools/check_turing.sh --self-test       with a tool that says what the test wants
#
# What a multiprocessor of Turing has, 64 KB of shared memory for a block and 65,536 registers, is compared with each kernel's
# threads (__launch_bounds__) and registers, static shared memory and what its launch adds to it. A kernel may spill what is
# written down below and no more. Copies past the registers and products of bf16 do not compile for sm_75; that none is there
# is looked at all the same. What a launch adds is written down by the kernel's name; a name that is not there and uses shared
# memory though it has no static is refused. One that has static as well cannot be told from one that has static alone: the
# last line counts them.
set -euo pipefail

self_test() {
  local scratch failed=0
  scratch="$(mktemp -d)"
  mkdir -p "$scratch/src/backend/cuda"
  : > "$scratch/src/backend/cuda/some.cu.o"
  cat > "$scratch/dump" << 'END'
#!/bin/sh
case "$*" in
  --list-elf*) echo "ELF file 1: some.sm_75.cubin" ;;
  *-elf*) [ -z "$NAME" ] || printf '.nv.info.%s\n Attribute: EIATTR_MAX_THREADS\n Value: 0x40 0x1 0x1\n' "$NAME" ;;
  *-res-usage*) [ -z "$NAME" ] || printf ' Function %s:\n  REG:%s STACK:%s SHARED:%s LOCAL:0\n' "$NAME" "$REGISTERS" "$STACK" "$SHARED" ;;
  *-sass*) [ -z "$NAME" ] || printf '\t\tFunction : %s\n\t/*0000*/ %s ;\n' "$NAME" "$CODE" ;;
esac
END
  chmod +x "$scratch/dump"
  # expect STATUS WORDS VARIABLE=VALUE…
  expect() {
    local wanted="$1" words="$2" status=0 said
    shift 2
    said="$(env CUOBJDUMP="$scratch/dump" REGISTERS=32 STACK=0 SHARED=0 CODE=EXIT "$@" bash "${BASH_SOURCE[0]}" "$scratch")" || status=$?
    if [ $status -ne "$wanted" ] || [[ "$said" != *"$words"* ]]; then
      echo "WRONG: $*: $status instead of $wanted, without '$words': $said"
      failed=1
    fi
  }
  expect 0 'sm_75: all 1 kernels of 1 files fit' NAME=4some_kernel
  expect 1 'no kernel of its code for sm_75 was listed' NAME=
  expect 1 '131072 registers for 64 threads' NAME=4some_kernel REGISTERS=2048
  expect 1 'keeps 8 bytes outside registers' NAME=4some_kernel STACK=8
  expect 0 'fit' NAME=4some_kernel SHARED=65536 CODE='LDS.U R0, [R1]'
  expect 0 '1 of them have static shared memory, and that' NAME=4some_kernel SHARED=64 CODE='LDS.U R0, [R1]'
  expect 1 '65540 + 0 bytes of shared memory' NAME=4some_kernel SHARED=65540
  expect 1 '1028 + 64512 bytes of shared memory' NAME=12flash_kernel SHARED=1028
  expect 1 'uses dynamic shared memory of unknown size' NAME=4some_kernel CODE='LDS.U R0, [R1]'
  expect 1 'uses dynamic shared memory of unknown size' NAME=4some_kernel CODE='@P0 STS [R1], R0'
  expect 1 'uses dynamic shared memory of unknown size' NAME=4some_kernel CODE='ATOMS.ADD R0, [R1], R2'
  expect 0 'fit' NAME=20batch_product_kernel CODE='STS [R1], R0'
  expect 0 'fit' NAME=12flash_kernel CODE='STS [R1], R0'
  expect 1 "not Turing's" NAME=4some_kernel CODE='LDGSTS [R1], [R2]'
  rm -rf "$scratch"
  return $failed
}

if [ "${1:-}" = --self-test ]; then
  self_test
  exit
fi
build="${1:?usage: tools/check_turing.sh BUILD_FOLDER}"
dump="${CUOBJDUMP:-$(command -v cuobjdump || echo /usr/local/cuda/bin/cuobjdump)}"
if ! [ -x "$dump" ]; then
  echo "skipped: cuobjdump is not here (it comes with NVIDIA's toolkit, package cuda-cuobjdump)"
  exit 77
fi
kernels=0
with_static=0
failed=0
objects=0
while IFS= read -r object; do
  # Readers read to the end: one that stops early ends the pipe with an error, and the file would be left out.
  elfs="$("$dump" --list-elf "$object" 2> /dev/null || true)"
  [[ "$elfs" == *sm_75* ]] || continue
  objects=$((objects + 1))
  code="$("$dump" -arch sm_75 -sass "$object" 2> /dev/null || true)"
  table="$({ echo "$code"; "$dump" -arch sm_75 -elf "$object"; "$dump" -arch sm_75 -res-usage "$object"; } 2> /dev/null | awk -v object="$(basename "$object")" '
    # The longest dynamic shared memory of a launch, in bytes: heads of 256 (flash_attention.cu asserts it), and a row that a
    # block of a product makes ready for itself, for which CudaOps::makes_own_rows leaves all but 41 KB. Products of one row
    # ask for what is left beside kStaticShared; those of NF4 count what else they have themselves, those of batches all.
    # Less than 0: not known.
    function dynamic(name) {
      if (name ~ /flash_kernel|row_product_kernel/) return 63 * 1024
      if (name ~ /[0-9]product_kernel/) return (64 - 41) * 1024
      return name ~ /row_product_nf4_kernel|batch_product_kernel/ ? 0 : -1
    }
    # Spills that were looked at, in bytes a thread. They cost time and nothing else. The finish of LLM.int8 keeps to 128
    # registers, for two blocks on a multiprocessor (docs/performance.md).
    function allowed(name) { return name ~ /finish_kernelILb1E/ ? 136 : 0 }
    function number(hex,   i, value) {
      for (i = 3; i <= length(hex); ++i) value = value * 16 + index("0123456789abcdef", substr(hex, i, 1)) - 1
      return value
    }
    function bad(text) { printf "%s: %s: %s\n", object, name, text; ++failures }
    /^\.nv\.info\./ { of = substr($1, 10) }
    /EIATTR_MAX_THREADS/ { want = 1 }
    want && /Value:/ { threads[of] = number($2); want = 0 }
    $1 == "Function" && $2 == ":" { in_code = $3; next }
    in_code != "" && /[^A-Z](LDS|STS|ATOMS|LDSM)[. ]/ { shares[in_code] = 1 }
    $1 == "Function" { name = $2; sub(/:$/, "", name) }
    $1 ~ /^REG:/ {
      split("", found)
      for (i = 1; i <= NF; ++i) { split($i, pair, ":"); found[pair[1]] = pair[2] }
      ++kernels
      if (!(name in threads)) { bad("no __launch_bounds__"); next }
      registers = int((found["REG"] + 7) / 8) * 8 * threads[name]
      if (registers > 65536) bad(registers " registers for " threads[name] " threads")
      added = dynamic(name)
      if (added < 0) {
        added = 0
        if (found["SHARED"] > 0) ++with_static
        else if (name in shares) bad("uses dynamic shared memory of unknown size; name it in dynamic() of tools/check_turing.sh")
      }
      if (found["SHARED"] + added > 65536) bad(found["SHARED"] " + " added " bytes of shared memory")
      if (found["LOCAL"] + found["STACK"] > allowed(name))
        bad("keeps " found["STACK"] " bytes outside registers, " allowed(name) " are allowed")
    }
    END {
      if (!kernels) { print object ": no kernel of its code for sm_75 was listed by cuobjdump"; ++failures }
      print "kernels " kernels + 0, with_static + 0
      exit (failures > 0)
    }')" || failed=1
  grep -v '^kernels ' <<< "$table" || true
  read -r of_object static_of_object < <(sed -n 's/^kernels //p' <<< "$table")
  kernels=$((kernels + of_object))
  with_static=$((with_static + static_of_object))
  found="its code cannot be read"
  [ -z "$code" ] || found="$(awk '/LDGSTS|BF16|UBLKCP/ && !seen++' <<< "$code")"
  if [ -n "$found" ]; then
    echo "$(basename "$object"): not Turing's: $found"
    failed=1
  fi
done < <(find "$build/src/backend/cuda" -name '*.cu.o' | sort)
if [ $objects -eq 0 ]; then
  echo "skipped: $build has no code for sm_75"
  exit 77
fi
[ $failed -eq 0 ] && echo "sm_75: all $kernels kernels of $objects files fit; $with_static of them have static shared memory, \
and that their launches add none to it is not seen here"
exit $failed
