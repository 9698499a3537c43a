// tokenizer.json and a text through it: encode, decode, and decoding id by id. An input is the file, a zero byte, and
// the text; one that begins with a byte of 1 is a model of sentencepiece, which is parsed and written again.
#include "text/tokenizer.h"

#include "core/json.h"
#include "core/os.h"
#include "fuzz/json_tree.h"
#include "text/sentencepiece_file.h"
#include "text/test_small_tokenizers.h"

namespace quantbench::fuzz {
namespace {

using nlohmann::json;

constexpr char kSentencePiece = 1;

constexpr std::string_view kWords[] = {
    "\"Sequence\"",
    "\"ByteLevel\"",
    "\"Split\"",
    "\"Metaspace\"",
    "\"WhitespaceSplit\"",
    "\"Digits\"",
    "\"Replace\"",
    "\"Prepend\"",
    "\"Strip\"",
    "\"Precompiled\"",
    "\"ByteFallback\"",
    "\"Fuse\"",
    "\"BPE\"",
    "\"Unigram\"",
    "\"NFC\"",
    "\"TemplateProcessing\"",
    "\"Isolated\"",
    "\"Removed\"",
    "\"MergedWithPrevious\"",
    "\"MergedWithNext\"",
    "\"Contiguous\"",
    "\"first\"",
    "\"never\"",
    "\"always\"",
    "\"AAAA\"",
    "\"type\"",
    "\"pattern\"",
    "\"Regex\"",
    "\"String\"",
    "\"content\"",
    "\"behavior\"",
    "\"invert\"",
    "\"replacement\"",
    "\"prepend_scheme\"",
    "\"split\"",
    "{\"type\":\"Digits\",\"individual_digits\":true}",
    "{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true}",
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a|aa)+$\"},\"behavior\":\"Isolated\",\"invert\":false}",
    "{\"Regex\":\"\\\\p{N}{1,3}|\\\\s+(?!\\\\S)\"}",
    "\"(a*)*b\"",
    "\"[^\\\\s]+\"",
    "\"(?i:'s|'t)\"",
    "\"\xE2\x96\x81\"",
    "\"<0x41>\""};
constexpr std::string_view kTexts[] = {
    "a",          " ",       "\n",        "\u00e9",  "\u4e2d",        "\U0001F600", "12",
    "'LL",        "<left>",  "  <both> ", "<right>", "<|endoftext|>", "\u0301",     "\u0085",
    "na\u00efve", "<word>",  "the",       "\u2581",  "\ufb01",        "</s>",       "<unk>",
    "<bos>",      "<image>", "\r\n",      "\ua66e",  "<0x41>",        "\xff",       "aaaaaaaaaaaaaaaaaaaaaaaa"};

void sentencepiece(std::string_view bytes) {
  const SentencePieceFile file = parse_sentencepiece(bytes, "spiece.model");
  const SentencePieceFile again = parse_sentencepiece(file.serialized(), "again");
  check(again.serialized() == file.serialized(), "a model of sentencepiece is written and read as the same");
}

}  // namespace

void run(std::string_view input) {
  if (!input.empty() && input[0] == kSentencePiece) return sentencepiece(input.substr(1));
  const size_t cut = std::min(input.find('\0'), input.size());
  const Tokenizer tokenizer =
      Tokenizer::from_json(parse_json(input.substr(0, cut), "tokenizer.json"), "tokenizer.json");
  const std::string_view text = input.substr(std::min(cut + 1, input.size()));
  const std::vector<int32_t> ids = tokenizer.encode(text, true);
  for (const int32_t id : ids) check(id >= 0 && id < tokenizer.size(), "an id is one of the tokenizer's");
  const std::string decoded = tokenizer.decode(ids, false);
  parse_json(json(decoded).dump(), "decoded");  // valid UTF-8
  StreamDecoder stream(tokenizer, false);
  std::string streamed;
  for (const int32_t id : ids) streamed += stream.push(id);
  streamed += stream.finish();
  check(streamed == decoded, "id by id the text is the same");
}

std::vector<std::string> seeds() {
  const std::string text =
      "The na\u00efve  12345 caf\u00e9s,\r\n don't <|endoftext|></s> \u4e2d\u6587 \U0001F600 e\u0301";
  std::vector<std::string> seeds;
  for (const json& document : {small_document(), small_unigram(), small_gemma()})
    seeds.push_back(document.dump() + '\0' + text);
  // The pre-tokenizers of published models over the same small vocabulary.
  for (const std::string form : {"llama3", "phi2"}) {
    const json whole = read_json_file(QB_SOURCE_DIR "/testdata/tokenizers/" + form + "/tokenizer.json");
    json document = small_document();
    for (const char* part : {"normalizer", "pre_tokenizer", "decoder"}) document[part] = whole[part];
    seeds.push_back(document.dump() + '\0' + text);
  }
  for (const std::string model : {"t5/spiece.model", "gemma/tokenizer.model"}) {
    const std::string bytes = os::read_file(QB_SOURCE_DIR "/testdata/tokenizers/" + model, 1 << 20);
    seeds.push_back(std::string(1, kSentencePiece) + bytes);
    seeds.push_back(std::string(1, kSentencePiece) + bytes.substr(0, 400));
  }
  return seeds;
}

void mutate(std::string* input, std::string_view other, Random& random) {
  if (!input->empty() && (*input)[0] == kSentencePiece) return mutate_bytes(input, random);
  std::vector<std::string> parts = split_sections(*input, '\0');
  if (parts.size() > 1 && random.one_in(3)) {
    std::string& text = parts[1];
    const size_t at = random.below(text.size() + 1);
    switch (random.below(4)) {
      case 0: text.insert(at, random.pick(std::span<const std::string_view>(kTexts))); break;
      case 1: text.erase(at, 1 + random.below(16)); break;
      case 2: text.insert(at, text.substr(random.below(text.size() + 1), random.below(64))); break;
      default: mutate_bytes(&text, random);
    }
  } else {
    mutate_json(&parts[0], split_sections(other, '\0')[0], random, kWords);
  }
  *input = join_sections(parts, '\0');
}

}  // namespace quantbench::fuzz
