# The figures of tools/gpu_check.sh beside the goals of an H100 and an H200, one line a figure. Reads what bench_decode
# --json printed, and the records of quantbench run (files whose name ends in .json):
#   awk -f tools/gpu_figures.awk RESULTS/*.txt RESULTS/*_records/*.json
# Any POSIX awk will do. A goal that is not reached is a figure, no failure: the exit status is 0.

# --- goals ---------------------------------------------------------------------------------------
# rate_goals: likewise in tokens/s. goals(what, model, engine, values): of fp16, int8 and 4bit, each for the H100 or, behind a slash, for the H200 where
# that differs. Shares of the read rate in %, at least; times in ms or s, memory in GiB, costs in %, at most.
function all_goals() {
  goals("decode", "Llama-3.2-1B", "persistent", "94/90 87/81 80/70")
  goals("decode", "Llama-3.2-1B", "graph", "80/70 66/55 56/45")
  goals("decode", "phi-2", "persistent", "95/92 90/85 86/77")
  goals("decode", "phi-2", "graph", "84/76 74/64 64/52")
  goals("decode b8", "Llama-3.2-1B", "graph", "67 56 45")
  goals("decode b32", "Llama-3.2-1B", "graph", "48 40 32")
  goals("decode d16384", "Llama-3.2-1B", "persistent", "75 75 75")
  goals("decode d16384", "Llama-3.2-1B", "graph", "75 75 75")
  goals("decode d1976", "phi-2", "persistent", "75 75 75")
  goals("decode d1976", "phi-2", "graph", "75 75 75")
  goals("first token of 8", "Llama-3.2-1B", "any", "1.4/1.0 0.95/0.7 0.8/0.6")
  goals("first token of 512", "Llama-3.2-1B", "any", "2.5 2.2 3.2")
  goals("first token of 512", "phi-2", "any", "5.5 5 7")
  goals("memory, allocated", "Llama-3.2-1B", "any", "2.34 1.44 1.02")
  goals("memory, allocated", "phi-2", "any", "5.23 2.89 1.79")
  goals("memory, process", "Llama-3.2-1B", "any", "3.02 2.24 1.72")
  goals("load", "Llama-3.2-1B", "any", "3 3 3")
  rate_goals("decode", "flan-t5-base", "persistent", "6000 6000 6000")
  goals("first token of 8", "flan-t5-base", "any", "1 1 1")
  goals("memory, allocated", "flan-t5-base", "any", "0.57 0.42 0.35")
  goals("decode", "paligemma-3b-pt-224", "persistent", "92 87 80")
  goals("first token of 256+8", "paligemma-3b-pt-224", "any", "5 5 6")
  goals("memory, allocated", "paligemma-3b-pt-224", "any", "5.51 3.31 2.26")
}
BEGIN {
  most_cost["decode"] = 2   # % that planted outliers may cost
  most_cost["first token"] = 10
  least_order = 0.99        # of int8 beside fp16 and of 4bit beside int8, in tokens/s
  split("fp16 int8 4bit", precisions, " ")
}
function goals(what, model, engine, values,   parts, card_values, i) {
  split(values, parts, " ")
  for (i = 1; i <= 3; ++i) {
    if (split(parts[i], card_values, "/") == 1) card_values[2] = card_values[1]
    goal[what, model, engine, precisions[i]] = card_values[card]
  }
}
function rate_goals(what, model, engine, values) {
  is_rate[what, model, engine] = 1
  goals(what, model, engine, values)
}

# --- what was measured ---------------------------------------------------------------------------
function field(line, key) {
  if (!match(line, "\"" key "\": ?(\"[^\"]*\"|[^,}]*)")) return ""
  line = substr(line, RSTART, RLENGTH)
  sub(/^"[^"]*": ?/, "", line)
  gsub(/"/, "", line)
  return line
}
function short(model) {
  sub(/.*\//, "", model)
  return model
}
# precision: "int8+16" with planted outlier channels. share: of the read rate, or "".
function figure(what, model, engine, precision, value, unit, share,   key) {
  key = what SUBSEP model SUBSEP engine SUBSEP precision
  if (!(key in values)) order[++figures] = key
  values[key] = value
  units[key] = unit
  shares[key] = share
}
FNR == 1 { section = ledger = name = random = "" }

/^\{"/ {
  model = short(field($0, "model"))
  device = field($0, "device")
  precision = field($0, "precision")
  if (field($0, "outlier_channels") > 0) precision = precision "+" field($0, "outlier_channels")
  if (field($0, "figure") == "decode") {
    what = "decode"
    if (field($0, "batch") > 1) what = what " b" field($0, "batch")
    if (field($0, "depth") > 0) what = what " d" field($0, "depth")
    figure(what, model, field($0, "engine"), precision, field($0, "value"), "tokens/s", 100 * field($0, "share"))
    rate = field($0, "read_bytes_per_second") / 1e12
    if (!least_rate || rate < least_rate) least_rate = rate
    if (rate > most_rate) most_rate = rate
  } else {
    what = field($0, "prompt_tokens")
    if (field($0, "picture_tokens") > 0) what = field($0, "picture_tokens") "+" what
    figure("first token of " what, model, "any", precision, field($0, "value"), "ms", "")
  }
}

# A record: a line a field, one blank a level.
FILENAME !~ /\.json$/ { next }
/^ "[a-z_]+":/ {
  section = $1
  gsub(/[":]/, "", section)
}
section == "devices" && /^   "name":/ { if (device == "" || device !~ /NVIDIA/) device = field($0, "name") }
section == "cell" && /^   "name":/ { name = short(field($0, "name")) }
section == "cell" && /^   "weights":/ { random = field($0, "weights") == "random" }
section == "cell" && /^  "precision":/ { precision = field($0, "precision") }
section == "outcome" && /^  "status":/ { status = field($0, "status") }
section == "load" && /^  "time_ns":/ && status == "ok" && !random {
  figure("load", name, "any", precision, field($0, "time_ns") / 1e9, "s", "")
}
section == "memory" && /^   "[a-z_]+_ledger": \{/ {
  ledger = $1
  allocated = 0
}
section == "memory" && /^    "(weights|scales|unquantized|kv_cache|activations|workspace|tables)":/ && ledger ~ /(load|run)_peak/ {
  line = $0
  gsub(/[^0-9]/, "", line)
  allocated += line
}
section == "memory" && /^   \},?$/ && ledger != "" {
  if (allocated > most_allocated) most_allocated = allocated
  ledger = ""
}
section == "memory" && /^   "peak_bytes":/ { peak = field($0, "peak_bytes") }
section == "cost" {
  if (status == "ok" && random && peak > 0) {
    figure("memory, allocated", name, "any", precision, most_allocated / 1073741824, "GiB", "")
    figure("memory, process", name, "any", precision, peak / 1073741824, "GiB", "")
  }
  peak = most_allocated = 0
  section = ""
}

# --- the table -----------------------------------------------------------------------------------
# is_most: the goal is the most that it may be.
function show(what, model, engine, precision, value, share, wanted, is_most, judged,   verdict, goal_text) {
  verdict = goal_text = "-"
  if (wanted != "") {
    goal_text = (is_most ? "<= " : ">= ") wanted
    verdict = (is_most ? judged <= wanted + 0 : judged >= wanted + 0) ? "reached" : "NOT REACHED"
    ++counts[verdict]
  }
  printf "%-19s %-9s %-11s %-26s %18s %9s %9s  %s\n", model, precision, engine, what, value, share, goal_text, verdict
}
function show_figure(key,   at, base, value, wanted) {
  split(key, at, SUBSEP)
  base = at[4]
  sub(/\+.*/, "", base)
  wanted = goal[at[1], at[2], at[3], base]
  value = values[key] + 0
  seen[at[1], at[2], at[3], base] = 1
  if (shares[key] != "") {
    show(at[1], at[2], at[3], at[4], sprintf("%.1f %s", value, units[key]), sprintf("%.1f %%", shares[key]), wanted, 0,
         ((at[1], at[2], at[3]) in is_rate) ? value : shares[key] + 0)
  } else {
    show(at[1], at[2], at[3], at[4], sprintf("%.3f %s", value, units[key]), "", wanted, 1, value)
  }
}
# What planted outliers cost, beside the same without.
function show_cost(key,   at, plain, kind, cost) {
  split(key, at, SUBSEP)
  if (at[4] !~ /\+/) return
  plain = at[1] SUBSEP at[2] SUBSEP at[3] SUBSEP "int8"
  kind = units[key] == "ms" ? "first token" : "decode"
  if (!(plain in values)) return
  cost = 100 * (kind == "decode" ? 1 - values[key] / values[plain] : values[key] / values[plain] - 1)
  show(at[1] ", cost", at[2], at[3], at[4], sprintf("%.1f %% slower", cost), "", card ? most_cost[kind] : "", 1, cost)
}
# 4bit, int8, fp16 in this order of speed, of a model with a goal in tokens/s neither slower than fp16; int8 with planted
# outliers where those were measured.
function show_order(key,   at, base, int8, ratio, other) {
  split(key, at, SUBSEP)
  if (at[4] != "fp16" || units[key] != "tokens/s") return
  base = at[1] SUBSEP at[2] SUBSEP at[3] SUBSEP
  int8 = ((base "int8+16") in values) ? values[base "int8+16"] : values[base "int8"]
  if (!int8 || !((base "4bit") in values)) return
  ratio = int8 / values[key]
  other = values[base "4bit"] / (((at[1], at[2], at[3]) in is_rate) ? values[key] : int8)
  if (other < ratio) ratio = other
  show(at[1] ", order", at[2], at[3], "all", sprintf("%.3f", ratio), "", card ? least_order : "", 0, ratio)
}
END {
  if (figures == 0) exit
  card = device ~ /(^| )H200/ ? 2 : device ~ /(^| )H100/ ? 1 : 0  # a GH200 is neither
  if (card) all_goals()
  printf "%s%s\n", device, card ? "" : ": no goals were set for it"
  if (most_rate) printf "read rate in these runs: %.3f to %.3f TB/s, which shares are of\n", least_rate, most_rate
  print "int8+16: with 16 planted outlier channels a layer, the figure that counts for int8"
  printf "%-19s %-9s %-11s %-26s %18s %9s %9s\n", "model", "precision", "engine", "what", "value", "share", "goal"
  for (i = 1; i <= figures; ++i) show_figure(order[i])
  for (i = 1; i <= figures; ++i) show_cost(order[i])
  for (i = 1; i <= figures; ++i) show_order(order[i])
  for (key in goal) if (!(key in seen)) ++missing
  printf "%d goals reached, %d not reached, %d not measured in these runs\n", counts["reached"], counts["NOT REACHED"],
    missing
}
