#!/usr/bin/env bash
# Whether the folder of the preset portable may be handed out: its size, that the CUDA backend is in, that it needs nothing of this system but glibc of
# the version that is promised, and that it runs from another place; as root also in a root folder that holds glibc and
# nothing else.
#   cmake --preset portable && cmake --build --preset portable && cmake --install build/portable --strip
#   tools/portable_checks.sh [--cpu-only] [FOLDER]       by default build/quantbench, skipped where that was not made
#   tools/portable_checks.sh --self-test
# The preset leaves the CUDA backend out where nvcc is not found: a folder without it is for CPUs, and --cpu-only says so. Its
# size holds for nvcc 13 or newer, which makes kernels small (--compress-mode=size).
set -euo pipefail

# cuda_verdict SAID CPU_ONLY: SAID what `quantbench doctor` printed, CPU_ONLY 1 if the backend may be missing.
cuda_verdict() {
  local missing='built without its CUDA backend'
  if ! grep -q '^GPU ' <<< "$1"; then
    echo "the program does not say whether the CUDA backend is in"
    return 1
  fi
  if [[ "$1" != *"$missing"* ]]; then
    echo "CUDA backend: in"
  elif [ "$2" -eq 1 ]; then
    echo "CUDA backend: not in, as --cpu-only allows"
  else
    echo "the CUDA backend is not in ($(sed -n "s/^GPU .*$missing[;,] *//p" <<< "$1" | head -n 1)); or is it for CPUs alone (--cpu-only)?"
    return 1
  fi
}

self_test() {
  local failed=0
  # expect STATUS WORDS CPU_ONLY SAID
  expect() {
    local status=0 said
    said="$(cuda_verdict "$4" "$3")" || status=$?
    if [ $status -ne "$1" ] || [[ "$said" != *"$2"* ]]; then echo "WRONG: '$4', $3: $status, '$said'"; failed=1; fi
  }
  local without='GPU    no NVIDIA driver was found, and this program was built without its CUDA backend; CMake found: no nvcc; install it'
  expect 0 'CUDA backend: in' 0 'GPU    cuda:0: some card'
  expect 0 'CUDA backend: in' 1 $'CPU   some\nGPU    no NVIDIA driver was found (libcuda.so.1); install it'
  expect 1 '(CMake found: no nvcc; install it)' 0 "$without"
  expect 1 'not in' 0 'GPU    some card: not used: this program was built without its CUDA backend; CMake found: no nvcc; install it'
  expect 0 'not in, as --cpu-only allows' 1 "$without"
  expect 1 'does not say' 0 ''
  expect 1 'does not say' 1 'error while loading shared libraries'
  return $failed
}

if [ "${1:-}" = --self-test ]; then
  self_test
  exit
fi
cpu_only=0
if [ "${1:-}" = --cpu-only ]; then
  cpu_only=1
  shift
fi
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="${1:-$root/build/quantbench}"
most_bytes=$((25 << 20))
most_glibc=2.35
glibc='^(ld-linux.*|libc|libm|libdl|libpthread|librt)\.so'
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
failed=0
bad() { echo "WRONG: $*"; failed=1; }

if [ $# -eq 0 ] && [ ! -e "$folder" ]; then
  echo "skipped: no portable folder was made in build/quantbench (the preset portable, README.md)"
  exit 77
fi
[ -x "$folder/bin/quantbench" ] || { echo "there is no program in $folder/bin; make it as the head of this script says"; exit 64; }
size_of() { find "$@" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }'; }
bytes="$(size_of "$folder")"
echo "size: $((bytes >> 10)) KiB, of which program and libraries $(($(size_of "$folder/bin" "$folder/lib") >> 10)) KiB"
[ "$bytes" -le "$most_bytes" ] || bad "more than $((most_bytes >> 20)) MiB (with CUDA kernels these hold with nvcc 13 or newer)"
said="$(cuda_verdict "$(env -i "$folder/bin/quantbench" doctor --device reference 2>&1)" $cpu_only)" && echo "$said" || bad "$said"

for file in "$folder"/bin/* "$folder"/lib/*; do
  name="$(basename "$file")"
  while read -r needed; do
    [[ "$needed" =~ $glibc ]] || [ -e "$folder/lib/$needed" ] || bad "$name needs $needed, which is not in lib/"
  done < <(objdump -p "$file" | awk '$1 == "NEEDED" { print $2 }')
  newest="$(objdump -T "$file" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -uV | tail -n 1)"
  [ "$(printf '%s\n%s\n' "$newest" "$most_glibc" | sort -V | tail -n 1)" = "$most_glibc" ] || bad "$name asks for glibc $newest, $most_glibc is promised"
  if [ "$(dirname "$file")" = "$folder/bin" ]; then
    runpath="$(objdump -p "$file" | awk '$1 == "RUNPATH" || $1 == "RPATH" { print $2 }')"
    [ "$runpath" = "\$ORIGIN/../lib" ] || bad "$name looks for libraries in '$runpath'"
  fi
done

# in_place WHAT COMMAND…: the program there says its version, sees the machine and writes text.
in_place() {
  local what="$1"
  shift
  if "$@" --version > "$scratch/out" 2>&1 && "$@" doctor >> "$scratch/out" 2>&1 &&
     "$@" generate --device cpu --max-new-tokens 4 >> "$scratch/out" 2>&1; then
    echo "runs $what"
  else
    bad "does not run $what:"
    sed 's/^/  /' "$scratch/out"
  fi
}
mkdir -p "$scratch/moved"
cp -a "$folder" "$scratch/moved/elsewhere"
in_place "from another folder" env -i "$scratch/moved/elsewhere/bin/quantbench"
if [ "$(id -u)" -eq 0 ] && command -v chroot unshare > /dev/null; then
  bare="$scratch/bare"
  mkdir -p "$bare/lib64" "$bare/proc" "$bare/opt"
  cp -L /lib64/ld-linux-x86-64.so.2 "$bare/lib64/"
  for library in libc.so.6 libm.so.6; do
    found="$(ldconfig -p | awk -v name=$library '$1 == name { print $NF; exit }')"
    mkdir -p "$bare$(dirname "$found")"
    cp -L "$found" "$bare$found"
  done
  cp -a "$folder" "$bare/opt/quantbench"
  # /proc is where the loader learns of the program's own folder; in a mount namespace, so that nothing stays mounted.
  in_place "where there is glibc and nothing else" unshare --mount bash -c '
    mount --make-rprivate / && mount -t proc proc "$1/proc" && root="$1" && shift && exec chroot "$root" "$@"' bash \
    "$bare" /opt/quantbench/bin/quantbench
else
  echo "skipped: a root folder with glibc alone takes root"
fi
# The .deb of it, from where it is unpacked; of the default folder, whose build is known.
if [ $# -eq 0 ] && [ -e "$root/build/portable/CPackConfig.cmake" ] && command -v dpkg-deb > /dev/null; then
  if (cd "$root/build/portable" && cpack -G DEB -B "$scratch/packages") > "$scratch/out" 2>&1; then
    dpkg-deb -x "$scratch"/packages/*.deb "$scratch/deb"
    in_place "from its .deb" env -i "$scratch/deb/usr/bin/quantbench"
  else
    bad "no .deb was made:"
    sed 's/^/  /' "$scratch/out"
  fi
fi
exit $failed
