#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in stages; prints one table at the end, and the figures beside their goals. Runs from
# the root of a copy of this tree, with the programs that the preset gpu-check makes (they need no library that a bare system
# lacks):
#   cmake --preset gpu-check && cmake --build --preset gpu-check && cmake --install build/gpu-check --strip
#   tools/gpu_check.sh [--programs FOLDER] [--out FOLDER] [--pack FILE.tar.gz] [--scratch FOLDER] [STAGE…]
#
#   start     the program finds the card, measures on it by itself, and records it as nvidia-smi names it
#   ops       made of ops_all (the op tests, single linears) and ops_rest (ops of 130 and 512 rows without cuBLASLt as well,
#             goldens and sessions of the CUDA backend)
#   faults    a kernel that writes where no memory is, and memory that runs out, each in one cell of a sweep
#   figures   decoding by both engines and first tokens behind texts of 8 and 512 tokens, by the project's own bench, beside
#             the read rate of the same run; int8 also with 16 planted outlier channels; made of figures_MODEL (llama, phi, t5
#             or paligemma)
#   batches   decoding of 2 to 32 sequences, each beside it alone
#   context   decoding behind 16,384 tokens (Llama) and 1,976 (Phi-2, whose longest context is 2,048)
#   memory    the most device memory of each model and precision, allocated and of the whole process, and the time that a
#             checkpoint takes to load from the page cache: by quantbench run and its records; made of memory_MODEL and
#             memory_load
#   op_figures  each op × format of the real shapes alone: µs, GB/s, share of the read rate
#   sanitize  compute-sanitizer; made of sanitize_memcheck (persistent kernel, sessions of both engines with prompts and
#             batches, op tests), sanitize_racecheck and sanitize_race_batches (the graph engine's sessions, op tests),
#             sanitize_initcheck (as memcheck), sanitize_families (T5 and PaliGemma, memcheck), sanitize_race_t5 and
#             sanitize_race_paligemma
#   parity    whole models beside transformers and bitsandbytes' arithmetic (tools/parity.py; python3 with torch and
#             transformers); made of parity_MODEL_short, from position 0 on or behind a short text, and parity_MODEL_long,
#             behind a long context or text
#   soak      every bit of all logits must repeat; made of soak_MODEL_PRECISION (fp16, int8 or 4bit), 100,000 tokens each, and chaos_MODEL_PRECISION, 10,000 of a build whose persistent kernel waits at random, where
#             build/gpu-check-chaos-folder is: hashes as without
#   turing    the op tests and goldens by a build of compute_75 PTX alone, where build/gpu-check-turing-folder is
# The last two need their own builds (X: chaos or turing):
#   cmake --preset gpu-check-X && cmake --build --preset gpu-check-X && cmake --install build/gpu-check-X --strip --component checks
# Each stage (where it is made of parts: each part) takes at most five minutes, each run in it has a limit of its own.
# Output goes to the out folder, and into the packed file, as it comes; a run that fails does not stop the others. --scratch:
# for a checkpoint of 2.5 GB, which is deleted again; by default $TMPDIR or /tmp. Exit status 1 if any failed, or if a stage
# that was named could not run for want of a tool; a goal that is not reached is a figure, no failure.
set -uo pipefail
programs=build/gpu-check-folder/bin
chaos_programs=build/gpu-check-chaos-folder/bin
turing_programs=build/gpu-check-turing-folder/bin
out=build/gpu-check-results
packed=""
scratch="${TMPDIR:-/tmp}"
all_stages=(start ops faults figures batches context memory op_figures sanitize parity soak turing)
# model_of NAME: of a stage; nothing where the name is none.
model_of() {
  case "$1" in
    llama) echo meta-llama/Llama-3.2-1B ;;
    phi) echo microsoft/phi-2 ;;
    t5) echo google/flan-t5-base ;;
    paligemma) echo google/paligemma-3b-pt-224 ;;
  esac
}
figures_stages=(figures_{llama,phi,t5,paligemma})
memory_stages=(memory_{llama,phi,t5,paligemma,load})
ops_stages=(ops_{all,rest})
sanitize_stages=(sanitize_{memcheck,racecheck,race_batches,initcheck,families,race_t5,race_paligemma})
parity_stages=(parity_{llama,phi,t5,paligemma}_{short,long})
soak_stages=({soak,chaos}_{llama,phi,t5,paligemma}_{fp16,int8,4bit})
stages=()
while [ $# -gt 0 ]; do
  case " $1 " in
    " --programs ") programs="${2:?}"; shift 2 ;;
    " --out ") out="${2:?}"; shift 2 ;;
    " --pack ") packed="$(realpath -m "${2:?}")"; shift 2 ;;
    " --scratch ") scratch="${2:?}"; shift 2 ;;
    *)
      # One name: with its blanks replaced, "ops figures" is none.
      case " ${all_stages[*]} ${figures_stages[*]} ${memory_stages[*]} ${ops_stages[*]} ${sanitize_stages[*]} ${parity_stages[*]} ${soak_stages[*]} " in
        *" ${1// /?} "*) stages+=("$1"); shift ;;
        *) sed -n '2,36s/^# \{0,1\}//p' "$0"; exit 64 ;;
      esac ;;
  esac
done
named=1
if [ ${#stages[@]} -eq 0 ]; then
  named=0
  stages=("${all_stages[@]}")
fi
mkdir -p "$out"
if [ -e "$out/table.txt" ]; then
  # Of an earlier run; folders of parity's parts that this run leaves out may stay.
  rm -rf "$out"/*.txt "$out"/*_records
  for stage in "${stages[@]}"; do
    IFS=_ read -r kind model place <<< "$stage"
    if [ "$stage" = parity ]; then
      rm -rf "$out"/parity_*
    elif [ "$kind" = parity ]; then
      name="$(model_of "$model")"
      rm -rf "$out/parity_${name#*/}_$place"
    fi
  done
elif [ -n "$(ls -A "$out")" ]; then
  echo "gpu_check: $out holds something else than results; name another folder with --out"
  exit 64
fi
rows=()
failed=0
stage_end=0

# row NAME VERDICT SECONDS TEXT
row() {
  rows+=("$(printf '%-32s %-18s %4d s  %s' "$1" "$2" "$3" "$(cut -c1-170 <<< "$4")")")
  echo "${rows[-1]}" | tee -a "$out/table.txt"
  pack
}
pack() {
  if [ -n "$packed" ]; then tar -czf "$packed.new" -C "$out" . && mv "$packed.new" "$packed"; fi
}
# not_run NAME WHY: for want of a tool or a build; a failure where the stage was asked for by name.
not_run() {
  [ $named -eq 0 ] || failed=1
  row "$1" "NOT RUN" 0 "$2"
}

# run NAME SECONDS COMMAND…: one row of the table.
run() {
  local name="$1" limit="$2" left=$((stage_end - SECONDS)) start=$SECONDS status=0
  shift 2
  [ "$left" -ge "$limit" ] || limit=$((left > 1 ? left : 1))
  timeout -k 10 "$limit" "$@" > "$out/$name.txt" 2>&1 || status=$?
  [ $status -eq 0 ] || failed=1
  local verdict="passed"
  if grep -qE 'SKIPPED(:|,| since)' "$out/$name.txt"; then verdict="passed, SKIPPED"; fi
  [ $status -eq 0 ] || verdict="FAILED ($status)"
  # 137: it did not heed the first signal.
  if [ $status -eq 124 ] || { [ $status -eq 137 ] && [ $((SECONDS - start)) -ge "$limit" ]; }; then
    verdict="FAILED (over $limit s)"
  fi
  row "$name" "$verdict" $((SECONDS - start)) "$(grep -v '^{"' "$out/$name.txt" | tail -n 1)"
  return $status
}

export QB_REQUIRE_GPU=1  # a test that finds none fails
# The model, and the picture beside it, need not be carried twice.
share="$programs/../share/quantbench/models"
if [ ! -e "$share/bundled" ]; then mkdir -p "$share" && ln -s "$PWD/models/bundled" "$share/bundled"; fi
start() {
  local card
  run start_doctor 60 "$programs/quantbench" doctor --device cuda
  run start_run 120 "$programs/quantbench" run -r 3 --max-new-tokens 32 --out "$out/start_records"
  card="$(nvidia-smi --query-gpu=uuid,name --format=csv,noheader | head -n 1)"
  # Each of them.
  run start_names_the_card 10 bash -c '
    uuid="$1" name="$2" missing=0
    shift 2
    for record; do
      for field in "\"uuid\": \"$uuid\"" "\"name\": \"$name\""; do
        grep -qF "$field" "$record" || { echo "$record: no $field"; missing=$((missing + 1)); }
      done
    done
    echo "$# records beside $name, $uuid: $missing fields missing"
    [ -n "$uuid" ] && [ -n "$name" ] && [ $missing -eq 0 ]' \
    _ "${card%%, *}" "${card#*, }" "$out"/start_records/*.json
  run start_without_the_card 60 env CUDA_VISIBLE_DEVICES= "$programs/quantbench" generate --max-new-tokens 4
}
many_rows='*project*130*:*project*512*:*add_linear*130*:*add_linear*512*:*attention*512*:*gated_up*130*:*gated_up*512*'
ops_all() { run ops_test 290 "$programs/ops_test" --gtest_brief=1; }
ops_rest() {
  # Hopper's own tensor products, which do all that the library would.
  run ops_test_own_products 120 env QUANTBENCH_CUBLASLT=off "$programs/ops_test" --gtest_brief=1 \
    "--gtest_filter=$many_rows"
  run engine_test 120 "$programs/engine_test" --gtest_brief=1 '--gtest_filter=*cuda*'
}
ops() { parts "${ops_stages[@]}"; }
faults() { run device_faults_test 120 "$programs/device_faults_test" --gtest_brief=1; }
models=(meta-llama/Llama-3.2-1B microsoft/phi-2)
# Of decoding; nothing is timed before 32 positions' logits agree with those of other ways to make them.
bench=("$programs/bench_decode" --device cuda --json --check 32 -p 8 --read-bytes 2576980378)
planted=(--precision int8 --outlier-channels 16)
# figures_part MODEL
figures_part() {
  local prompts="8,512"
  # Behind a picture; the CPU's kernels would take minutes for more.
  [[ "$1" != */paligemma* ]] || prompts=8
  local both=("${bench[@]}" --engine "persistent,graph" --rounds 5 -n 64 --prefill "$prompts" --prefill-rounds 5 --model-id "$1")
  # A prompt that sees itself cannot be made one token a step: its first logits are held to those of the CPU's kernels.
  [[ "$1" != google/* ]] || both+=(--check-with cpu)
  run "decode_${1#*/}" 200 "${both[@]}"
  run "decode_${1#*/}_planted" 95 "${both[@]}" "${planted[@]}"
}
parts() {
  local part
  for part; do stage "$part"; done
}
figures() { parts "${figures_stages[@]}"; }
# One sequence alone is measured by the stage figures, for longer.
batches() {
  local model batch=("${bench[@]}" --engine graph -n 16 --rounds 5 --prefill-rounds 0)
  for model in "${models[@]}"; do
    run "batches_${model#*/}" 90 "${batch[@]}" --model-id "$model" -b 2,4,8,16,32
  done
  run batches_Llama-3.2-1B_planted 60 "${batch[@]}" "${planted[@]}" -b 8,32
}
context() {
  local model depth both=("${bench[@]}" --engine "persistent,graph" -n 64 --rounds 3 --prefill-rounds 0)
  for model in "${models[@]}"; do
    # Phi-2: with 8 tokens of prompt and 64 new ones, all that it was made for.
    depth=16384
    [ "$model" != microsoft/phi-2 ] || depth=1976
    run "context_${model#*/}" 100 "${both[@]}" --model-id "$model" -d "$depth"
    run "context_${model#*/}_planted" 50 "${both[@]}" --model-id "$model" -d "$depth" "${planted[@]}"
  done
}
memory() { parts "${memory_stages[@]}"; }
measure=("$programs/quantbench" run --device cuda -r 1)
# memory_part MODEL
memory_part() {
  run "memory_${1#*/}" 110 "${measure[@]}" --model-id "$1" --random-weights --out "$out/memory_${1#*/}_records"
}
memory_load() {
  local checkpoint load=("${measure[@]}" --engine graph -pg "2,2")
  if ! checkpoint="$(mktemp -d "$scratch/gpu_check.XXXXXX")"; then
    not_run load "$scratch is no folder to write into"
    return
  fi
  # The second run finds all of it in the page cache. The figure is listed by the folder's last name.
  if run load_checkpoint 50 "$programs/engine_check" checkpoint --out "$checkpoint/Llama-3.2-1B"; then
    load+=(--model-id "$checkpoint/Llama-3.2-1B")
    run load_first 50 "${load[@]}" --out "$checkpoint/first"
    run load 50 "${load[@]}" --out "$out/load_records"
  fi
  rm -rf "$checkpoint"
}
# The path of compute-sanitizer; nothing where there is none.
find_sanitizer() {
  local path
  for path in "$(command -v compute-sanitizer)" /usr/local/cuda/bin/compute-sanitizer \
    /usr/local/cuda*/bin/compute-sanitizer /usr/local/cuda*/compute-sanitizer/compute-sanitizer; do
    if [ -x "$path" ]; then
      echo "$path"
      return
    fi
  done
}
# small_model FILE: what both engines run in a few milliseconds.
small_model() {
  cat > "$1" << 'END'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024,
 "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 512,
 "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
 "tie_word_embeddings": true, "bos_token_id": 511, "eos_token_id": 511, "attention_bias": false, "mlp_bias": false}
END
}
# The same of an encoder with a decoder, and of a picture's tower with a decoder whose rows are long.
small_t5() {
  cat > "$1" << 'END'
{"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 2,
 "num_decoder_layers": 2, "num_heads": 8, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
 "feed_forward_proj": "gated-gelu", "layer_norm_epsilon": 1e-6, "vocab_size": 512, "tie_word_embeddings": false,
 "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "is_encoder_decoder": true, "n_positions": 512}
END
}
small_paligemma() {
  cat > "$1" << 'END'
{"architectures": ["PaliGemmaForConditionalGeneration"], "model_type": "paligemma", "hidden_size": 256, "projection_dim": 256,
 "image_token_index": 500, "vocab_size": 512, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
 "text_config": {"model_type": "gemma", "head_dim": 256, "hidden_size": 256, "intermediate_size": 9216,
  "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2, "num_image_tokens": 16, "vocab_size": 512},
 "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 144, "num_attention_heads": 2, "image_size": 56,
  "intermediate_size": 288, "num_hidden_layers": 2, "num_image_tokens": 16, "patch_size": 14, "projection_dim": 256}}
END
}
# sanitized TOOL NAME LIMIT PROGRAM ARGUMENT…
sanitized() {
  local tool="$1" name="sanitize_$1_$2" limit="$3" path
  shift 3
  path="$(find_sanitizer)"
  if [ -z "$path" ]; then
    not_run "$name" "compute-sanitizer is neither in PATH nor below /usr/local/cuda*; it comes with CUDA's toolkit"
    return
  fi
  run "$name" "$limit" "$path" --tool "$tool" --error-exitcode 9 "$@"
}
# Prompts of 20 tokens by kernels of our own, of 40 by the library's products, of 70 the gated ones by tensor products of our
# own where the card has them, all with flash attention.
small_sessions=("$programs/bench_decode" --device cuda --model-id "$out/small_llama.json" --outlier-channels 4 --rounds 1
  -n 3 -p 20 --read-bytes 4194304)
# families TOOL LIMIT ENGINES FAMILY…
families() {
  local -A configuration=([t5]=small_t5 [paligemma]=small_paligemma)
  local tool="$1" limit="$2" engines="$3" family
  shift 3
  for family in "$@"; do
    "${configuration[$family]}" "$out/small_$family.json"
    sanitized "$tool" "$family" "$limit" "$programs/bench_decode" --device cuda --model-id "$out/small_$family.json" \
      --outlier-channels 4 --engine "$engines" --rounds 1 -n 3 -p 20 --read-bytes 4194304 --check 8 --prefill 20 --prefill-rounds 1
  done
}
op_tests=("$programs/ops_test" --gtest_brief=1 '--gtest_filter=*small_1:*small_5:*odd_5')
sanitize_memcheck() {
  small_model "$out/small_llama.json"
  sanitized memcheck persistent 60 "$programs/bench_decode" --device cuda --engine persistent -n 2 -p 4 --rounds 1 \
    --prefill 8 --prefill-rounds 0
  sanitized memcheck session 90 "${small_sessions[@]}" --engine persistent,graph -d 0,150 --check 20 --prefill 20,40,70 \
    --prefill-rounds 1
  sanitized memcheck batches 60 "${small_sessions[@]}" --engine graph -b 2,8,32 --prefill-rounds 0
  sanitized memcheck ops 90 "${op_tests[@]}"
}
sanitize_families() { families memcheck 110 persistent,graph t5 paligemma; }
sanitize_race_of() {
  export QUANTBENCH_CUBLASLT=off
  families racecheck 290 graph "$1"
  unset QUANTBENCH_CUBLASLT
}
sanitize_race_t5() { sanitize_race_of t5; }
sanitize_race_paligemma() { sanitize_race_of paligemma; }
# Whether anything is read that nothing wrote.
sanitize_initcheck() {
  small_model "$out/small_llama.json"
  export QUANTBENCH_CUBLASLT=off
  sanitized initcheck session 110 "${small_sessions[@]}" --engine persistent,graph -d 0,150 --prefill 20,40 --prefill-rounds 1
  sanitized initcheck batches 60 "${small_sessions[@]}" --engine graph -b 8 --prefill-rounds 0
  families initcheck 60 persistent,graph t5 paligemma
  unset QUANTBENCH_CUBLASLT
  sanitized initcheck ops 60 "${op_tests[@]}"
}
# What the library's own kernels do is not looked at, and searching for the best of them would take most of the time.
sanitize_racecheck() {
  small_model "$out/small_llama.json"
  export QUANTBENCH_CUBLASLT=off
  sanitized racecheck session 110 "${small_sessions[@]}" --engine graph -d 0,150 --prefill 20,40 --prefill-rounds 1
  unset QUANTBENCH_CUBLASLT
  sanitized racecheck ops 90 "${op_tests[@]}"
}
sanitize_race_batches() {
  small_model "$out/small_llama.json"
  export QUANTBENCH_CUBLASLT=off
  sanitized racecheck batches 290 "${small_sessions[@]}" --engine graph -b 8 --prefill-rounds 0
  unset QUANTBENCH_CUBLASLT
}
sanitize() { parts "${sanitize_stages[@]}"; }
op_figures() {
  run op_figures 290 "$programs/ops_bench" --device=cuda '--benchmark_filter=llama|phi'
}
# parity_part MODEL PLACE
parity_part() {
  local name="parity_${1#*/}_$2"
  if ! python3 -c 'import torch, transformers; assert torch.cuda.is_available()' 2> /dev/null; then
    not_run "$name" "python3 here has no torch with CUDA, or no transformers"
    return
  fi
  run "$name" 290 python3 tools/parity.py --program "$programs/engine_check" --model "$1" --place "$2" \
    --out "$out/$name"
}
parity() { parts "${parity_stages[@]}"; }
# soak_run NAME LIMIT FOLDER MODEL PRECISION ENGINE ARGUMENT…
soak_run() {
  local name="$1" limit="$2" folder="$3" model="$4" precision="$5" engine="$6"
  shift 6
  run "$name" "$limit" "$folder/engine_check" --device cuda --model "$model" --precision "$precision" --engine "$engine" \
    soak "$@"
}
# soak_part MODEL PRECISION: the graph engine, whose order is CUDA's, less often.
soak_part() {
  soak_run "soak_${1#*/}_${2}_persistent" 235 "$programs" "$1" "$2" persistent --tokens 100000
  soak_run "soak_${1#*/}_${2}_graph" 60 "$programs" "$1" "$2" graph --tokens 1 --generations 10
}
# chaos_part MODEL PRECISION: one pass of each build. Prompts without cuBLASLt, whose kernels are chosen by a timing and so
# may be others, with other roundings, in another process.
chaos_part() {
  local name="chaos_${1#*/}_$2"
  if [ ! -x "$chaos_programs/engine_check" ]; then
    not_run "$name" "$chaos_programs/engine_check is not here"
    return
  fi
  export QUANTBENCH_CUBLASLT=off
  soak_run "${name}_without" 60 "$programs" "$1" "$2" persistent --tokens 1 --passes 1
  soak_run "$name" 230 "$chaos_programs" "$1" "$2" persistent --tokens 1 --passes 1
  unset QUANTBENCH_CUBLASLT
  if grep -q ^SKIPPED "$out/$name.txt"; then return; fi
  run "${name}_hash" 10 bash -c '
    hash() { grep -o "hash [0-9a-f]\{16\}" "$1"; }
    echo "without: $(hash "$1"), with chaos: $(hash "$2")"
    grep -q "chaos build" "$2" && [ -n "$(hash "$1")" ] && [ "$(hash "$1")" = "$(hash "$2")" ]' \
    _ "$out/${name}_without.txt" "$out/$name.txt"
}
soak() { parts "${soak_stages[@]}"; }
turing() {
  if [ ! -x "$turing_programs/ops_test" ]; then
    not_run turing "$turing_programs/ops_test is not here"
    return
  fi
  # The driver compiles what each test is the first to use.
  run turing_ops_test 180 "$turing_programs/ops_test" --gtest_brief=1
  run turing_engine_test 110 "$turing_programs/engine_test" --gtest_brief=1 '--gtest_filter=*cuda*'
}

command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/gpu.txt"
# stage NAME: within five minutes.
stage() {
  local kind model precision
  stage_end=$((SECONDS + 300))
  IFS=_ read -r kind model precision <<< "$1"
  model="$(model_of "$model")"
  if [ -n "$model" ]; then "${kind}_part" "$model" "$precision"; else "$1"; fi
}
for name in "${stages[@]}"; do stage "$name"; done
echo
printf '%s\n' "${rows[@]}"
records=()
for file in "$out"/*_records/*.json; do
  if [ -f "$file" ]; then records+=("$file"); fi
done
echo
awk -f tools/gpu_figures.awk "$out"/*.txt "${records[@]}" | tee "$out/figures_table.txt"
pack
exit $failed
