#!/usr/bin/env bash
# Runs fuzzers that tools/fuzz.sh has laid out in a folder, where this file is run.sh: side by side, each process with its
# own seed and corpus. Needs nothing but bash, coreutils, findutils, awk, tar and gzip: the folder may be carried elsewhere.
#
#   run.sh SECONDS JOBS OUT [TARGET…]
#     SECONDS: in all, an eighth of it (a minute at most) for merging what was found
#     JOBS: processes at once; targets that are further from what is to be reached get more of them
#     OUT: a folder for summary.txt and result.tar.gz (counts, inputs that reach new code, findings, logs); every minute
#       there is partial.tar.gz, in case that it is killed
# Status 1 if something was found.
set -uo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [ $# -lt 3 ]; then
  sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
  exit 64
fi
seconds="$1" jobs="$2" out="$3"
shift 3
mkdir -p "$out"
out="$(cd "$out" && pwd)"
read -ra targets <<< "${*:-$(cut -d' ' -f1 "$here/shares" | tr '\n' ' ')}"

most_bytes=$((15 << 20))  # of an archive
most_restarts=50
reserve=$((seconds / 8 < 60 ? seconds / 8 : 60))
began=$EPOCHSECONDS
work="$(mktemp -d)"
mkdir "$work/findings"
if [ -e "$here/packed.tar.gz" ]; then
  tar -xzf "$here/packed.tar.gz" -C "$work"
else
  ln -s "$here/programs" "$here/seeds" "$work/"
fi
[ ! -e "$work/programs/lib" ] || export LD_LIBRARY_PATH="$work/programs/lib"
# Where memory was taken is asked for when a finding is looked at, with the same input.
export ASAN_OPTIONS="symbolize=0:malloc_context_size=0:quarantine_size_mb=4:thread_local_quarantine_size_kb=64" UBSAN_OPTIONS="symbolize=0:print_stacktrace=1"

# A kernel that spreads addresses wider than clang 14 knows ends some of its programs as they begin, and where processes
# may not be traced leaks cannot be looked for: then they are not, and that is said.
fixed=()
! setarch -R true 2> /dev/null || fixed=(setarch -R)
if "${fixed[@]}" "$work/programs/fuzz_${targets[0]}" -runs=1 2>&1 | grep -q 'LeakSanitizer has encountered a fatal error'; then
  export ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0"
  echo "leaks are not looked for: LeakSanitizer does not work on this machine" | tee "$work/leaks"
fi

# What every run of a target has. A longer input is slow and finds nothing that shorter ones do not.
flags_of() {
  local longest=8192
  case "$1" in
    image | import) longest=4096 ;;
    tokenizer | records) longest=16384 ;;
  esac
  echo "-max_len=$longest -timeout=20 -rss_limit_mb=2560 -artifact_prefix=$work/findings/$1-"
}

# job TARGET NUMBER SECONDS: behind a finding it goes on. Into its folder: log, what new code was reached when
# (edges: time, place), and how many inputs the present run has seen.
job() {
  local target="$1" number="$2" end=$((EPOCHSECONDS + $3)) folder="$work/jobs/$1.$2" left restarts=0 line stamp=0
  mkdir -p "$folder/corpus"
  : > "$folder/edges"
  echo $EPOCHSECONDS > "$folder/began"
  # Every other one changes inputs less, so that more of them are taken.
  local depth=$((number % 2 == 0 ? 5 : 2))
  while left=$((end - EPOCHSECONDS)); [ $left -ge 1 ] && [ $restarts -lt $most_restarts ]; do
    restarts=$((restarts + 1))
    # shellcheck disable=SC2046
    while IFS= read -r line; do
      case "$line" in
        *NEW_PC:*) [[ ! $line =~ \+(0x[0-9a-f]+)\) ]] || printf '%s %s\n' "$EPOCHSECONDS" "${BASH_REMATCH[1]}" >> "$folder/edges" ;;
        '#'*' '*cov:*)
          [[ $line != *INITED* ]] || printf '%s\n' "$line" >> "$folder/log"
          if [ $stamp -ne $EPOCHSECONDS ]; then
            stamp=$EPOCHSECONDS
            printf '%s\n' "${line%%[^#0-9]*}" > "$folder/running"
          fi
          ;;
        *) printf '%s\n' "$line" >> "$folder/log" ;;
      esac
    done < <(echo $BASHPID > "$folder/pid"
             exec timeout -k 5 $((left + 40)) "${fixed[@]}" "$work/programs/fuzz_$target" $(flags_of "$target") \
               -max_total_time=$left -seed=$(((EPOCHSECONDS * 1021 + number * 7 + restarts) & 0x7fffffff)) -mutate_depth=$depth \
               -entropic_feature_frequency_threshold=16 -entropic_number_of_rarest_features=32 -print_final_stats=1 -print_funcs=0 -print_pcs=1 "$folder/corpus" "$work/seeds/$target" 2>&1)
    rm -f "$folder/running" "$folder/pid"
  done
  echo $EPOCHSECONDS > "$folder/ended"
}

# What is known of a target so far: inputs, processes' seconds, edges, new ones, findings, and the processes' seconds
# since the last new one.
counts_of() {
  local folder now=$EPOCHSECONDS inputs=0 took=0 initial=0 began ended line
  local -a edges=()
  for folder in "$work/jobs/$1".*; do
    [ -e "$folder/began" ] || continue
    inputs=$((inputs + $(awk '/^stat::number_of_executed_units:/ {n += $2} END {print n + 0}' "$folder/log" 2> /dev/null || echo 0)))
    [ ! -s "$folder/running" ] || inputs=$((inputs + $(tr -d '#' < "$folder/running")))
    began="$(cat "$folder/began")" ended="$(cat "$folder/ended" 2> /dev/null || echo $now)"
    took=$((took + ended - began))
    line="$(grep -m 1 INITED "$folder/log" 2> /dev/null || true)"
    [[ ! $line =~ cov:\ ([0-9]+) ]] || initial=${BASH_REMATCH[1]}
    edges+=("$folder/edges")
  done
  [ ${#edges[@]} -gt 0 ] || return 0
  local findings new last quiet=$took
  findings="$(find "$work/findings" -name "$1-*" ! -name "*-slow-unit-*" | wc -l)"
  read -r new last <<< "$(awk '!($2 in first) || $1 < first[$2] {first[$2] = $1}
                              END {for (i in first) {++n; if (first[i] > last) last = first[i]} print n + 0, last + 0}' "${edges[@]}")"
  if [ "$new" -gt 0 ]; then
    quiet=0
    for folder in "$work/jobs/$1".*; do
      ended="$(cat "$folder/ended" 2> /dev/null || echo $now)" began="$(cat "$folder/began")"
      [ "$began" -gt "$last" ] || began=$last
      [ "$ended" -le "$began" ] || quiet=$((quiet + ended - began))
    done
  fi
  echo "$1 $inputs $took $((initial + new)) $new $findings $quiet"
}

summary() {
  local target inputs took edges new findings quiet
  printf '%-12s %12s %14s %12s %8s %10s %9s %26s\n' target inputs process-secs per-second edges new-edges findings quiet-process-secs
  while read -r target inputs took edges new findings quiet; do
    printf '%-12s %12d %14d %12d %8d %10d %9d %26d\n' "$target" "$inputs" "$took" $((inputs / (took > 0 ? took : 1))) "$edges" "$new" "$findings" "$quiet"
  done < "$work/result/counts"
}

# save NAME FOLDER: counts, findings, logs and the inputs in FOLDER (one folder a target) as an archive, the large inputs
# left out if it gets too large.
save() {
  local longest=1048576
  rm -rf "$work/result"
  mkdir -p "$work/result/corpus" "$work/result/logs"
  for target in "${targets[@]}"; do counts_of "$target"; done > "$work/result/counts"
  { summary; cat "$work/leaks" 2> /dev/null; } > "$out/summary.txt"
  cp -r "$work/findings" "$work/result/"
  for folder in "$work/jobs"/*; do
    [ ! -s "$folder/log" ] || tail -c 20000 "$folder/log" > "$work/result/logs/${folder##*/}"
  done
  while [ $longest -ge 64 ]; do
    for target in "${targets[@]}"; do
      rm -rf "$work/result/corpus/$target"
      mkdir -p "$work/result/corpus/$target"
      [ ! -d "$2/$target" ] || find "$2/$target" -type f -size -"$longest"c -exec cp -t "$work/result/corpus/$target" {} +
    done
    tar -C "$work/result" -czf "$work/$1.tar.gz" .
    [ "$(stat -c %s "$work/$1.tar.gz")" -gt $most_bytes ] || break
    longest=$((longest > 16384 ? 16384 : longest / 2))
  done
  mv "$work/$1.tar.gz" "$out/$1.tar.gz"
}

# The new inputs of the processes, as they are.
gather() {
  local folder target
  rm -rf "$work/gathered"
  for target in "${targets[@]}"; do
    mkdir -p "$work/gathered/$target"
    for folder in "$work/jobs/$target".*; do
      [ -d "$folder/corpus" ] || continue
      if [ -e "$folder/merged" ]; then folder="$folder/smallest"; else folder="$folder/corpus"; fi
      find "$folder" -type f -exec cp -t "$work/gathered/$target" {} +
    done
    find "$work/seeds/$target" -type f -printf '%f\n' | (cd "$work/gathered/$target" && xargs -r rm -f)
  done
}

# merge TARGET INTO FROM…: INTO gets what reaches more than the inputs to begin with do. Done if there is INTO/../merged.
merge() {
  local target="$1" into="$2"
  shift 2
  rm -rf "$into"
  mkdir -p "$into"
  find "$work/seeds/$target" -type f -exec cp -t "$into" {} +
  # shellcheck disable=SC2046
  timeout -k 2 $((began + seconds - EPOCHSECONDS > 1 ? began + seconds - EPOCHSECONDS : 1)) "${fixed[@]}" "$work/programs/fuzz_$target" -merge=1 $(flags_of "$target") \
    "$into" "$@" > "$into.log" 2>&1 && touch "${into%/*}/merged"
}

# parallel MOST: runs each line of its input, as many at once.
parallel() {
  local line running=0
  while IFS= read -r line; do
    if [ $running -ge "$1" ]; then
      wait -n || true
      running=$((running - 1))
    fi
    $line &
    running=$((running + 1))
  done
  wait
}

finish() {
  trap '' TERM INT
  for pid in $(jobs -p) $(cat "$work/jobs"/*/pid 2> /dev/null); do kill "$pid" 2> /dev/null; done
  gather
  save result "$work/gathered"
  rm -rf "$out/partial.tar.gz" "$work"
  cat "$out/summary.txt"
  exit 130
}
trap finish TERM INT

# Which processes there are: lines "slot target seconds"; several targets in one slot run one after another.
span=$((seconds - reserve))
plan() {
  local count=${#targets[@]} i n left share total=0 most=0 first
  if [ "$jobs" -lt "$count" ]; then
    for i in "${!targets[@]}"; do
      n=$(((count - i % jobs + jobs - 1) / jobs))
      echo "$((i % jobs)) ${targets[i]} $((span / n > 0 ? span / n : 1))"
    done
    return
  fi
  local -a shares=()
  for i in "${!targets[@]}"; do
    share="$(sed -n "s/^${targets[i]} //p" "$here/shares")"
    shares[i]=${share:-1}
    total=$((total + shares[i]))
    [ "${shares[i]}" -le "${shares[most]}" ] || most=$i
  done
  left=$((jobs - count)) first=0
  local spare=$left
  for i in "${!targets[@]}"; do
    n=$((spare * shares[i] / total))
    shares[i]=$((1 + n)) left=$((left - n))
  done
  shares[most]=$((shares[most] + left))
  for i in "${!targets[@]}"; do
    for ((n = 0; n < shares[i]; ++n)); do echo "$((first++)) ${targets[i]} $span"; done
  done
}

slot() {
  local target span
  grep "^$1 " "$work/plan" | while read -r _ target span; do job "$target" "$1" "$span"; done
}

plan > "$work/plan"
mkdir "$work/jobs"
slots="$(cut -d' ' -f1 "$work/plan" | sort -nu)"
for number in $slots; do slot "$number" & done
saved=$EPOCHSECONDS
while [ -n "$(jobs -pr)" ]; do
  sleep 1
  if [ $((EPOCHSECONDS - saved)) -ge 60 ]; then
    saved=$EPOCHSECONDS
    gather
    save partial "$work/gathered"
  fi
  [ $((EPOCHSECONDS - began)) -lt $((span + 60)) ] || break
done

# Each process's inputs first, then those of a target together: what is not done in time stays as it is.
for folder in "$work/jobs"/*; do
  target="${folder##*/}"
  echo "merge ${target%.*} $folder/smallest $folder/corpus"
done > "$work/merges"
parallel "$jobs" < "$work/merges"
gather
for target in "${targets[@]}"; do echo "merge $target $work/all/$target/smallest $work/gathered/$target"; done > "$work/merges"
parallel "$jobs" < "$work/merges"
for target in "${targets[@]}"; do
  [ -e "$work/all/$target/merged" ] || continue
  rm -rf "$work/gathered/$target"
  mv "$work/all/$target/smallest" "$work/gathered/$target"
  find "$work/seeds/$target" -type f -printf '%f\n' | (cd "$work/gathered/$target" && xargs -r rm -f)
done
save result "$work/gathered"
rm -f "$out/partial.tar.gz"
cat "$out/summary.txt"
found=0
for finding in "$work/result/findings"/*; do
  case "$finding" in *-slow-unit-* | *'*') continue ;; esac
  found=1
  echo "FOUND: ${finding##*/} (in result.tar.gz)"
done
rm -rf "$work"
exit $found
