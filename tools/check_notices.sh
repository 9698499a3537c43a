#!/usr/bin/env bash
# Whether the folder of the preset portable carries a notice for every library that THIRD_PARTY.md says is in the program.
# Configures that preset and installs its notices alone, so nothing is compiled.
#   tools/check_notices.sh [BUILD_FOLDER]       a scratch folder is made in it; by default build
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[ -r /usr/share/doc/libfmt-dev/copyright ] || { echo "skipped: this system does not keep its packages' notices in /usr/share/doc"; exit 77; }
scratch="$(mktemp -d "${1:-$root/build}/check_notices.XXXXXX")"
trap 'rm -rf "$scratch"' EXIT
cmake -S "$root" -B "$scratch/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DQB_PORTABLE=ON -DQB_TESTS=OFF -DQB_BENCH=OFF \
      -DQB_CUDA=off > "$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
cmake --install "$scratch/build" --prefix "$scratch/folder" --component notices > "$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }

failed=0
# LIBRARY as THIRD_PARTY.md names it, and words that its notice must have.
carries() {
  grep -qF "$1" "$root/THIRD_PARTY.md" || { echo "WRONG: THIRD_PARTY.md does not name $1"; failed=1; }
  grep -rqiF "$2" "$scratch/folder/notices" || { echo "WRONG: no notice of $1 (\"$2\") in notices/"; failed=1; }
}
carries '{fmt}' 'Victor Zverovich'
carries 'JSON for Modern C++' 'Niels Lohmann'
carries 'CLI11' 'University of Cincinnati'
carries 'Oniguruma' 'K.Kosako'
carries 'OpenSSL' 'OpenSSL Project'
carries 'libjpeg-turbo' 'Independent JPEG Group'
carries 'libpng' 'Glenn Randers-Pehrson'
carries 'libwebp' 'Google Inc'
carries 'zlib' 'Mark Adler'
# A build without D3 has no notice of it, as it has nothing of it.
[ ! -r /usr/share/doc/libjs-d3/copyright ] || carries 'D3' 'Michael Bostock'
carries 'libstdc++ and libgcc' 'GCC Runtime Library Exception'
# A library that the table gains needs a line above; NVIDIA's terms ask for no notice with a program.
in_program="$(awk -F'|' '/^## /{ exit } /^\| / && !/^\| library/ && !/not in the program/ && !/NVIDIA/' "$root/THIRD_PARTY.md" | wc -l)"
[ "$in_program" -eq 11 ] || { echo "WRONG: THIRD_PARTY.md has $in_program libraries in the program, this script knows 11"; failed=1; }
for file in LICENSE THIRD_PARTY.md; do
  [ -s "$scratch/folder/$file" ] || { echo "WRONG: $file is not in the folder"; failed=1; }
done
[ $failed -eq 0 ] && echo "notices: $(ls "$scratch/folder/notices" | tr '\n' ' ')"
exit $failed
