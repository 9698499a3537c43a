#!/usr/bin/env bash
# clang-tidy with the checks of .clang-tidy over the sources that changed (the preset tidy looks at all of them as it
# builds). Status 1 if it finds something, 77 where clang-tidy 14 is missing; other versions have other checks.
#
#   tools/tidy.sh [--since REVISION] [--seconds N] [FILE.cpp…]
#     --since: files that differ from REVISION, and those that include a header which does; by default the last commit that
#       is six hours older than this one, else the first; FILEs instead: just these
#     --seconds: begins no further file after so long, and says which were left out (default: QB_TIDY_SECONDS, else 120)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
since="" seconds="${QB_TIDY_SECONDS:-120}" files=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    --since) since="$2"; shift ;;
    --seconds) seconds="$2"; shift ;;
    *) files+=("$1") ;;
  esac
  shift
done
tool=""
for candidate in clang-tidy-14 clang-tidy; do
  if command -v "$candidate" > /dev/null && "$candidate" --version | grep -q 'version 14\.'; then tool="$candidate"; break; fi
done
[ -n "$tool" ] || { echo "skipped: clang-tidy 14 is not here (package clang-tidy-14)"; exit 77; }
folder=""
for preset in ci release tidy debug; do
  if [ -r "build/$preset/compile_commands.json" ]; then folder="build/$preset"; break; fi
done
[ -n "$folder" ] || { echo "skipped: nothing is configured (cmake --preset ci), so it is not known how files are compiled"; exit 77; }
if [ ${#files[@]} -eq 0 ]; then
  if [ -z "$since" ]; then
    since="$(git rev-list -1 --before=$(($(git log -1 --format=%ct) - 6 * 3600)) HEAD)"
    since="${since:-$(git rev-list --max-parents=0 HEAD | tail -n 1)}"
  fi
  if ! git rev-parse -q --verify "$since^{commit}" > /dev/null; then
    echo "skipped: the tree has no commit $since to compare with"
    exit 77
  fi
  mapfile -t files < <(git diff --name-only --diff-filter=d "$since" -- 'src/*.cpp'
    git diff --name-only --diff-filter=d "$since" -- 'src/*.h' | while read -r header; do
      git grep -lF "#include \"${header#src/}\"" -- 'src/*.cpp' | head -n 3 || true
    done)
  mapfile -t files < <(printf '%s\n' "${files[@]}" | awk 'NF && !seen[$0]++')
fi

failed=0 looked=0 left=() unknown=()
for file in "${files[@]}"; do
  # What this build does not compile (a backend that is off, fuzzers) is not known to it.
  grep -qF "/$file\"" "$folder/compile_commands.json" || { unknown+=("$file"); continue; }
  if [ $SECONDS -ge "$seconds" ]; then left+=("$file"); continue; fi
  "$tool" -p "$folder" --quiet "$file" 2> /dev/null || { echo "found in $file"; failed=1; }
  looked=$((looked + 1))
done
[ ${#unknown[@]} -eq 0 ] || echo "not compiled by $folder, so not looked at: ${unknown[*]}"
[ ${#left[@]} -eq 0 ] || echo "not looked at, for want of time: ${left[*]}"
[ $failed -ne 0 ] || echo "clang-tidy: $looked of ${#files[@]} files looked at, nothing found"
exit $failed
