#!/usr/bin/env bash
# Whether the .deb and the .tar.gz that cpack makes of a build are whole: dependencies for every library, notices, and a program
# that runs from where they are unpacked and finds its model.
#   tools/check_packages.sh BUILD_FOLDER
set -euo pipefail
build="$(realpath "${1:?}")"
[ -x "$build/src/app/quantbench" ] || { echo "skipped: quantbench is not built in $build"; exit 77; }
command -v dpkg-shlibdeps > /dev/null || { echo "skipped: there is no dpkg-shlibdeps here (apt-get install dpkg-dev)"; exit 77; }
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
(cd "$build" && cpack -B "$scratch") > "$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
failed=0
wrong() { echo "WRONG: $*"; failed=1; }
depends="$(dpkg-deb -f "$scratch"/*.deb Depends)"
for library in $(objdump -p "$build/src/app/quantbench" | awk '/NEEDED/ { print $2 }'); do
  found=0
  packages="$(dpkg -S "*/$library" 2> /dev/null | sed 's/:.*//' | sort -u)"  # of other architectures too
  for package in $packages; do grep -qF "$package (" <<< "$depends" && found=1; done
  [ $found -eq 1 ] || wrong "$library is of ${packages:-no package}, which is not in: $depends"
done
dpkg-deb -x "$scratch"/*.deb "$scratch/deb"
mkdir "$scratch/tar"
tar xzf "$scratch"/*.tar.gz -C "$scratch/tar" --strip-components=1
for place in "$scratch/deb/usr" "$scratch/tar"; do
  "$place/bin/quantbench" --version > /dev/null || wrong "$place/bin/quantbench does not run"
  "$place/bin/quantbench" run --device cpu -p 8 --dry-run --no-probe > /dev/null 2> "$scratch/log" || wrong "no model: $(cat "$scratch/log")"
  [ -s "$place/share/quantbench/models/bundled/model.safetensors" ] || wrong "the bundled model is not in ${place##*/}"
  for file in copyright THIRD_PARTY.md docs/method.md notices/nlohmann-json3-dev.txt notices/libcli11-dev.txt; do
    [ -s "$place/share/doc/quantbench/$file" ] || wrong "$file is not in ${place##*/}"
  done
  [ ! -r /usr/share/doc/libjs-d3/copyright ] || [ -s "$place/share/doc/quantbench/notices/libjs-d3.txt" ] || wrong "no notice of D3"
done
[ $failed -eq 0 ] && echo "packages: $(cd "$scratch" && ls ./*.deb ./*.tar.gz | tr '\n' ' ') as they should be; depends: $depends"
exit $failed
