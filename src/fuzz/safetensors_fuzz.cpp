// A model folder: safetensors files in shards or alone, their index and config.json, through Checkpoint and what reads
// bitsandbytes' tensors. An input is sections that begin with a byte below 9: which file, then its text; of a
// safetensors file the header's JSON, then behind kData "bytes of data,how far the length before the header is off",
// then behind kBytes the first of these bytes (the rest is zero). So lengths are right unless they are meant to be
// wrong.
#include <charconv>
#include <cstdlib>

#include "checkpoint/checkpoint.h"
#include "checkpoint/prequantized.h"
#include "core/json.h"
#include "fuzz/json_tree.h"
#include "fuzz/memory_files.h"
#include "testing/test_folder.h"

namespace quantbench::fuzz {
namespace {

using nlohmann::json;

enum Section : char { kConfig = 1, kGeneration, kIndex, kSingle, kFirstShard, kSecondShard, kSections };
constexpr char kData = 0x10, kBytes = 0x11;
constexpr const char* kNames[] = {"",
                                  "config.json",
                                  "generation_config.json",
                                  "model.safetensors.index.json",
                                  "model.safetensors",
                                  "model-00001-of-00002.safetensors",
                                  "model-00002-of-00002.safetensors"};
constexpr int64_t kMostElements = 1 << 12;  // of a tensor that is read

struct Part {
  char section = kSingle;
  std::string text;
};

std::vector<Part> parts_of(std::string_view input) {
  std::vector<Part> parts;
  bool is_bytes = false;  // which hold what else would begin a section
  for (size_t at = 0; at < input.size();) {
    if (const char c = input[at]; c > 0 && c < kSections && !is_bytes) {
      parts.push_back({c, ""});
      ++at;
    } else if (parts.empty()) {
      parts.emplace_back();
    }
    size_t end = at;
    while (end < input.size() && (is_bytes || input[end] <= 0 || input[end] >= kSections)) {
      is_bytes = is_bytes || input[end] == kBytes;
      ++end;
    }
    parts.back().text += input.substr(at, end - at);
    at = end;
  }
  return parts;
}

int64_t number_at(std::string_view text, size_t* at) {
  int64_t value = 0;
  const auto end = std::from_chars(text.data() + *at, text.data() + text.size(), value);
  *at = static_cast<size_t>(end.ptr - text.data());
  return value;
}

MemoryFiles::Content safetensors_of(const std::string& text) {
  const size_t header_end = std::min(text.find(kData), text.size());
  MemoryFiles::Content file;
  uint64_t length = header_end;
  int64_t data_bytes = 0;
  std::string bytes;
  if (header_end < text.size()) {
    size_t at = header_end + 1;
    data_bytes = std::clamp<int64_t>(number_at(text, &at), 0, int64_t{1} << 62);
    if (at < text.size() && text[at] == ',') {
      ++at;
      length += static_cast<uint64_t>(number_at(text, &at));
    }
    if (const size_t begin = text.find(kBytes, header_end); begin != std::string::npos) bytes = text.substr(begin + 1);
  }
  // Else the header is text of some megabytes of zeros, which takes long and shows nothing.
  if (length > header_end + 4096 && length < static_cast<uint64_t>(kMaxSafetensorsHeaderBytes)) length = header_end + 1;
  if (static_cast<int64_t>(bytes.size()) > data_bytes) bytes.resize(static_cast<size_t>(data_bytes));
  file.begin.assign(reinterpret_cast<const char*>(&length), sizeof length);
  file.begin += text.substr(0, header_end) + bytes;
  file.bytes = static_cast<int64_t>(sizeof length + header_end) + data_bytes;
  return file;
}

void check_header(const SafetensorsFile& file) {
  int64_t covered = 0;
  for (const auto& [name, tensor] : file.header().tensors) {
    check(byte_count(tensor.info) == tensor.bytes, "a tensor has the bytes of its shape");
    check(tensor.offset >= 8 && tensor.offset + tensor.bytes <= file.bytes(), "a tensor lies in its file");
    covered += tensor.bytes;
  }
  check(covered + 8 + static_cast<int64_t>(file.header_text().size()) == file.bytes(), "tensors fill their file");
}

// An Error here is of this tensor; the others are read all the same.
void read_tensor(const Checkpoint& checkpoint, const std::string& name) {
  try {
    const TensorInfo info = checkpoint.find(name).value();
    if (is_prequantized(checkpoint, name)) {
      check_parts(checkpoint, name);
      const std::vector<int64_t> shape = prequantized_shape(checkpoint, name);
      check(shape.size() == 2 && shape[0] >= 0 && shape[1] >= 0, "a quantised weight is a matrix");
      if (shape[0] > kMostElements || shape[1] > kMostElements || shape[0] * shape[1] > kMostElements) return;
      const int n = static_cast<int>(shape[0]), k = static_cast<int>(shape[1]);
      Int8Weights int8;
      Nf4Weights nf4;
      if (checkpoint.prequantized() == Prequantized::int8) {
        read_int8(checkpoint, name, n, k, &int8);
      } else {
        read_nf4(checkpoint, name, n, k, &nf4);
      }
    } else if (const int64_t count = element_count(info); count <= kMostElements && count > 0) {
      std::vector<f16> halves(static_cast<size_t>(count));
      std::vector<float> floats(static_cast<size_t>(count));
      const int64_t rows = info.shape.size() < 2 ? 1 : info.shape[0];
      checkpoint.read_f32(name, 0, rows, floats.data());
      checkpoint.read_f16(name, 0, rows, halves.data());
    }
  } catch (const Error& error) {
    check(error.kind() == ErrorKind::bad_model, "what is wrong is the model");
  }
}

// The header of a real file with so much of it as names a part in `wanted`, laid out again, as a section. `first` are
// put first, with their bytes.
std::string shortened(const std::string& path, const std::vector<std::string>& wanted,
                      const std::vector<std::string>& first = {}) {
  const SafetensorsFile file = SafetensorsFile::open(QB_SOURCE_DIR "/testdata/" + path);
  const auto has = [](const std::string& name, const std::vector<std::string>& parts) {
    return std::any_of(parts.begin(), parts.end(), [&](const std::string& p) { return name.find(p) != name.npos; });
  };
  std::vector<std::string> order;
  for (const bool early : {true, false}) {
    for (const auto& [name, tensor] : file.header().tensors) {
      if (has(name, wanted) && has(name, first) == early) order.push_back(name);
    }
  }
  nlohmann::ordered_json header;
  if (!file.header().metadata.empty()) header["__metadata__"] = file.header().metadata;
  int64_t at = 0;
  std::string bytes;
  for (const std::string& name : order) {
    const SafetensorsTensor& tensor = file.header().tensors.at(name);
    header[name] = {
        {"dtype", name_of(tensor.info.dtype)}, {"shape", tensor.info.shape}, {"data_offsets", {at, at + tensor.bytes}}};
    at += tensor.bytes;
    if (!has(name, first)) continue;
    std::string more(static_cast<size_t>(tensor.bytes), '\0');
    file.read(tensor, 0, std::as_writable_bytes(std::span(more)));
    bytes += more;
  }
  return header.dump() + kData + std::to_string(at) + ",0" + kBytes + bytes;
}

constexpr std::string_view kWords[] = {"\"F64\"",
                                       "\"F32\"",
                                       "\"F16\"",
                                       "\"BF16\"",
                                       "\"I64\"",
                                       "\"I8\"",
                                       "\"U8\"",
                                       "\"BOOL\"",
                                       "\"dtype\"",
                                       "\"shape\"",
                                       "\"data_offsets\"",
                                       "\"__metadata__\"",
                                       "[0,0]",
                                       "[0]",
                                       "[1,64]",
                                       "\"weight_map\"",
                                       "\"quantization_config\"",
                                       "\"quant_method\"",
                                       "\"bitsandbytes\"",
                                       "\"load_in_8bit\"",
                                       "\"load_in_4bit\"",
                                       "\"nf4\"",
                                       "\"fp4\"",
                                       "\"model.safetensors\"",
                                       "\"model-00001-of-00002.safetensors\"",
                                       "\"a.weight.absmax\"",
                                       "\"a.SCB\"",
                                       "\"a.weight\""};

// Gives the tensors of a header offsets that fit their shapes, and the file its size.
void mend(std::string* text) {
  const size_t end = std::min(text->find(kData), text->size());
  try {
    nlohmann::ordered_json header = nlohmann::ordered_json::parse(text->substr(0, end));
    uint64_t at = 0;
    for (auto& [name, entry] : header.items()) {
      if (name == "__metadata__") continue;
      const std::string dtype = entry.at("dtype");
      uint64_t bytes = dtype.find("64") != dtype.npos   ? 8
                       : dtype.find("32") != dtype.npos ? 4
                       : dtype.find("16") != dtype.npos ? 2
                                                        : 1;
      for (const auto& dim : entry.at("shape")) bytes *= dim.is_number_unsigned() ? dim.get<uint64_t>() : 1;
      entry["data_offsets"] = {at, at + bytes};
      at += bytes;
    }
    const size_t rest = text->find(kBytes, end);
    const std::string bytes = rest == std::string::npos ? "" : text->substr(rest);
    *text = header.dump(-1, ' ', false, json::error_handler_t::replace) + kData + std::to_string(at) + ",0" + bytes;
  } catch (const json::exception&) {  // nothing to mend
  }
}

}  // namespace

void run(std::string_view input) {
  static const TestFolder folder;
  MemoryFiles files;
  files.folder = folder.path();
  bool alone = true;
  for (const Part& part : parts_of(input)) {
    const std::string path = folder / kNames[static_cast<size_t>(part.section)];
    if (part.section < kSingle) {
      files.put(path, part.text);
      alone = false;
    } else {
      files.files[path] = safetensors_of(part.text);
    }
  }
  const os::ScopedSystem scope(files);
  if (alone) {
    check_header(SafetensorsFile::open(folder / "model.safetensors"));
    return;
  }
  const auto checkpoint = Checkpoint::open(folder.path());
  for (const auto& file : checkpoint->files()) check_header(*file.file);
  for (const std::string& name : checkpoint->names()) read_tensor(*checkpoint, name);
  check_tensors(*checkpoint, std::vector<ExpectedTensor>{{"model.norm.weight", 1, 192}, {"a.weight", 2, 4}});
}

std::vector<std::string> seeds() {
  const auto text = [](const std::string& path) {
    return os::read_file(QB_SOURCE_DIR "/testdata/models/" + path, 1 << 20);
  };
  const auto section = [](Section which, const std::string& content) { return std::string(1, which) + content; };
  const auto packed = [](const std::string& content) { return json::parse(content).dump(); };
  const std::vector<std::string> states = {"quant_map", "quant_state"};
  std::vector<std::string> seeds;
  seeds.push_back(section(kSingle, "{}" + std::string(1, kData) + "0,0"));
  seeds.push_back(section(
      kSingle,
      R"({"__metadata__":{"format":"pt"},"a.weight":{"dtype":"F16","shape":[2,4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[2],"data_offsets":[16,24]},"e":{"dtype":"U8","shape":[0,7],"data_offsets":[24,24]},"s":{"dtype":"U8","shape":[],"data_offsets":[24,25]}})" +
          std::string(1, kData) + "25,0"));
  seeds.push_back(section(kSingle, shortened("models/llama-gqa/model.safetensors", {"layers.0.", "norm"})));
  seeds.push_back(section(kConfig, R"({"a":1})") + section(kSingle, shortened("models/llama-gqa/model.safetensors",
                                                                              {"layers.0.self_attn", "model.norm"})));
  seeds.push_back(
      section(kConfig, "{}") + section(kGeneration, packed(text("llama-gqa/generation_config.json"))) +
      section(
          kIndex,
          R"({"metadata":{"total_size":72},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}})") +
      section(kFirstShard,
              R"({"a":{"dtype":"BF16","shape":[3,8],"data_offsets":[0,48]}})" + std::string(1, kData) + "48,0") +
      section(kSecondShard,
              R"({"b":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}})" + std::string(1, kData) + "24,0"));
  seeds.push_back(
      section(kConfig, packed(text("llama-gqa-int8/config.json"))) +
      section(kSingle, shortened("models/llama-gqa-int8/model.safetensors", {"layers.0.self_attn.k_proj"})));
  for (const std::string model : {"llama-gqa-nf4", "llama-gqa-nf4-plain"}) {
    seeds.push_back(
        section(kConfig, packed(text(model + "/config.json"))) +
        section(kSingle, shortened("models/" + model + "/model.safetensors", {"layers.0.self_attn.k_proj"}, states)));
  }
  return seeds;
}

void mutate(std::string* input, std::string_view other, Random& random) {
  std::vector<Part> parts = parts_of(*input);
  if (parts.empty()) return mutate_bytes(input, random);
  std::string from;
  if (!other.empty()) {
    const std::vector<Part> others = parts_of(other);
    from = others[random.below(others.size())].text;
    if (random.one_in(8)) parts.push_back({static_cast<char>(1 + random.below(kSections - 1)), from});
  }
  Part& part = parts[random.below(parts.size())];
  const size_t end = std::min(part.text.find(kData), part.text.size());
  if (random.one_in(40)) {
    part.section = static_cast<char>(1 + random.below(kSections - 1));
  } else if (end < part.text.size() && random.one_in(6)) {
    std::string rest = part.text.substr(end + 1);
    mutate_bytes(&rest, random);
    part.text.replace(end + 1, std::string::npos, rest);
  } else {
    std::string head = part.text.substr(0, end);
    mutate_json(&head, from.substr(0, from.find(kData)), random, kWords);
    part.text.replace(0, end, head);
    if (part.section >= kSingle && random.one_in(2)) mend(&part.text);
  }
  input->clear();
  for (const Part& p : parts) *input += p.section + p.text;
}

}  // namespace quantbench::fuzz
