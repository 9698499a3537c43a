#!/usr/bin/env bash
# A page of `quantbench report` by its keyboard alone, in a headless Chromium that is sent keys as a user's would come (the
# DevTools protocol, over a pipe): every control is reached by Tab, the skip link leads to the table, Enter and Space press
# buttons and boxes, arrows change a choice.
#   tools/check_keyboard.sh PAGE BROWSER       run by tools/check_page.sh
set -euo pipefail
page="$(realpath "$1")"
scratch="$(mktemp -d)"
mkfifo "$scratch/to" "$scratch/from"
"$2" --headless --no-sandbox --disable-gpu --user-data-dir="$scratch/profile" --remote-debugging-pipe "file://$page" \
    3< "$scratch/to" 4> "$scratch/from" 2> "$scratch/log" &
browser=$!
trap 'kill $browser 2> /dev/null || true; wait $browser 2> /dev/null || true; rm -rf "$scratch"' EXIT
exec 5> "$scratch/to" 6< "$scratch/from"
number=0
session=""
answer=""

ask() {  # METHOD PARAMETERS: leaves what comes back in $answer
  number=$((number + 1))
  printf '{"id":%d,%s"method":"%s","params":%s}\0' $number "${session:+\"sessionId\":\"$session\",}" "$1" "$2" >&5
  while IFS= read -r -t 60 -d '' answer <&6; do
    case "$answer" in *"\"id\":$number,"*) return 0 ;; esac
  done
  echo "WRONG: $1 was not answered"
  exit 1
}
# What an expression without double quotes is, as text without double quotes.
page_says() {
  ask Runtime.evaluate "{\"expression\":\"String($1)\",\"returnByValue\":true}"
  sed -n 's/.*"type":"string","value":"\([^"]*\)".*/\1/p' <<< "$answer"
}
press() {  # KEY CODE [TEXT]
  local code="${1/# /Space}"
  ask Input.dispatchKeyEvent "{\"type\":\"keyDown\",\"key\":\"$1\",\"code\":\"$code\",\"windowsVirtualKeyCode\":$2${3:+,\"text\":\"$3\"}}"
  ask Input.dispatchKeyEvent "{\"type\":\"keyUp\",\"key\":\"$1\",\"code\":\"$code\",\"windowsVirtualKeyCode\":$2}"
}
tab() { press Tab 9; }
space() { press ' ' 32 ' '; }
enter() { press Enter 13 '\r'; }
failed=0
expect() {  # WHAT FOUND EXPECTED
  [ "$2" = "$3" ] || { echo "WRONG: $1: '$2', expected '$3'"; failed=1; }
}
# Tab until an expression of the focused element `e` holds.
tab_to() {
  local i
  for i in $(seq 400); do
    tab
    [ "$(page_says "(e => !!(e && ($1)))(document.activeElement)")" = true ] && return 0
  done
  echo "WRONG: Tab does not reach $1"
  exit 1
}

for i in $(seq 100); do
  ask Target.getTargets '{}'
  target="$(sed -n 's/.*"targetId":"\([^"]*\)","type":"page","title":"quantbench report".*/\1/p' <<< "$answer")"
  [ -n "$target" ] && break
  sleep 0.1
done
[ -n "$target" ] || { echo "WRONG: the page does not open: $answer"; exit 1; }
ask Target.attachToTarget "{\"targetId\":\"$target\",\"flatten\":true}"
session="$(sed -n 's/.*"sessionId":"\([^"]*\)".*/\1/p' <<< "$answer")"
for i in $(seq 100); do
  [ "$(page_says "document.readyState === 'complete' && document.querySelectorAll('#table tbody tr').length > 0")" = true ] && break
  sleep 0.1
done

# Every control that can be seen, once each and in the order of the page.
controls="$(page_says "(window.controls = Array.from(document.querySelectorAll('a[href],button:not(:disabled),input,select,summary,[tabindex=\\\\'0\\\\']')).filter(e => e.getClientRects().length)).length")"
[ "${controls:-0}" -gt 20 ] || { echo "WRONG: the page has $controls controls"; exit 1; }
order=""
for i in $(seq $((controls * 2))); do
  tab
  at="$(page_says "window.controls.indexOf(document.activeElement)")"
  [ "$at" = -1 ] || order+="$at "  # Chromium also comes to what scrolls
  [ "$at" -lt $((controls - 1)) ] || break
done
expect "controls in the order in which Tab comes to them" "$order" "$(seq -s ' ' 0 $((controls - 1))) "
page_says "document.activeElement.blur() || scrollTo(0, 0)" > /dev/null

tab_to "e.matches('.skip')"
enter
expect "where the skip link leads" "$(page_says location.hash)" "#table"
tab_to "e.closest('#table thead') && e.textContent === 'tokens per second'"
sorted="document.activeElement.closest('th').getAttribute('aria-sort')"
enter
expect "Enter on a heading" "$(page_says "$sorted")" ascending
space
expect "Space on a heading" "$(page_says "$sorted")" descending
tab_to "e.matches('input[name=precision]')"
rows="document.querySelectorAll('#table tbody tr').length"
before="$(page_says "$rows")"
space
[ "$(page_says "$rows")" -lt "$before" ] || { echo "WRONG: Space on a filter leaves all $before rows"; failed=1; }
expect "the box after Space" "$(page_says "document.activeElement.checked")" false
space
expect "rows after Space again" "$(page_says "$rows")" "$before"
tab_to "e.matches('#ledger select')"
drawn="document.querySelector('#ledger svg[role=img]').outerHTML.replace(/chart[0-9]+/g, '').length + document.activeElement.value"
before="$(page_says "$drawn")"
press ArrowDown 40
expect "a choice after an arrow" "$(page_says "document.activeElement.value")" 1
[ "$(page_says "$drawn")" != "$before" ] || { echo "WRONG: an arrow does not draw the ledger anew"; failed=1; }
tab_to "e.matches('summary') && e.closest('#throughput')"
enter
expect "details after Enter" "$(page_says "document.activeElement.parentNode.open")" true
[ $failed -eq 0 ] && echo "keyboard: $controls controls, as it should be"
exit $failed
