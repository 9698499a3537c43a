#!/usr/bin/env bash
# Runs the fuzzers (src/fuzz, libFuzzer under the address and undefined-behaviour sanitizers) and prints what each has
# seen: inputs, inputs a second, coverage, how long no new code was reached, and what it found. Status 1 if it found
# something (the input is then in build/fuzz/findings), 77 where clang or its runtime is missing.
#
#   tools/fuzz.sh [--seconds N | --minutes N] [--keep] [TARGET…]
#     --seconds, --minutes: in all, shared out to the targets (default: 60 seconds)
#     --keep: adds the counts to testdata/fuzz/counts.json and packs the smallest inputs that reach all code of the corpus
#     TARGET: safetensors json tokenizer image records import (default: all)
#
# A run begins with testdata's own files, what testdata/fuzz has packed, and what build/fuzz/corpus has from runs before.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

all=(safetensors json tokenizer image records import)
seconds=60 keep=0 targets=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    --seconds) seconds="$2"; shift ;;
    --minutes) seconds=$(($2 * 60)); shift ;;
    --keep) keep=1 ;;
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

longest() {
  case "$1" in
    image) echo 4096 ;;
    tokenizer | records) echo 16384 ;;
    *) echo 8192 ;;
  esac
}

# fuzz TARGET SECONDS: sets inputs, took, edges, quiet and found.
fuzz() {
  local target="$1" log="$folder/$1.log" line status=0
  local corpus="$folder/corpus/$1" seeds="$folder/seeds/$1"
  rm -rf "$seeds"
  mkdir -p "$corpus" "$seeds" "$folder/findings"
  QB_FUZZ_SEEDS="$seeds" "$folder/src/fuzz/fuzz_$1"
  [ ! -e "$kept/$1.tar.xz" ] || tar -xJf "$kept/$1.tar.xz" -C "$corpus"
  local start=$EPOCHSECONDS new=$EPOCHSECONDS started=0
  edges=0
  # Leaks are looked for in every input that seems to leave memory behind; an input of more than ten seconds hangs.
  while IFS= read -r line; do
    printf '%s\n' "$line" >> "$log"
    [[ $line =~ ^#[0-9]+.*\ cov:\ ([0-9]+)\  ]] || continue
    if [[ $line == *INITED* ]]; then
      started=1 new=$EPOCHSECONDS start=$EPOCHSECONDS
    elif [ $started -eq 1 ] && [ "${BASH_REMATCH[1]}" -gt "$edges" ]; then
      new=$EPOCHSECONDS
    fi
    edges=${BASH_REMATCH[1]}
  done < <(: > "$log"; status=0
           "$folder/src/fuzz/fuzz_$1" -max_total_time="$2" -max_len="$(longest "$1")" -len_control=0 -timeout=10 \
             -rss_limit_mb=2560 -print_final_stats=1 -print_funcs=0 -artifact_prefix="$folder/findings/$1-" "$corpus" "$seeds" 2>&1 || status=$?
           echo "status $status")
  found=0
  tail -n 1 "$log" | grep -qx 'status 0' || found=1
  inputs="$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)"
  inputs="${inputs:-0}"
  took=$((EPOCHSECONDS - start))
  [ $took -gt 0 ] || took=1
  quiet=$((EPOCHSECONDS - new))
  [ "$new" -ne "$start" ] || quiet=-$took  # nothing new in all of the run
}

# What the tree has counted of a target: inputs seconds findings edges quiet_seconds.
counted() {
  local line
  line="$(grep "^  \"$1\":" "$counts" 2> /dev/null || true)"
  [[ $line =~ \"inputs\":\ ([0-9]+),\ \"seconds\":\ ([0-9]+),\ \"findings\":\ ([0-9]+),\ \"edges\":\ ([0-9]+),\ \"quiet_seconds\":\ ([0-9]+) ]] ||
    { echo "0 0 0 0 0"; return; }
  echo "${BASH_REMATCH[@]:1}"
}

# add TARGET: this run's counts to those of the tree.
add() {
  local target i s f e q text="{" last
  for target in "${all[@]}"; do
    read -r i s f e q <<< "$(counted "$target")"
    if [ "$target" = "$1" ]; then
      i=$((i + inputs)) s=$((s + took)) f=$((f + found)) e=$edges
      if [ $quiet -lt 0 ]; then q=$((q - quiet)); else q=$quiet; fi
    fi
    [ "$target" = "${all[-1]}" ] && last="" || last=","
    text+=$'\n'"  \"$target\": {\"inputs\": $i, \"seconds\": $s, \"findings\": $f, \"edges\": $e, \"quiet_seconds\": $q}$last"
  done
  printf '%s\n}\n' "$text" > "$counts.tmp"
  mv "$counts.tmp" "$counts"
}

# The smallest inputs that together reach all code of the corpus: as many of them, small ones first, as an archive may have.
pack() {
  local scratch count low=0 high file
  scratch="$(mktemp -d "$folder/merge.XXXXXX")"
  mkdir "$scratch/all"
  if ! "$folder/src/fuzz/fuzz_$1" -merge=1 -timeout=10 -rss_limit_mb=2560 -max_len="$(longest "$1")" "$scratch/all" "$folder/corpus/$1" \
         > "$scratch/log" 2>&1; then
    echo "$1: its corpus could not be merged; $scratch/log"
    return 1
  fi
  # What merging left out goes, so that the next run begins sooner.
  rm -rf "$folder/corpus/$1"
  cp -r "$scratch/all" "$folder/corpus/$1"
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

mkdir -p "$folder/corpus" "$kept"
share=$((seconds / ${#targets[@]}))
[ $share -gt 0 ] || share=1
result=0
for target in "${targets[@]}"; do
  fuzz "$target" $share
  text="$target: $inputs inputs in $took s ($((inputs / took)) a second), $edges edges reached, "
  if [ $quiet -lt 0 ]; then text+="none of them new"; else text+="the last new one $quiet s before the end"; fi
  if [ $found -eq 0 ]; then
    qb_say "$text, nothing found"
  else
    result=1
    qb_say "$text. FOUND: $(grep -m 1 -E 'ERROR: |does not hold|runtime error' "$folder/$target.log" || tail -n 2 "$folder/$target.log" | head -n 1)"
    qb_say "  $(grep -m 1 'Test unit written' "$folder/$target.log" || true) (details: build/fuzz/$target.log)"
  fi
  if [ $keep -eq 1 ]; then
    add "$target"
    [ $found -eq 1 ] || pack "$target"
    read -r i s f e q <<< "$(counted "$target")"
    qb_say "  in all: $i inputs in $s s, $f runs with findings; no new edge for $q s"
  fi
done
exit $result
