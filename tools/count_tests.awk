# awk -f tools/count_tests.awk CTEST_OUTPUT LASTTEST_LOG: prints "PASSED FAILED SKIPPED", then one line for each test that
# failed or was skipped. The first file, what ctest printed, decides how each test ended; the second holds what the tests
# printed, so that a GoogleTest program counts by its own tests. Any other test counts once, and a program that dies
# counts as one failure (a dying program prints no sum).

FNR == NR {
  if ($0 !~ /^ *[0-9]+\/[0-9]+ Test +#[0-9]+: /) next
  name = $0
  sub(/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: /, "", name)
  ending = name
  sub(/[ .*].*/, "", name)
  if (ending ~ /\*\*\*Skipped/) status[name] = "skipped"
  else if (ending ~ / Passed +[0-9.]+ sec/) status[name] = "passed"
  else status[name] = "failed"
  order[++tests] = name
  next
}
/^[0-9]+\/[0-9]+ Testing: / { name = $3 }
/^\[  PASSED  \] [0-9]+ test/ { summed[name] = 1; passed[name] = $4 }
/^\[  FAILED  \] [0-9]+ test/ { failed[name] = $4 }
/^\[  SKIPPED \] [0-9]+ test/ { skipped[name] = $4 }
/^\[  FAILED  \] [A-Za-z_0-9\/]+\./ { list("failed", $4) }
/^\[  SKIPPED \] [A-Za-z_0-9\/]+\./ { list("skipped", $4) }
/^skipped: / { reason[name] = substr($0, 10) }
function list(what, test) {
  sub(/,$/, "", test)
  if (!((name, test) in listed)) lines[name] = lines[name] what ": " name ": " test "\n"
  listed[name, test] = 1
}
END {
  for (i = 1; i <= tests; ++i) {
    name = order[i]
    if (status[name] == "skipped") {
      ++all_skipped
      lines[name] = "skipped: " name ": " reason[name] "\n"
    } else if (summed[name] && (status[name] == "passed" || failed[name] > 0)) {
      all_passed += passed[name]
      all_failed += failed[name]
      all_skipped += skipped[name]
    } else if (status[name] == "passed") {
      ++all_passed
    } else {
      ++all_failed
      lines[name] = "failed: " name "\n" lines[name]
    }
    text = text lines[name]
  }
  print all_passed + 0, all_failed + 0, all_skipped + 0
  printf "%s", text
}
