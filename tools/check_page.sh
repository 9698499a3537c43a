#!/usr/bin/env bash
# Opens a page of `quantbench report` in a headless Chromium: no error on its console, nothing asked of a network, and
# tools/check_page.js finds what the records say: in the table, the charts, the samples, behind filters, and in what is
# copied and saved. tools/check_keyboard.sh then uses the page by its keyboard alone.
#   tools/check_page.sh BUILD_FOLDER [RECORDS…]     by default the records of a short run of the bundled model, made for this
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
program="${1:-$root/build/release}/src/app/quantbench"
shift || true
browser="$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)"
[ -n "$browser" ] || { echo "skipped: there is no Chromium here (apt-get install chromium)"; exit 77; }
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
if [ $# -eq 0 ]; then
  "$program" run --device reference --max-new-tokens 16 -r 6 --out "$scratch/records" -o jsonl > /dev/null 2> "$scratch/log" || { cat "$scratch/log"; exit 1; }
  set -- "$scratch/records"
fi
if ! "$program" report "$@" -o html --out "$scratch/page.html" 2> "$scratch/log"; then
  grep -q 'built without D3' "$scratch/log" && { echo "skipped: $(cat "$scratch/log")"; exit 77; }
  cat "$scratch/log"
  exit 1
fi
"$program" report "$@" -o json --out "$scratch/records.json" 2> /dev/null
{
  sed '/<\/body>/,$d' "$scratch/page.html"
  printf '<script>\nconst records = '
  sed 's/</\\u003c/g' "$scratch/records.json"
  printf ';\n</script>\n<script>\n'
  cat "$root/tools/check_page.js"
  printf '</script>\n</body>\n</html>\n'
} > "$scratch/checked.html"
status=0
timeout 120 "$browser" --headless --no-sandbox --disable-gpu --user-data-dir="$scratch/profile" --enable-logging=stderr \
    --virtual-time-budget=20000 --dump-dom "file://$scratch/checked.html" > "$scratch/dom" 2> "$scratch/console" || status=$?
if [ $status -ne 0 ] || ! grep -q '</html>' "$scratch/dom"; then
  echo "skipped: $browser does not run here (status $status): $(tail -n 1 "$scratch/console")"
  exit 77
fi
failed=0
if grep 'CONSOLE' "$scratch/console"; then echo "WRONG: the console is not empty"; failed=1; fi
if ! grep -q '<pre id="check">page: fine</pre>' "$scratch/dom"; then
  echo "WRONG:"
  sed -n '/<pre id="check">/,/<\/pre>/p' "$scratch/dom"
  failed=1
fi
"$root/tools/check_keyboard.sh" "$scratch/page.html" "$browser" || failed=1
[ $failed -eq 0 ] && echo "page: as the records say, $(wc -c < "$scratch/page.html") bytes"
exit $failed
