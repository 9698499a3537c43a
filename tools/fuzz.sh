#!/usr/bin/env bash
# Runs the fuzzers (src/fuzz, libFuzzer under the address and undefined-behaviour sanitizers) and prints what each has
# seen: inputs, coverage, how long no new code was reached, and how much it found. Status 1 if it found something (the
# input is then in build/fuzz/findings), 77 where clang or its runtime is missing.
#
#   tools/fuzz.sh [--seconds N | --minutes N] [--jobs N] [--keep] [TARGET…]
#     --seconds, --minutes: in all (default: 60 seconds)
#     --jobs: processes at once (default: 1, for one target after another)
#     --keep: adds the counts to testdata/fuzz/counts.json and packs the smallest inputs that reach all code of the corpus
#     TARGET: safetensors json tokenizer image records import (default: all)
#   tools/fuzz.sh --bundle FOLDER   makes a folder that runs without this tree on other machines: FOLDER/run.sh says how
#   tools/fuzz.sh --add ARCHIVE     of the result.tar.gz of such a run: as --keep does with one of here
#
# A run begins with testdata's own files, what testdata/fuzz has packed, and what build/fuzz/corpus has from runs before.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

all=(safetensors json tokenizer image records import)
seconds=60 jobs=1 keep=0 bundle="" archive="" targets=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    --seconds) seconds="$2"; shift ;;
    --minutes) seconds=$(($2 * 60)); shift ;;
    --jobs) jobs="$2"; shift ;;
    --keep) keep=1 ;;
    --bundle) bundle="$(realpath -m "$2")"; shift ;;
    --add) archive="$(realpath "$2")"; shift ;;
    *)
      if ! printf '%s\n' "${all[@]}" | grep -qx -e "$1"; then
        echo "no target or flag '$1'; the targets: ${all[*]}" >&2
        exit 64
      fi
      targets+=("$1")
      ;;
  esac
  shift
done
[ ${#targets[@]} -gt 0 ] || targets=("${all[@]}")

folder="$QB_ROOT/build/fuzz" kept="$QB_ROOT/testdata/fuzz"
counts="$kept/counts.json"
packed_bytes=5120      # of each target's archive
longest_kept_bytes=4096 # of an input in it
most_inputs=4000        # of a target in build/fuzz/corpus before they are merged

compiler=""
for candidate in clang++-14 clang++; do
  if command -v "$candidate" > /dev/null && echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }' |
     "$candidate" -x c++ -fsanitize=fuzzer,address,undefined -o /dev/null - 2> /dev/null; then
    compiler="$candidate"
    break
  fi
done
if [ -z "$compiler" ]; then
  echo "skipped: fuzzing needs clang and its runtime (packages clang-14 and libclang-rt-14-dev)"
  exit 77
fi

qb_begin fuzz
qb_configure fuzz -DCMAKE_CXX_COMPILER="$compiler"
qb_build fuzz --target "${targets[@]/#/fuzz_}"

# What is still to be done of a target, in seconds of a process: the inputs to reach, and how many a second were seen.
share() {
  local goal=40000000 a_second inputs
  case "$1" in
    tokenizer) goal=4000000 a_second=2000 ;;
    image) goal=4000000 a_second=25000 ;;
    safetensors) a_second=7500 ;;
    json) a_second=8000 ;;
    records) a_second=3000 ;;
    import) a_second=4500 ;;
  esac
  read -r inputs _ <<< "$(counted "$1")"
  echo $((goal > inputs ? (goal - inputs) / a_second + 1 : 1))
}

# What the tree has counted of a target: inputs seconds findings edges quiet_seconds.
counted() {
  local line
  line="$(grep "^  \"$1\":" "$counts" 2> /dev/null || true)"
  [[ $line =~ \"inputs\":\ ([0-9]+),\ \"seconds\":\ ([0-9]+),\ \"findings\":\ ([0-9]+),\ \"edges\":\ ([0-9]+),\ \"quiet_seconds\":\ ([0-9]+) ]] ||
    { echo "0 0 0 0 0"; return; }
  echo "${BASH_REMATCH[@]:1}"
}

# lay_out FOLDER: what run.sh needs; the programs are those of the build.
lay_out() {
  local target
  rm -rf "$1"
  mkdir -p "$1/programs"
  cp "$QB_ROOT/tools/fuzz_run.sh" "$1/run.sh"
  for target in "${all[@]}"; do
    mkdir -p "$1/seeds/$target"
    [ ! -e "$folder/src/fuzz/fuzz_$target" ] || ln -s "$folder/src/fuzz/fuzz_$target" "$1/programs/"
    [ ! -e "$folder/src/fuzz/fuzz_$target" ] || QB_FUZZ_SEEDS="$1/seeds/$target" "$folder/src/fuzz/fuzz_$target"
    [ ! -e "$kept/$target.tar.xz" ] || tar -xJf "$kept/$target.tar.xz" -C "$1/seeds/$target"
    [ ! -d "$folder/corpus/$target" ] || find "$folder/corpus/$target" -type f -exec cp -t "$1/seeds/$target" {} +
    echo "$target $(share "$target")" >> "$1/shares"
  done
}

# Packs the inputs, the programs without their symbols, since what they find is looked at with those of the build, and the
# libraries they need but for the C library.
make_portable() {
  local target library
  rm -rf "$1/programs"
  mkdir -p "$1/programs/lib"
  for target in "${all[@]}"; do
    strip -o "$1/programs/fuzz_$target" "$folder/src/fuzz/fuzz_$target"
    ldd "$folder/src/fuzz/fuzz_$target" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p'
  done | sort -u | grep -vE '/(libc|libm|libdl|libpthread|librt|ld-[^/]*)\.so' | while read -r library; do
    cp -L "$library" "$1/programs/lib/"
    strip --strip-unneeded "$1/programs/lib/${library##*/}"
  done
  tar -C "$1" -c --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner programs seeds | gzip -9n > "$1/packed.tar.gz"
  rm -rf "$1/programs" "$1/seeds"
}

# add FOLDER: the counts of an unpacked result to those of the tree.
add() {
  local target i s f e q text="{" last inputs took edges new found quiet
  for target in "${all[@]}"; do
    read -r i s f e q <<< "$(counted "$target")"
    read -r _ inputs took edges new found quiet <<< "$(grep "^$target " "$1/counts" || echo "$target 0 0 $e 0 0 0")"
    i=$((i + inputs)) s=$((s + took)) f=$((f + found)) e=$edges
    if [ "$new" -eq 0 ]; then q=$((q + quiet)); else q=$quiet; fi
    [ "$target" = "${all[-1]}" ] && last="" || last=","
    text+=$'\n'"  \"$target\": {\"inputs\": $i, \"seconds\": $s, \"findings\": $f, \"edges\": $e, \"quiet_seconds\": $q}$last"
  done
  printf '%s\n}\n' "$text" > "$counts.tmp"
  mv "$counts.tmp" "$counts"
}

# take ARCHIVE: its inputs to build/fuzz/corpus and what it found to build/fuzz/findings, which is tried again here with
# all that the sanitizers can say; with --keep or --add its counts and smallest inputs to the tree.
take() {
  local scratch target finding name
  scratch="$(mktemp -d "$folder/taken.XXXXXX")"
  tar -xzf "$1" -C "$scratch"
  for target in "${all[@]}"; do
    mkdir -p "$folder/corpus/$target"
    [ ! -d "$scratch/corpus/$target" ] || find "$scratch/corpus/$target" -type f -exec cp -t "$folder/corpus/$target" {} +
    [ "$(find "$folder/corpus/$target" -type f | wc -l)" -le $most_inputs ] || merge "$target" || true
  done
  for finding in "$scratch/findings"/*; do
    name="${finding##*/}"
    case "$name" in '*') continue ;; esac
    cp "$finding" "$folder/findings/"
    case "$name" in *-slow-unit-*) continue ;; esac
    result=1
    if "$folder/src/fuzz/fuzz_${name%%-*}" -timeout=20 -rss_limit_mb=2560 "$finding" > "$folder/findings/$name.log" 2>&1; then
      qb_say "FOUND: build/fuzz/findings/$name, with which nothing happens here"
    else
      qb_say "FOUND: $(grep -m 1 -E 'ERROR: |does not hold|runtime error' "$folder/findings/$name.log" || tail -n 1 "$folder/findings/$name.log")"
      qb_say "  build/fuzz/findings/$name, details in $name.log"
    fi
  done
  if [ $keep -eq 1 ]; then
    add "$scratch"
    for target in "${targets[@]}"; do
      pack "$target"
      read -r i s f e q <<< "$(counted "$target")"
      qb_say "  $target in all: $i inputs in $s s, $f findings; no new edge for $q s"
    done
  fi
  rm -rf "$scratch"
}

# smallest TARGET TO FROM FLAG…: the smallest inputs of FROM that together reach all its code, and that as often.
smallest() {
  local target="$1" to="$2" from="$3"
  shift 3
  mkdir "$to"
  "$folder/src/fuzz/fuzz_$target" -merge=1 -timeout=10 -rss_limit_mb=2560 -max_len=16384 "$@" "$to" "$from" > "$to.log" 2>&1 ||
    { echo "$target: its corpus could not be merged; $to.log"; return 1; }
}

# Leaves those of the corpus, so that the next run begins sooner.
merge() {
  local scratch
  scratch="$(mktemp -d "$folder/merge.XXXXXX")"
  smallest "$1" "$scratch/all" "$folder/corpus/$1" || return 1
  rm -rf "$folder/corpus/$1"
  mv "$scratch/all" "$folder/corpus/$1"
  rm -rf "$scratch"
}

# As many inputs as an archive may have of those that reach all code once, small ones first.
pack() {
  local scratch count low=0 high file
  merge "$1"
  scratch="$(mktemp -d "$folder/pack.XXXXXX")"
  smallest "$1" "$scratch/all" "$folder/corpus/$1" -use_counters=0 || return 1
  (cd "$scratch/all" && find . -type f -size -$((longest_kept_bytes + 1))c -printf '%s %f\n' | sort -n | cut -d' ' -f2) > "$scratch/names"
  high="$(wc -l < "$scratch/names")"
  count=$high
  while :; do  # the most that fit
    head -n "$count" "$scratch/names" | tar -C "$scratch/all" -cf "$scratch/tar" --sort=name --mtime=@0 --owner=0 --group=0 \
      --numeric-owner --mode=644 -T -
    xz -9e -k -c "$scratch/tar" > "$scratch/packed"
    if [ "$(stat -c %s "$scratch/packed")" -le $packed_bytes ]; then
      low=$count
      cp "$scratch/packed" "$scratch/best"
    else
      high=$((count - 1))
    fi
    [ $low -lt $high ] || break
    count=$(((low + high + 1) / 2))
  done
  file="$kept/$1.tar.xz"
  [ ! -e "$scratch/best" ] || cp "$scratch/best" "$file"
  rm -rf "$scratch"
}

mkdir -p "$folder/corpus" "$folder/findings" "$kept"
result=0
if [ -n "$bundle" ]; then
  lay_out "$bundle"
  make_portable "$bundle"
  qb_say "$bundle: $(du -sh "$bundle" | cut -f1); run.sh in it says how it is run"
elif [ -n "$archive" ]; then
  keep=1
  take "$archive"
else
  lay_out "$folder/bundle"
  "$folder/bundle/run.sh" "$seconds" "$jobs" "$folder/result" "${targets[@]}" || result=$?
  [ $result -le 1 ] || exit $result
  take "$folder/result/result.tar.gz"
fi
exit $result
