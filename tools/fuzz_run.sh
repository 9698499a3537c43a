#!/usr/bin/env bash
# Runs fuzzers that tools/fuzz.sh has laid out in a folder, where this file is run.sh: side by side, each process with its
# own seed; those of a target read what the others find every few seconds. Needs nothing but bash, coreutils, findutils, awk,
# tar and gzip: the folder may be carried elsewhere.
#
#   run.sh SECONDS JOBS OUT [TARGET…]
#     SECONDS: in all, a tenth of it (60 seconds at most) for packing what was found
#     JOBS: processes at once; targets that are further from what is to be reached get more of them
#     OUT: a folder for summary.txt and result.tar.gz (counts, inputs that reach new code, findings, logs); after half a
#       minute and every minute then there is partial.tar.gz, with all but the inputs, in case that it is killed
# Status 1 if something was found, or if a target did not run. A finding is printed as soon as it is there, as base64 if it is not long.
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
most_inputs_bytes=$((48 << 20))  # in an archive, unpacked
longest_printed=4096
most_printed=5  # findings of a target
reserve=$((seconds / 10 < 60 ? seconds / 10 : 60))
began=$EPOCHSECONDS
work="$(mktemp -d)"
mkdir "$work/findings" "$work/jobs"
# Inputs in memory, where there is much of it: a file each is slow elsewhere.
shared=""
if [ -w /dev/shm ] && [ "$(df -Pk /dev/shm | awk 'NR == 2 {print $4}')" -gt $((4 << 20)) ]; then
  shared="$(mktemp -d /dev/shm/fuzz.XXXXXX)"
  rmdir "$work/jobs"
  ln -s "$shared" "$work/jobs"
fi
if [ -e "$here/packed.tar.gz" ]; then
  tar -xzf "$here/packed.tar.gz" -C "$work"
else
  ln -s "$here/programs" "$here/seeds" "$work/"
fi
[ ! -e "$work/programs/lib" ] || export LD_LIBRARY_PATH="$work/programs/lib"
# Where memory was taken is asked for when a finding is looked at, with the same input.
export ASAN_OPTIONS="symbolize=0:malloc_context_size=0:max_malloc_fill_size=0:quarantine_size_mb=1:thread_local_quarantine_size_kb=256" UBSAN_OPTIONS="symbolize=0:print_stacktrace=1"

# A kernel that spreads addresses wider than clang 14 knows ends some of its programs as they begin, and where processes
# may not be traced leaks cannot be looked for: then they are not, and that is said.
fixed=()
! setarch -R true 2> /dev/null || fixed=(setarch -R)
if "${fixed[@]}" "$work/programs/fuzz_${targets[0]}" -runs=1 2>&1 | grep -q 'LeakSanitizer has encountered a fatal error'; then
  export ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0"
  echo "leaks are not looked for: LeakSanitizer does not work on this machine" | tee "$work/leaks"
fi

# What every run of a target has: how long inputs get, for most processes and for each fourth, which has the seeds whole.
# Longer ones are slow and find nothing that these do not. Choosing inputs by entropy would take most of the time once
# there are some thousand of them.
flags_of() {
  local most=1536
  case "$1" in
    image) most=4096 ;;
    tokenizer) most=6144 ;;
  esac
  [ $(($2 % 4)) -ne 0 ] || most=16384
  echo "-max_len=$most -reload=5 -entropic=0 -timeout=20 -rss_limit_mb=2560 -artifact_prefix=$work/findings/$1-"
}

# job TARGET NUMBER SECONDS: behind a finding it goes on. Into its folder: log, what new code was reached when
# (edges: time, place), and how many inputs the present run has seen.
job() {
  local target="$1" number="$2" end=$((EPOCHSECONDS + $3)) folder="$work/jobs/$1.$2" left restarts=0 line stamp=0 counted
  mkdir -p "$folder" "$work/jobs/corpus/$target"
  : > "$folder/edges"
  echo $EPOCHSECONDS > "$folder/began"
  # Every other one changes inputs less, so that more of them are taken.
  local depth=$((number % 2 == 0 ? 5 : 2))
  while left=$((end - EPOCHSECONDS)); [ $left -ge 1 ] && [ $restarts -lt $most_restarts ] && [ ! -e "$work/ending" ]; do
    restarts=$((restarts + 1)) counted=0
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
        *)
          [[ $line != stat::number_of_executed_units:* ]] || counted=1
          printf '%s\n' "$line" >> "$folder/log"
          ;;
      esac
    done < <(echo $BASHPID > "$folder/pid"
             exec timeout -k 2 $((left + 3)) "${fixed[@]}" "$work/programs/fuzz_$target" $(flags_of "$target" "$number") \
               -max_total_time=$left -seed=$(((EPOCHSECONDS * 1021 + number * 7 + restarts) & 0x7fffffff)) -mutate_depth=$depth \
               -print_final_stats=1 -print_funcs=0 -print_pcs=1 "$work/jobs/corpus/$target" "$work/seeds/$target" 2>&1)
    # Ended from outside: so many at least.
    [ $counted -eq 1 ] || [ ! -s "$folder/running" ] ||
      printf 'stat::number_of_executed_units: %s\n' "$(tr -d '#' < "$folder/running")" >> "$folder/log"
    rm -f "$folder/running" "$folder/pid"
  done
  echo $EPOCHSECONDS > "$folder/ended"
}

# What is known of a target so far: inputs, processes' seconds, edges, new ones, findings, and the processes' seconds
# since the last new one. An edge is new if it is to a process that has the inputs of the beginning whole, as each fourth
# has: it soon reads what the others find, to whom may be new what only a long input reaches.
counts_of() {
  local folder now=$EPOCHSECONDS inputs=0 took=0 initial=0 began ended line running
  local -a edges=() of_all=()
  for folder in "$work/jobs/$1".*; do
    [ -e "$folder/began" ] || continue
    inputs=$((inputs + $(awk '/^stat::number_of_executed_units:/ {n += $2} END {print n + 0}' "$folder/log" 2> /dev/null || echo 0)))
    running="$(tr -d '#' 2> /dev/null < "$folder/running")"  # empty while it is written
    inputs=$((inputs + ${running:-0}))
    began="$(cat "$folder/began")" ended="$(cat "$folder/ended" 2> /dev/null || echo $now)"
    took=$((took + ended - began))
    line="$(grep -m 1 INITED "$folder/log" 2> /dev/null || true)"
    [[ ! $line =~ cov:\ ([0-9]+) ]] || [ "${BASH_REMATCH[1]}" -le $initial ] || initial=${BASH_REMATCH[1]}
    of_all+=("$folder/edges")
    [ $((${folder##*.} % 4)) -ne 0 ] || edges+=("$folder/edges")
  done
  [ ${#of_all[@]} -gt 0 ] || return 0
  [ ${#edges[@]} -gt 0 ] || edges=("${of_all[@]}")
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

# Which inputs together reach all code, so that none of those is left out.
choose() {
  local target
  [ $reserve -gt 15 ] || return 0  # few inputs, and no time
  for target in "${targets[@]}"; do
    mkdir -p "$work/least/$target" "$work/jobs/corpus/$target"
    timeout -k 1 $((reserve - 10)) "${fixed[@]}" "$work/programs/fuzz_$target" -merge=1 -use_counters=0 \
      -max_len=16384 -timeout=10 -rss_limit_mb=2560 "$work/least/$target" "$work/seeds/$target" "$work/jobs/corpus/$target" \
      > "$work/least/$target.log" 2>&1 || echo "$target: no time to choose among its inputs" &
  done
  wait
}

# save NAME WITH_INPUTS: counts, findings, logs and, if WITH_INPUTS is 1, the new inputs of the processes as an archive, which
# --add merges. If there are too many, the largest stay out of those that were not chosen.
save() {
  local most=$most_inputs_bytes target folder
  rm -rf "$work/result"
  mkdir -p "$work/result/logs"
  for target in "${targets[@]}"; do counts_of "$target"; done > "$work/result/counts"
  { summary; cat "$work/leaks" 2> /dev/null; } > "$out/summary.txt"
  cp -r "$work/findings" "$work/result/"
  for folder in "$work/jobs"/*; do
    [ ! -s "$folder/log" ] || tail -c 20000 "$folder/log" > "$work/result/logs/${folder##*/}"
  done
  while :; do
    : > "$work/inputs"
    [ "$2" -ne 1 ] || for target in "${targets[@]}"; do
      { find "$work/seeds/$target/" -type f -printf '0 %f\n'
        [ ! -d "$work/least/$target" ] || find "$work/least/$target/" -type f -printf '%s %f %f\n'
        find "$work/jobs/corpus/$target/" -type f -printf '%s %f %P\n' | sort -n; } |
        awk -v most=$((most / ${#targets[@]})) -v at="corpus/$target/" \
          '!seen[$2]++ && NF > 2 && (sum += $1 + 512) <= most {print at $3}' >> "$work/inputs"
    done
    (cd "$work/jobs" && tar -cf "$work/$1.tar" -T "$work/inputs")
    tar -C "$work/result" -rf "$work/$1.tar" counts findings logs
    gzip -f -3 "$work/$1.tar"
    [ "$(stat -c %s "$work/$1.tar.gz")" -gt $most_bytes ] && [ "$most" -gt $((1 << 20)) ] || break
    most=$((most / 2))
  done
  mv "$work/$1.tar.gz" "$out/$1.tar.gz"
}

# Prints the findings that it has not printed yet.
tell() {
  local finding name target
  local -a lines=()
  for finding in "$work/findings"/*; do
    name="${finding##*/}" target="${finding##*/}" target="${target%%-*}"
    case "$name" in *-slow-unit-* | '*') continue ;; esac
    [ -z "${told[$name]:-}" ] || continue
    told[$name]=1
    echo "FOUND: $name, $(stat -c %s "$finding") bytes"
    told[$target]=$((${told[$target]:-0} + 1))
    [ "${told[$target]}" -le $most_printed ] || continue
    mapfile -t lines < <(grep -h -m 3 -E 'ERROR: |does not hold|runtime error' "$work/jobs/$target".*/log 2> /dev/null | tail -n 3)
    [ ${#lines[@]} -eq 0 ] || printf '  %s\n' "${lines[@]}"
    gzip -9nc "$finding" > "$work/printed"
    if [ "$(stat -c %s "$work/printed")" -le $longest_printed ]; then
      echo "  gzip as base64: $(base64 -w 0 "$work/printed")"
    fi
  done
}
declare -A told=()

end_all() {  # timeout and what it runs are a group of their own
  local pid
  touch "$work/ending"
  for pid in $(cat "$work/jobs"/*/pid 2> /dev/null); do kill "$1" -- "-$pid" 2> /dev/null; done
  for pid in $(jobs -p); do kill "$1" "$pid" 2> /dev/null; done
}

finish() {
  trap '' TERM INT
  end_all -TERM
  tell
  save result 1
  rm -rf "$out/partial.tar.gz" "$work" "$shared"
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
slots="$(cut -d' ' -f1 "$work/plan" | sort -nu)"
for number in $slots; do slot "$number" & done
saved=$((EPOCHSECONDS - 30))
while [ -n "$(jobs -pr)" ]; do
  sleep 1
  tell
  if [ $((EPOCHSECONDS - saved)) -ge 60 ]; then
    saved=$EPOCHSECONDS
    save partial 0
  fi
  # Who has not ended by then is ended: what it wrote is there.
  [ $((EPOCHSECONDS - began)) -lt $((span + 5)) ] || break
done
if [ -n "$(jobs -pr)" ]; then
  end_all -KILL
  sleep 1
fi
tell
choose
save result 1
rm -f "$out/partial.tar.gz"
cat "$out/summary.txt"
found=0
for finding in "$work/findings"/*; do
  case "$finding" in *-slow-unit-* | *'*') ;; *) found=1 ;; esac
done
while read -r target inputs _; do
  [ "$inputs" -eq 0 ] || continue
  if cat "$work/jobs/$target".*/log 2> /dev/null | grep -q '^INFO: seed corpus'; then
    echo "$target: no time for an input beyond those it begins with"
    continue
  fi
  echo "FAILED: $target does not run: $(cat "$work/jobs/$target".*/log 2> /dev/null | tail -n 1)"
  found=1
done < "$work/result/counts"
rm -rf "$work" "$shared"
exit $found
