#!/usr/bin/env bash
# Kills a sweep of the bundled model with SIGKILL at random moments and goes on with it by --resume, until it is through;
# then another, until there were N kills. After every kill each record must be whole, those that were there before must be
# the same to the byte, and each that the program had reported must be there; at the end every cell must be finished.
#
#   tools/kill_sweep.sh [N] [PROGRAM]     N: kills, 100 by default; PROGRAM: by default build/release/src/app/quantbench
#   QUANTBENCH_TEST_SEED=7                other moments (default 1)
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
case "${1:-}" in
  -h | --help) sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
kills="${1:-100}" program="${2:-$root/build/release/src/app/quantbench}"
[ -x "$program" ] || { echo "there is no program $program: build it, or name one" >&2; exit 64; }
RANDOM="${QUANTBENCH_TEST_SEED:-1}"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

# Two tests in three precisions, on the backend that needs no bandwidth probe.
cells=6
sweep() { exec "$program" run --model-id bundled -n 2,3 --device reference -r 1 -o csv --out "$1" --resume > /dev/null 2> "$scratch/said"; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }
wrong() {
  echo "WRONG after $killed kills: $*"
  echo "what the program said last:"
  sed 's/^/  /' "$scratch/said"
  cp -r "$1" "$root/build/kill_sweep.found"
  echo "its folder: build/kill_sweep.found"
  exit 1
}

start=$(now_ms)
(sweep "$scratch/whole") || { echo "the sweep itself fails:"; cat "$scratch/said"; exit 1; }
whole_ms=$(($(now_ms) - start))
reports="$(grep -ac ' t/s, ' "$scratch/said" || true)"
[ "$reports" -eq $cells ] || { echo "a sweep of $cells cells reports $reports records:"; cat "$scratch/said"; exit 1; }

killed=0 finished=0 seen=0 reported=0
while [ $killed -lt "$kills" ]; do
  out="$scratch/out$finished" span_ms=$whole_ms before=0
  mkdir "$out"
  : > "$scratch/before"
  while :; do
    (sweep "$out") &
    pid=$!
    delay=$(((RANDOM * 32768 + RANDOM) % (span_ms + 1)))
    sleep "$((delay / 1000)).$(printf %03d $((delay % 1000)))"
    kill -9 $pid 2> /dev/null || true
    status=0
    wait $pid 2> /dev/null || status=$?
    count="$(find "$out" -name '*.json' | wc -l)"
    [ ! -s "$scratch/before" ] || (cd "$out" && sha256sum --quiet -c "$scratch/before") || wrong "$out" "a record that was there is lost or another"
    if [ "$count" -gt 0 ]; then
      "$program" report "$out" -o jsonl > "$scratch/records" 2> "$scratch/problems" || wrong "$out" "$(cat "$scratch/problems")"
      [ "$(wc -l < "$scratch/records")" -eq "$count" ] || wrong "$out" "a record is not whole: $(cat "$scratch/problems")"
    fi
    # A machine that has become slower must get through all the same.
    [ "$count" -gt "$before" ] || span_ms=$((span_ms * 5 / 4 + 1))
    before=$count
    # "bundled fp16 tg2: 812.4 t/s, 1 run (…), FLAGGED"
    while read -r model precision test _; do
      [ -s "$out/${model}_${precision}_${test%:}.json" ] || wrong "$out" "$model $precision $test was reported and is not there"
      reported=$((reported + 1))
    done < <(grep -a ' t/s, ' "$scratch/said" || true)
    seen=$((seen + $(wc -l < "$scratch/before")))
    (cd "$out" && find . -name '*.json' -exec sha256sum {} +) > "$scratch/before"
    if [ $status -eq 137 ]; then
      killed=$((killed + 1))
      [ $((killed % 50)) -ne 0 ] || echo "$killed kills, $finished sweeps finished"
      continue
    fi
    [ $status -eq 0 ] || wrong "$out" "it ended with status $status"
    break
  done
  [ "$count" -eq $cells ] || wrong "$out" "$count records of $cells cells"
  ! grep -v '"status":"ok"' "$scratch/records" || wrong "$out" "a cell is not finished"
  finished=$((finished + 1))
  rm -rf "$out"
done
echo "$killed kills within sweeps of $whole_ms ms: $finished sweeps were finished, $reported records reported and $seen seen to stay, none lost, none damaged"
