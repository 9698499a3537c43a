#include "checkpoint/quantized_writer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <unordered_set>

#include "core/os.h"
#include "quant/int8.h"
#include "quant/nf4.h"

namespace quantbench {
namespace {

using nlohmann::json;

constexpr int64_t kPieceElements = int64_t{16} << 20;  // of an unquantised tensor in memory at a time
constexpr int64_t kReadElements = int64_t{1} << 20;    // read by one thread at a time
constexpr size_t kCopyBytes = size_t{1} << 20;

// Beside the weights: what transformers needs to use the model, and the terms it comes with.
const char* const kCopiedFiles[] = {"generation_config.json",
                                    "tokenizer.json",
                                    "tokenizer_config.json",
                                    "special_tokens_map.json",
                                    "added_tokens.json",
                                    "vocab.json",
                                    "merges.txt",
                                    "tokenizer.model",
                                    "spiece.model",
                                    "chat_template.jinja",
                                    "chat_template.json",
                                    "preprocessor_config.json",
                                    "processor_config.json",
                                    "LICENSE",
                                    "LICENSE.txt",
                                    "LICENSE.md",
                                    "NOTICE",
                                    "USE_POLICY.md"};

using NamedTensor = std::pair<std::string, TensorInfo>;

// One tensor of the source and what becomes of it, in the order of the bytes in the file.
struct Item {
  std::string name;
  TensorInfo info;  // in the source
  bool is_linear = false, is_kept = false;
  float offset = 0;  // nf4
  std::vector<NamedTensor> written;
  int64_t written_bytes() const {
    int64_t bytes = 0;
    for (const auto& [written_name, written_info] : written) bytes += byte_count(written_info);
    return bytes;
  }
  int rows() const { return info.shape.size() < 2 ? 1 : static_cast<int>(info.shape[0]); }
  int cols() const { return rows() == 0 ? 0 : static_cast<int>(element_count(info) / rows()); }
};

bool is_floating(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

void check_not_stopped() {
  if (os::stop_requested()) fail(ErrorKind::interrupted, "quantising was interrupted; nothing was written");
}

// Rows [first, first + count) of a tensor in fp16, read by all threads.
void read_rows(const Checkpoint& source, const Item& item, int64_t first, int64_t count, std::vector<f16>* into,
               ThreadPool& pool) {
  const auto cols = static_cast<int64_t>(item.cols());
  into->resize(static_cast<size_t>(count * cols));
  const int64_t grain = std::max<int64_t>(1, kReadElements / std::max<int64_t>(cols, 1));
  pool.for_chunks(static_cast<size_t>(count), static_cast<size_t>(grain), [&](size_t begin, size_t end, int) {
    source.read_f16(item.name, first + static_cast<int64_t>(begin), static_cast<int64_t>(end - begin),
                    into->data() + static_cast<int64_t>(begin) * cols);
  });
}

std::string module_of(const std::string& weight) { return weight.substr(0, weight.rfind('.')); }

class Writer {
 public:
  Writer(const QuantizeRequest& request, ThreadPool& pool, const QuantizeProgress& progress)
      : request_(request), source_(request.source), pool_(pool), progress_(progress) {}

  QuantizeResult write() {
    check_source();
    folder_.emplace(request_.output);
    check_output();
    plan();
    write_shards();
    copy_files();
    write_json("config.json", config());
    commit();
    folder_->keep();
    return result_;
  }

 private:
  void check_source() const;
  void check_output() const;
  void plan();
  void plan_linear(Item* item);
  void write_shards();
  void write_item(const Item& item, SafetensorsWriter* file);
  void write_int8(const Item& item, SafetensorsWriter* file);
  void write_nf4(const Item& item, SafetensorsWriter* file);
  void copy_files();
  json config() const;
  void write_json(const std::string& name, const json& content);
  void commit();
  void advance(int64_t elements) {
    done_bytes_ += 2 * elements;
    if (progress_) progress_(done_bytes_, total_bytes_);
  }

  const QuantizeRequest& request_;
  const Checkpoint& source_;
  ThreadPool& pool_;
  const QuantizeProgress& progress_;
  std::vector<Item> items_;
  std::optional<os::OutputFolder> folder_;  // outlives the temporary files in it
  // Written under temporary names; commit() gives them theirs in this order.
  std::vector<std::unique_ptr<SafetensorsWriter>> shards_;
  std::vector<std::unique_ptr<os::OutputFile>> files_;
  std::vector<f16> weight_;  // reused from tensor to tensor, as are the two below
  Nf4Weights nf4_;
  std::vector<int8_t> int8_codes_;
  std::vector<float> int8_absmax_;
  int64_t done_bytes_ = 0, total_bytes_ = 0;
  QuantizeResult result_;
};

void Writer::check_source() const {
  if (source_.prequantized() != Prequantized::none) {
    fail(ErrorKind::bad_model, "{}: is quantised already, expected F32, F16 or BF16 weights; give the original model",
         source_.where());
  }
  if (os::exists(request_.output) && !os::is_directory(request_.output)) {
    fail(ErrorKind::usage, "{}: expected a new or empty folder, found a file; choose another output folder",
         request_.output);
  }
  std::vector<std::string> unfit;
  for (const std::string& name : request_.linears) {
    const auto info = source_.find(name);
    if (!info) {
      unfit.push_back(fmt::format("'{}' is missing", name));
    } else if (info->shape.size() != 2 || !is_floating(info->dtype) || element_count(*info) == 0 ||
               *std::max_element(info->shape.begin(), info->shape.end()) > std::numeric_limits<int>::max()) {
      unfit.push_back(fmt::format("'{}' is {} {}", name, name_of(info->dtype), shape_text(info->shape)));
    }
  }
  if (!unfit.empty()) {
    fail(ErrorKind::bad_model, "{}: expected a matrix of F32, F16 or BF16 for every linear, but {}", source_.where(),
         fmt::join(unfit, ", "));
  }
}

void Writer::check_output() const {
  const auto names = os::list_directory(request_.output);
  if (names.empty()) return;
  fail(ErrorKind::usage, "{}: expected a new or empty folder, found {} entries ({}{}); choose another output folder",
       request_.output, names.size(), names.front(), names.size() > 1 ? ", …" : "");
}

void Writer::plan() {
  const std::unordered_set<std::string> linears(request_.linears.begin(), request_.linears.end()),
      kept(request_.kept.begin(), request_.kept.end());
  for (const std::string& name : source_.names()) {
    Item item{name, *source_.find(name), linears.contains(name), kept.contains(name)};
    const int64_t bytes = 2 * element_count(item.info);
    // An nf4 weight is read twice: its offset is in the header, which comes before the bytes.
    total_bytes_ += item.is_linear && request_.format == Format::nf4 ? 2 * bytes : bytes;
    items_.push_back(std::move(item));
  }
  for (Item& item : items_) {
    if (item.is_linear) {
      plan_linear(&item);
    } else {
      const bool to_fp16 = is_floating(item.info.dtype) && !item.is_kept;
      item.written = {{item.name, {to_fp16 ? DType::f16 : item.info.dtype, item.info.shape}}};
    }
    result_.weight_bytes += item.written_bytes();
  }
}

void Writer::plan_linear(Item* item) {
  const std::string &name = item->name, module = module_of(name);
  const int64_t n = item->rows(), k = item->cols();
  if (request_.format == Format::int8) {
    item->written = {{name, {DType::i8, {n, k}}},
                     {module + ".SCB", {DType::f32, {n}}},
                     {module + ".weight_format", {DType::u8, {}}}};
    return;
  }
  check_not_stopped();
  read_rows(source_, *item, 0, n, &weight_, pool_);
  item->offset = nf4_offset(weight_, pool_);
  if (!std::isfinite(item->offset)) {
    // bitsandbytes would write NaN or Infinity, which is no JSON, and read every weight of this matrix as NaN.
    fail(ErrorKind::bad_model,
         "{}: '{}' has NaN, infinity or a value beyond fp16, and in 4bit all scales of a matrix are stored relative to "
         "their mean, so none of its weights would be left; take int8, where such a value costs its own row, or repair "
         "the model",
         source_.where(), name);
  }
  advance(n * k);
  const auto state_bytes = static_cast<int64_t>(nf4_quant_state(item->rows(), item->cols(), item->offset).size());
  const auto blocks = static_cast<int64_t>(ceil_div(static_cast<size_t>(n * k), kNf4Block));
  const auto groups = static_cast<int64_t>(ceil_div(static_cast<size_t>(blocks), kNf4NestedBlock));
  item->written = {{name, {DType::u8, {(n * k + 1) / 2, 1}}},
                   {name + ".absmax", {DType::u8, {blocks}}},
                   {name + ".quant_map", {DType::f32, {static_cast<int64_t>(kNf4Code.size())}}},
                   {name + ".nested_absmax", {DType::f32, {groups}}},
                   {name + ".nested_quant_map", {DType::f32, {static_cast<int64_t>(nested_code().size())}}},
                   {name + ".quant_state.bitsandbytes__nf4", {DType::u8, {state_bytes}}}};
}

void Writer::write_shards() {
  std::vector<std::vector<const Item*>> shards(1);
  int64_t shard_bytes = 0;
  for (const Item& item : items_) {
    const int64_t bytes = item.written_bytes();
    if (!shards.back().empty() && shard_bytes + bytes > request_.shard_bytes) {
      shards.emplace_back();
      shard_bytes = 0;
    }
    shards.back().push_back(&item);
    shard_bytes += bytes;
  }
  json weight_map = json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shards.size() == 1 ? "model.safetensors"
                                                : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    std::vector<NamedTensor> tensors;
    for (const Item* item : shards[i]) {
      for (const NamedTensor& tensor : item->written) {
        tensors.push_back(tensor);
        weight_map[tensor.first] = name;
      }
    }
    shards_.push_back(std::make_unique<SafetensorsWriter>(request_.output + "/" + name, tensors,
                                                          std::map<std::string, std::string>{{"format", "pt"}}));
    result_.files.push_back(name);
    for (const Item* item : shards[i]) write_item(*item, shards_.back().get());
  }
  if (shards.size() > 1) {
    write_json("model.safetensors.index.json",
               {{"metadata", {{"total_size", result_.weight_bytes}}}, {"weight_map", weight_map}});
  }
}

void Writer::write_item(const Item& item, SafetensorsWriter* file) {
  check_not_stopped();
  if (item.is_linear) {
    request_.format == Format::int8 ? write_int8(item, file) : write_nf4(item, file);
    return;
  }
  if (!is_floating(item.info.dtype) || item.is_kept) {
    const int64_t bytes = byte_count(item.info);
    std::vector<std::byte> piece;
    for (int64_t at = 0; at < bytes; at += static_cast<int64_t>(piece.size())) {
      piece.resize(std::min(kCopyBytes, static_cast<size_t>(bytes - at)));
      source_.read_bytes(item.name, at, piece);
      file->write(piece);
    }
    advance(element_count(item.info));
    return;
  }
  const int64_t rows = item.rows(), cols = item.cols();
  const int64_t step = std::max<int64_t>(1, kPieceElements / std::max<int64_t>(cols, 1));
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t count = std::min(step, rows - row);
    read_rows(source_, item, row, count, &weight_, pool_);
    file->write(bytes_of(weight_));
    advance(count * cols);
  }
}

void Writer::write_int8(const Item& item, SafetensorsWriter* file) {
  read_rows(source_, item, 0, item.rows(), &weight_, pool_);
  int8_codes_.resize(weight_.size());
  int8_absmax_.resize(static_cast<size_t>(item.rows()));
  quantize_int8(weight_, item.rows(), item.cols(), int8_codes_, int8_absmax_, pool_);
  file->write(bytes_of(int8_codes_));
  file->write(bytes_of(int8_absmax_));
  const std::byte row_major{0};
  file->write(std::span(&row_major, 1));
  advance(static_cast<int64_t>(weight_.size()));
}

void Writer::write_nf4(const Item& item, SafetensorsWriter* file) {
  read_rows(source_, item, 0, item.rows(), &weight_, pool_);
  quantize_nf4(weight_, item.rows(), item.cols(), &nf4_, pool_);
  const std::string state = nf4_quant_state(item.rows(), item.cols(), nf4_.offset);
  file->write(bytes_of(nf4_.codes));
  file->write(bytes_of(nf4_.absmax8));
  file->write(std::as_bytes(std::span(kNf4Code)));
  file->write(bytes_of(nf4_.nested_absmax));
  file->write(std::as_bytes(std::span(nested_code())));
  file->write(std::as_bytes(std::span(state)));
  advance(static_cast<int64_t>(weight_.size()));
}

void Writer::copy_files() {
  for (const char* name : kCopiedFiles) {
    const auto path = find_model_file(source_.folder(), name, source_.options().allow_symlinks);
    if (!path) continue;
    const os::File from = os::File::open(*path);
    files_.push_back(std::make_unique<os::OutputFile>(request_.output + "/" + name));
    std::vector<std::byte> piece;
    for (int64_t at = 0; at < from.bytes(); at += static_cast<int64_t>(piece.size())) {
      piece.resize(std::min(kCopyBytes, static_cast<size_t>(from.bytes() - at)));
      from.read_at(at, piece);
      files_.back()->write(piece);
    }
    result_.files.emplace_back(name);
  }
}

json Writer::config() const {
  json config = source_.config();
  // transformers 5 says dtype, earlier ones torch_dtype; all read the latter.
  if (config.contains("dtype")) config["dtype"] = "float16";
  if (config.contains("torch_dtype") || !config.contains("dtype")) config["torch_dtype"] = "float16";
  config["quantization_config"] = {
      {"quant_method", "bitsandbytes"},
      {"load_in_8bit", request_.format == Format::int8},
      {"load_in_4bit", request_.format == Format::nf4},
      {"bnb_4bit_quant_type", "nf4"},
      {"bnb_4bit_use_double_quant", true},
      {"bnb_4bit_compute_dtype", "float16"},
      {"bnb_4bit_quant_storage", "uint8"},
      {"llm_int8_threshold", kInt8Threshold},
      {"llm_int8_skip_modules", request_.skipped_modules},
      {"llm_int8_has_fp16_weight", false},
      {"llm_int8_enable_fp32_cpu_offload", false},
  };
  return config;
}

void Writer::write_json(const std::string& name, const json& content) {
  files_.push_back(std::make_unique<os::OutputFile>(request_.output + "/" + name));
  const std::string text = content.dump(2) + "\n";
  files_.back()->write(std::as_bytes(std::span(text)));
  result_.files.push_back(name);
}

void Writer::commit() {
  check_not_stopped();
  try {
    for (const auto& shard : shards_) shard->commit();
    for (const auto& file : files_) file->commit();
  } catch (...) {
    for (const std::string& name : result_.files) os::system().unlink((request_.output + "/" + name).c_str());
    throw;
  }
  std::sort(result_.files.begin(), result_.files.end());
}

}  // namespace

std::string nf4_quant_state(int n, int k, float offset) {
  // Python writes a float as the shortest text that gives the same double, and with a point: 0.0.
  std::string number = fmt::format("{}", static_cast<double>(offset));
  if (number.find_first_of(".en") == std::string::npos) number += ".0";
  return fmt::format(R"({{"quant_type": "nf4", "blocksize": {}, "dtype": "float16", "shape": [{}, {}], )"
                     R"("nested_blocksize": {}, "nested_dtype": "float32", "nested_offset": {}}})",
                     kNf4Block, n, k, kNf4NestedBlock, number);
}

QuantizeResult write_quantized(const QuantizeRequest& request, ThreadPool& pool, const QuantizeProgress& progress) {
  return Writer(request, pool, progress).write();
}

}  // namespace quantbench
