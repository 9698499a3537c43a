#!/usr/bin/env bash
# Sees that every source file is as clang-format 14 would write it (other versions differ in small ways, so they are not
# asked). `tools/check_format.sh --fix` rewrites the files.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tool=""
for candidate in clang-format-14 clang-format; do
  if command -v "$candidate" > /dev/null && "$candidate" --version | grep -q 'version 14\.'; then tool="$candidate"; break; fi
done
if [ -z "$tool" ]; then
  echo "skipped: clang-format 14 is not here (package clang-format-14)"
  exit 77
fi
mapfile -t files < <(find src -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | sort)
if [ "${1:-}" = --fix ]; then
  "$tool" -i "${files[@]}"
  exit 0
fi
if ! "$tool" --dry-run --Werror "${files[@]}" 2> >(grep 'error:' >&2); then
  echo "not formatted as .clang-format says; tools/check_format.sh --fix does it"
  exit 1
fi
echo "${#files[@]} files are formatted"
