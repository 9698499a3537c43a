// What people give to a model of pictures or with an encoder, right and wrong: picture files, prompts, tokenizers.
#include <sys/stat.h>

#include <algorithm>

#include "app/program_under_test.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/renamed_source.h"
#include "checkpoint/safetensors.h"
#include "text/tokenizer.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const std::string kPaliGemma = QB_SOURCE_DIR "/testdata/models/paligemma";
constexpr int32_t kPictureToken = 160;
constexpr size_t kPatches = 16;

std::string test_image(const std::string& name) {
  return os::read_file(QB_SOURCE_DIR "/testdata/images/" + name, 1 << 20);
}

json special_token(const char* name, int32_t id) { return {{"id", name}, {"ids", {id}}, {"tokens", {name}}}; }

// Of the tiny PaliGemma's 192 ids: single letters behind the special tokens. The file's template puts <bos> before a
// text, or what is given round it ("A" is the text).
std::string letters(int32_t image_token, const std::vector<std::string>& around = {"<bos>", "A"}) {
  json document = read_json_file(kTokenizers + "/gemma/tokenizer.json"), vocab = json::object();
  int32_t id = 0;
  for (const char* token : {"<pad>", "<eos>", "<bos>", "<unk>", "\n", "▁"}) vocab[token] = id++;
  for (char letter = 'a'; letter <= 'z'; ++letter) vocab[std::string(1, letter)] = id++;
  document["model"]["vocab"] = vocab;
  document["model"]["merges"] = json::array();
  document["model"]["byte_fallback"] = false;
  json& added = document["added_tokens"];
  json special = json::array();
  for (const json& token : added) {
    if (token["id"] < 4) special.push_back(token);
    if (token["content"] != "<image>") continue;
    special.push_back(token);
    special.back()["id"] = image_token;
  }
  added = special;
  json& processor = document["post_processor"];
  processor["single"] = json::array();
  for (const std::string& part : around) {
    processor["single"].push_back({{part == "A" ? "Sequence" : "SpecialToken", {{"id", part}, {"type_id", 0}}}});
  }
  processor["special_tokens"] = {{"<bos>", special_token("<bos>", 2)}, {"<eos>", special_token("<eos>", 1)}};
  return document.dump();
}

class PictureModel : public testing::Test {
 protected:
  PictureModel() { folder_.write("tokenizer.json", letters(kPictureToken)); }

  Result generate(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments{"generate",    "--model-id",       kPaliGemma,
                                       "--tokenizer", folder_.path(),     "--device",
                                       "reference",   "--max-new-tokens", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }
  Result measure(const std::vector<std::string>& more) const {
    std::filesystem::remove_all(folder_ / "out");  // a folder takes one sweep
    std::vector<std::string> arguments{"run",      "--model-id", kPaliGemma, "--precision",   "fp16",
                                       "--device", "reference",  "--out",    folder_ / "out", "-r",
                                       "1",        "-o",         "jsonl"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }
  Result measure_prompt(const std::string& prompt) const {
    return measure({"--tokenizer", folder_.path(), "--prompt", prompt, "--max-new-tokens", "2"});
  }
  TestFolder folder_;
};

TEST_F(PictureModel, TakesEveryKindOfPicture) {
  for (const char* name : {"cmyk.jpg", "ycck.jpg", "grey.jpg", "progressive.jpg", "one_pixel.jpg", "orientation_6.jpg",
                           "grey_1.png", "grey_16.png", "rgb_16.png", "rgba_16.png", "grey_alpha_8.png", "rgba_8.png",
                           "palette_transparent.png", "lossy_alpha.webp", "lossless.webp", "animated.webp"}) {
    const Result r = generate({"--image-path", QB_SOURCE_DIR "/testdata/images/" + std::string(name)});
    EXPECT_EQ(r.code, 0) << name << ": " << r.err;
  }
  const Result r = measure({"--pg", "20,2", "--image-path", QB_SOURCE_DIR "/testdata/images/orientation_6.jpg"});
  ASSERT_EQ(r.code, 0) << r.err;
  const json record = lines_of(r.out).at(0);
  expect_well_formed(record);
  EXPECT_EQ(record["load"]["picture"]["width"], 5) << record["load"];  // upright
  EXPECT_EQ(record["load"]["picture"]["height"], 7);
}

TEST_F(PictureModel, RefusesABadPictureBeforeItMeasures) {
  const std::string jpeg = test_image("444.jpg"), png = test_image("rgb_8.png"), webp = test_image("lossy.webp");
  std::string bomb = test_image("grey_1.png"), empty = png, damaged = png;
  bomb.replace(16, 8, std::string("\0\0\x4E\x20\0\0\x4E\x20", 8));
  empty.replace(16, 4, std::string(4, '\0'));
  damaged[damaged.find("IDAT") + 10] ^= 0x55;
  const std::vector<std::pair<std::string, const char*>> files{
      {jpeg.substr(0, 900), "it ends early, after 900 bytes"},
      {png.substr(0, 300), "it ends early, after 300 bytes"},
      {webp.substr(0, 200), "end early, after 200 bytes"},
      {damaged, "is damaged"},
      {bomb, "20000 × 20000 pixels, at most 178956970"},
      {empty, "a picture without pixels"},
      {"", "it has no bytes"},
      {"GIF89a..........", "a GIF"},
      {"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"}};
  for (const auto& [content, expected] : files) {
    const std::string path = folder_.write("picture.png", content);
    for (const Result& r : {measure({"--pg", "20,2", "--image-path", path}), generate({"--image-path", path})}) {
      EXPECT_EQ(r.code, exit_code(ErrorKind::usage)) << r.err;
      EXPECT_THAT(r.err, AllOf(HasSubstr(path), HasSubstr(expected), Not(HasSubstr("measuring"))));
      EXPECT_EQ(r.out, "");
    }
  }
  EXPECT_THAT(generate({"--image-path", folder_.path()}).err, HasSubstr("--image-path: there is no file"));
  ASSERT_EQ(::mkfifo((folder_ / "fifo").c_str(), 0600), 0);
  const Result fifo = generate({"--image-path", folder_ / "fifo"});
  EXPECT_EQ(fifo.code, exit_code(ErrorKind::disk));
  EXPECT_THAT(fifo.err, HasSubstr("expected a regular file"));
}

TEST_F(PictureModel, PassesOnWhatIsRemarkedOfAPicture) {
  const std::string jpeg = test_image("444.jpg");
  const size_t scan = jpeg.find("\xFF\xDA");
  const std::string path = folder_.write("picture.jpg", jpeg.substr(0, scan) + "junk" + jpeg.substr(scan));
  for (const Result& r : {measure({"--pg", "20,2", "--image-path", path}), generate({"--image-path", path})}) {
    EXPECT_EQ(r.code, 0);
    EXPECT_THAT(r.err, HasSubstr("'" + path + "': libjpeg says: Corrupt JPEG data: 4 extraneous bytes"));
  }
}

// transformers 5.17, PaliGemmaProcessor.prepare_inputs_layout: without "<image>" in a prompt it is put before it, with
// it <bos> follows the last one; then each becomes as many tokens as a picture has patches.
TEST_F(PictureModel, APromptMayBeginWithTheTokenOfThePicture) {
  const Tokenizer tokenizer = Tokenizer::from_file(folder_ / "tokenizer.json");
  for (const auto& [prompt, text] :
       std::vector<std::pair<std::string, std::string>>{{"caption en", "<bos>caption en\n"},
                                                        {"<image>caption en", "<bos>caption en\n"},
                                                        {"<image>", "<bos>\n"},
                                                        {"", "<bos>\n"}}) {
    const Result r = measure_prompt(prompt);
    ASSERT_EQ(r.code, 0) << r.err;
    std::vector<int32_t> expected(kPatches, kPictureToken);
    for (const int32_t id : tokenizer.encode(text, false)) expected.push_back(id);
    EXPECT_EQ(lines_of(r.out).at(0)["prompt"]["ids"], json(expected)) << prompt;
  }
}

// PaliGemmaProcessor writes <bos> into the text and sets add_bos_token and add_eos_token to false, so the
// tokenizer.json that it saves has neither in its template; other files have one of them or both.
TEST_F(PictureModel, BeginsItsTextWithBosAndEndsItWithALineWhateverTheTokenizerAdds) {
  const json expected = lines_of(measure_prompt("caption en").out).at(0)["prompt"]["ids"];
  ASSERT_EQ(expected.at(kPatches), 2);
  ASSERT_EQ(expected.back(), 4) << "a line's end";
  for (const std::vector<std::string>& around :
       std::vector<std::vector<std::string>>{{"A"}, {"A", "<eos>"}, {"<bos>", "A", "<eos>"}}) {
    folder_.write("tokenizer.json", letters(kPictureToken, around));
    const Result r =
        measure({"--tokenizer", folder_.path(), "--prompt", "caption en", "--max-new-tokens", "2", "--quality"});
    ASSERT_EQ(r.code, 0) << r.err;
    const json record = lines_of(r.out).at(0);
    EXPECT_EQ(record["prompt"]["ids"], expected) << testing::PrintToString(around);
    EXPECT_TRUE(record["quality"]["error"].is_null()) << record["quality"];
  }
}

TEST_F(PictureModel, IsAskedForACaptionWhereNothingElseIsSaid) {
  const Result usual = measure({"--tokenizer", folder_.path(), "--max-new-tokens", "2"});
  ASSERT_EQ(usual.code, 0) << usual.err;
  const json prompt = lines_of(usual.out).at(0)["prompt"];
  EXPECT_EQ(prompt["text"], "caption en");
  EXPECT_EQ(prompt["ids"], lines_of(measure_prompt("caption en").out).at(0)["prompt"]["ids"]);
  EXPECT_EQ(generate({}).out, generate({"--prompt", "caption en"}).out);
  EXPECT_NE(lines_of(measure_prompt("").out).at(0)["prompt"]["ids"], prompt["ids"]) << "nothing is something to say";
}

TEST_F(PictureModel, RefusesOtherNumbersOfTokensOfAPicture) {
  for (const char* prompt : {"caption <image>", "<image><image>caption", " <image>caption"}) {
    const Result r = measure_prompt(prompt);
    EXPECT_EQ(r.code, exit_code(ErrorKind::usage)) << r.err;
    EXPECT_THAT(r.err, AllOf(HasSubstr("it has <image> (id 160)"), HasSubstr("leave <image> out")));
  }
  const Result few = measure({"--pg", "16,2"});
  EXPECT_EQ(few.code, exit_code(ErrorKind::usage));
  EXPECT_THAT(few.err, HasSubstr("give -p or -pg at least 17"));
}

TEST_F(PictureModel, RefusesATokenizerWithThePicturesTokenElsewhere) {
  folder_.write("tokenizer.json", letters(kPictureToken + 1));
  for (const Result& r : {measure_prompt("a"), generate({})}) {
    EXPECT_EQ(r.code, exit_code(ErrorKind::bad_model));
    EXPECT_THAT(r.err, HasSubstr("has <image> as id 161, and the model's config.json names id 160"));
  }
}

TEST_F(PictureModel, RefusesAConfigWhosePictureTheWeightsDoNotHave) {
  for (const std::string& name : os::list_directory(kPaliGemma)) {
    folder_.write(name, os::read_file(kPaliGemma + "/" + name, 1 << 24));
  }
  json config = read_json_file(kPaliGemma + "/config.json");
  config["vision_config"]["image_size"] = 112;
  const std::vector<std::string> arguments{"generate", "--model-id", folder_.path(), "--device", "reference"};
  folder_.write("config.json", config.dump());
  EXPECT_THAT(run(arguments).err, HasSubstr("'num_image_tokens' is 16, expected 64"));
  for (const char* part : {"text_config", "vision_config"}) config[part]["num_image_tokens"] = 64;
  folder_.write("config.json", config.dump());
  const Result r = run(arguments);
  EXPECT_EQ(r.code, exit_code(ErrorKind::bad_model));
  EXPECT_THAT(r.err, AllOf(HasSubstr("position_embedding.weight"), HasSubstr("expected [64, 48]")));
}

// Names as transformers 5.17 writes them, as its model has them, and as one between it and the published files wrote
// them.
const std::vector<std::pair<const char*, std::vector<RenamedPrefix>>> kNamings{
    {"published", {}},
    {"written by 5.17", {{"vision_tower.vision_model.", "vision_tower."}}},
    {"of 5.17's model",
     {{"vision_tower.vision_model.", "model.vision_tower."},
      {"multi_modal_projector.", "model.multi_modal_projector."},
      {"language_model.model.", "model.language_model."}}},
    {"between them",
     {{"vision_tower.", "model.vision_tower."},
      {"multi_modal_projector.", "model.multi_modal_projector."},
      {"language_model.model.", "model.language_model."}}}};

// The tiny PaliGemma with other names: of a rule, in_file is the published prefix and in_model the new one.
void write_renamed(const TestFolder& folder, std::span<const RenamedPrefix> rules) {
  const auto model = Checkpoint::open(kPaliGemma);
  std::vector<std::pair<std::string, TensorInfo>> tensors;
  for (const std::string& name : model->names()) tensors.emplace_back(name_in_model(name, rules), *model->find(name));
  SafetensorsWriter file(folder / "model.safetensors", tensors);
  for (const std::string& name : model->names()) {
    std::vector<std::byte> bytes(static_cast<size_t>(byte_count(*model->find(name))));
    model->read_bytes(name, 0, bytes);
    file.write(bytes);
  }
  file.commit();
  for (const char* name : {"config.json", "generation_config.json"}) {
    folder.write(name, os::read_file(kPaliGemma + "/" + name, 1 << 20));
  }
}

TEST(PaliGemmasNames, OfAnyVersionAreReadAndQuantised) {
  json expected, expected_4bit;
  for (const auto& named : kNamings) {
    const std::string naming = named.first;  // clang 14 captures no structured binding
    const TestFolder model, out;
    write_renamed(model, named.second);
    const auto answer = [&](const std::string& of, const std::string& precision, const std::string& to) {
      const Result r = run({"run", "--model-id", of, "--precision", precision, "--device", "reference", "--out",
                            out / to, "-r", "1", "--pg", "20,8", "-o", "jsonl"});
      EXPECT_EQ(r.code, 0) << naming << ": " << r.err;
      return r.code == 0 ? lines_of(r.out).at(0)["response"]["ids"] : json();
    };
    const json fp16 = answer(model.path(), "fp16", "a"), nf4 = answer(model.path(), "4bit", "b");
    if (expected.is_null()) expected = fp16, expected_4bit = nf4;
    EXPECT_EQ(fp16, expected) << naming;
    EXPECT_EQ(nf4, expected_4bit) << naming;
    const Result written = run({"quantize", "--model-id", model.path(), "--out", out / "quantised"});
    ASSERT_EQ(written.code, 0) << naming << ": " << written.err;
    EXPECT_EQ(answer(out / "quantised", "4bit", "c"), expected_4bit) << naming;
    // transformers 5.17 has the head beside the model, versions before it had it in language_model.
    EXPECT_EQ(read_json_file(out / "quantised/config.json")["quantization_config"]["llm_int8_skip_modules"],
              json({"language_model.lm_head", "lm_head"}));
    const auto quantised = Checkpoint::open(out / "quantised");
    for (const std::string& name : Checkpoint::open(model.path())->names()) {
      EXPECT_TRUE(quantised->find(name)) << naming << ": " << name << " has another name in what was written";
    }
  }
}

// --- the texts of an encoder ---------------------------------------------------------------------------------------

Result flan_t5(const std::string& prompt, const std::string& tokenizer = kTokenizers + "/t5") {
  return run(
      {"run", "--model-id", "google/flan-t5-base", "--random-weights", "--tokenizer", tokenizer, "--prompt", prompt});
}

TEST(TextForAnEncoder, TooLongIsRefusedAndNeverCut) {
  std::string text;
  for (int i = 0; i < 600; ++i) text += "word ";
  const Result r = flan_t5(text);
  EXPECT_EQ(r.code, exit_code(ErrorKind::usage));
  EXPECT_THAT(r.err,
              AllOf(HasSubstr("prompt tokens are more than the 512 that the encoder"),
                    HasSubstr("shorten the prompt (nothing is ever cut silently)"), Not(HasSubstr("--max-new-tokens"))))
      << "an encoder reads no answer";
}

TEST(TextForAnEncoder, ThatIsNotUtf8IsRefusedWithTheOffset) {
  const Result r = flan_t5("abc\xC3(");
  EXPECT_EQ(r.code, exit_code(ErrorKind::usage));
  EXPECT_THAT(r.err, HasSubstr("at offset 3 of 5"));
}

TEST(TextForAnEncoder, MayBeEmptySinceItsEndIsAToken) {
  const TestFolder folder;
  json config = read_json_file(QB_SOURCE_DIR "/testdata/models/t5/config.json");
  config["vocab_size"] = 704;
  folder.write("config.json", config.dump());
  const Result r = run({"run",
                        "--model-id",
                        folder.path(),
                        "--random-weights",
                        "--tokenizer",
                        kTokenizers + "/t5",
                        "--prompt",
                        "",
                        "--max-new-tokens",
                        "2",
                        "--precision",
                        "fp16",
                        "--device",
                        "reference",
                        "-r",
                        "1",
                        "--out",
                        folder / "out",
                        "-o",
                        "jsonl"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(lines_of(r.out).at(0)["prompt"]["ids"], json::array({1}));
}

TEST(TextForAnEncoder, ATruncatedModelOfSentencepieceIsRefused) {
  const TestFolder folder;
  const std::string model = os::read_file(kTokenizers + "/t5/spiece.model", 1 << 20);
  for (const size_t bytes : {size_t{0}, size_t{1}, model.size() / 3, model.size() - 100}) {
    folder.write("spiece.model", model.substr(0, bytes));
    const Result r = flan_t5("a", folder.path());
    EXPECT_EQ(r.code, exit_code(ErrorKind::bad_model)) << r.err;
    EXPECT_THAT(r.err, HasSubstr(folder / "spiece.model"));
    if (r.err.find("built without libsentencepiece") != std::string::npos) GTEST_SKIP() << r.err;
    EXPECT_THAT(r.err,
                AllOf(HasSubstr("model of sentencepiece: "), HasSubstr("take the file that came with the model")));
  }
}

}  // namespace
}  // namespace quantbench
