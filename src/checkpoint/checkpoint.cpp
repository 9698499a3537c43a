#include "checkpoint/checkpoint.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <map>

#include "checkpoint/convert.h"
#include "checkpoint/limits.h"
#include "checkpoint/prequantized.h"
#include "core/json.h"
#include "core/os.h"

namespace quantbench {
namespace {

using nlohmann::json;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr int64_t kPieceElements = int64_t{128} * 1024;  // read and checked at a time: stays in a core's cache

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\\') == std::string::npos && name.find('\0') == std::string::npos;
}

// "a, b, c"; long lists are cut, with their length.
std::string list_text(const std::vector<std::string>& items) {
  constexpr size_t kShown = 20;
  std::string text = fmt::format("{}", fmt::join(items.begin(), items.begin() + std::min(items.size(), kShown), ", "));
  if (items.size() > kShown) text += fmt::format(" and {} more", items.size() - kShown);
  return text;
}

// A folder of …/models--org--name/snapshots/<commit> → …/models--org--name/blobs/, else nothing.
std::string hub_blobs_of(const std::string& real_folder) {
  const size_t commit = real_folder.rfind('/');
  if (commit == std::string::npos || commit == 0) return {};
  const std::string snapshots = real_folder.substr(0, commit);
  const std::string kSnapshots = "/snapshots";
  if (!snapshots.ends_with(kSnapshots)) return {};
  const std::string model = snapshots.substr(0, snapshots.size() - kSnapshots.size());
  const std::string name = model.substr(model.rfind('/') + 1);
  return name.starts_with("models--") ? model + "/blobs/" : std::string();
}

// There are no safetensors: says what there is instead, and how to get from there to here.
// For a shell, as one argument.
std::string shell_argument(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

// transformers' class of the model, by its config.
std::string transformers_class(const json& config) {
  const auto names = config.find("architectures");
  const bool is_named = names != config.end() && names->is_array() && !names->empty() && names->front().is_string();
  const std::string name = is_named ? names->front().get<std::string>() : "";
  const auto is_fine = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
  };
  return !name.empty() && std::all_of(name.begin(), name.end(), is_fine) ? name : "AutoModelForCausalLM";
}

[[noreturn]] void fail_without_weights(const std::string& folder, const json& config) {
  std::vector<std::string> names = os::list_directory(folder);
  const auto any = [&](auto matches) { return std::any_of(names.begin(), names.end(), matches); };
  if (any([](const std::string& name) {
        return name.ends_with(".bin") || name.ends_with(".pth") || name.ends_with(".pt");
      })) {
    fail(ErrorKind::bad_model,
         "{}: expected {} or {}, found weights in PyTorch's pickle format only, which can run code when loaded and is "
         "not read; convert it with: python3 -c \"import sys; from transformers import {} as M; "
         "M.from_pretrained(sys.argv[1], dtype='auto').save_pretrained(sys.argv[2])\" {} {} and copy the tokenizer "
         "files",
         folder, kSingleFile, kIndexFile, transformers_class(config), shell_argument(folder),
         shell_argument(folder + "-safetensors"));
  }
  if (any([](const std::string& name) { return name.ends_with(".gguf"); })) {
    fail(ErrorKind::bad_model,
         "{}: expected {} or {}, found GGUF, which is not read; get the model's original "
         "repository, with safetensors",
         folder, kSingleFile, kIndexFile);
  }
  fail(ErrorKind::bad_model, "{}: expected {} or {}, found {}; is the download complete?", folder, kSingleFile,
       kIndexFile, names.empty() ? "an empty folder" : list_text(names));
}

std::string required_file(const std::string& folder, const std::string& name, bool allow_symlinks) {
  if (auto path = find_model_file(folder, name, allow_symlinks)) return *path;
  const std::vector<std::string> names = os::list_directory(folder);
  fail(ErrorKind::bad_model, "{}: no {} there, found {}; give the folder of a model in the Hugging Face layout", folder,
       name, names.empty() ? "an empty folder" : list_text(names));
}

std::string element_text(const TensorInfo& info, int64_t index) {
  const int64_t cols = info.shape.size() < 2 ? element_count(info) : element_count(info) / info.shape[0];
  return info.shape.size() < 2 ? fmt::format("[{}]", index) : fmt::format("[{}, {}]", index / cols, index % cols);
}

}  // namespace

std::optional<std::string> find_model_file(const std::string& folder, const std::string& name, bool allow_symlinks) {
  assert(is_plain_file_name(name));
  const std::string path = folder + "/" + name;
  const auto link = os::status(path, false);
  if (!link) return std::nullopt;
  if (!link->is_symlink) {
    if (!link->is_regular) {
      fail(ErrorKind::bad_model, "{}: expected a file, found {}; put the file that belongs there in its place", path,
           link->is_directory ? "a folder" : "a special file");
    }
    return path;
  }
  const auto target_status = os::status(path);
  if (!target_status) {
    fail(ErrorKind::bad_model,
         "{}: the link leads nowhere; the download is incomplete or its file was removed: get "
         "the model again",
         path);
  }
  const std::string target = os::real_path(path), real_folder = os::real_path(folder);
  const std::string blobs = hub_blobs_of(real_folder);
  const bool inside = target.starts_with(real_folder + "/") || (!blobs.empty() && target.starts_with(blobs));
  if (!inside && !allow_symlinks) {
    fail(ErrorKind::bad_model,
         "{}: a link that leaves the model's folder, to {}; expected a file in {}{}; copy the file, or pass "
         "--allow-symlinks if you trust it",
         path, target, real_folder, blobs.empty() ? "" : " or " + blobs);
  }
  if (!target_status->is_regular) fail(ErrorKind::bad_model, "{}: leads to {}, which is not a file", path, target);
  return target;
}

Checkpoint::Checkpoint(std::string folder, const CheckpointOptions& options)
    : folder_(std::move(folder)), options_(options) {}

std::unique_ptr<Checkpoint> Checkpoint::open(const std::string& folder, const CheckpointOptions& options) {
  if (!os::is_directory(folder)) {
    fail(ErrorKind::bad_model,
         "{}: expected a model's folder (config.json, model.safetensors, tokenizer.json), found "
         "{}; check the path",
         folder, os::exists(folder) ? "a file" : "nothing there");
  }
  std::unique_ptr<Checkpoint> result(new Checkpoint(folder, options));
  result->config_ = read_json_file(required_file(folder, "config.json", options.allow_symlinks));
  if (!result->config_.is_object()) {
    fail(ErrorKind::bad_model, "{}/config.json: expected a JSON object, found {}; get the file again", folder,
         result->config_.type_name());
  }
  if (const auto path = find_model_file(folder, "generation_config.json", options.allow_symlinks)) {
    result->generation_config_ = read_json_file(*path);
    if (!result->generation_config_.is_object()) {
      fail(ErrorKind::bad_model, "{}/generation_config.json: expected a JSON object, found {}; get the file again",
           folder, result->generation_config_.type_name());
    }
  }
  result->open_weights();
  result->prequantized_ = detect_prequantized(result->config_, *result);
  return result;
}

void Checkpoint::open_weights() {
  if (const auto single = find_model_file(folder_, kSingleFile, options_.allow_symlinks)) {
    files_.push_back(std::make_unique<SafetensorsFile>(SafetensorsFile::open(*single)));
    file_names_.emplace_back(kSingleFile);
  } else if (const auto index_path = find_model_file(folder_, kIndexFile, options_.allow_symlinks)) {
    open_shards(read_json_file(*index_path), folder_ + "/" + kIndexFile);
  } else {
    fail_without_weights(folder_, config_);
  }
  std::map<std::string, std::vector<std::string>> duplicates;
  for (const auto& file : files_) {
    file_bytes_ += file->bytes();
    for (const auto& [name, tensor] : file->header().tensors) {
      const auto [at, is_new] = tensors_.emplace(name, Entry{file.get(), &tensor});
      if (is_new) continue;
      auto& paths = duplicates[name];
      if (paths.empty()) paths.push_back(at->second.file->path());
      paths.push_back(file->path());
    }
  }
  if (!duplicates.empty()) {
    std::vector<std::string> texts;
    for (const auto& [name, paths] : duplicates)
      texts.push_back(fmt::format("'{}' in {}", name, fmt::join(paths, " and ")));
    fail(ErrorKind::bad_model,
         "{}: {} tensors are in more than one shard: {}; shards of different downloads were mixed: "
         "get the model again",
         folder_, duplicates.size(), list_text(texts));
  }
}

void Checkpoint::open_shards(const json& index, const std::string& index_path) {
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object() || map->empty()) {
    fail(ErrorKind::bad_model, "{}: expected an object 'weight_map' from tensors to files; get the file again",
         index_path);
  }
  if (map->size() > kMaxTensors) {
    fail(ErrorKind::bad_model, "{}: {} tensors, at most {} are accepted; is this the index of a model?", index_path,
         map->size(), kMaxTensors);
  }
  std::map<std::string, std::vector<std::string>> tensors_of;  // by shard
  std::vector<std::string> unsafe;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || !is_plain_file_name(file.get<std::string>())) {
      unsafe.push_back(fmt::format("{} (of '{}')", file.dump(), tensor));
    } else {
      tensors_of[file.get<std::string>()].push_back(tensor);
    }
  }
  if (!unsafe.empty()) {
    fail(ErrorKind::bad_model, "{}: expected plain names of files beside the index, found {}; such an index is refused",
         index_path, list_text(unsafe));
  }
  std::vector<std::string> missing;
  std::vector<std::string> paths;
  for (const auto& [shard, tensors] : tensors_of) {
    const auto path = find_model_file(folder_, shard, options_.allow_symlinks);
    if (path) {
      paths.push_back(*path);
    } else {
      missing.push_back(shard);
    }
  }
  if (!missing.empty()) {
    fail(ErrorKind::bad_model, "{}: {} of {} shards are missing: {}; get them, the download is incomplete", folder_,
         missing.size(), tensors_of.size(), list_text(missing));
  }
  std::vector<std::string> absent, unlisted;
  size_t i = 0;
  for (const auto& [shard, tensors] : tensors_of) {
    files_.push_back(std::make_unique<SafetensorsFile>(SafetensorsFile::open(paths[i++])));
    file_names_.push_back(shard);
    const auto& held = files_.back()->header().tensors;
    for (const std::string& tensor : tensors) {
      if (!held.contains(tensor)) absent.push_back(fmt::format("'{}' (of {})", tensor, shard));
    }
    for (const auto& [tensor, info] : held) {
      if (!map->contains(tensor)) unlisted.push_back(fmt::format("'{}' (in {})", tensor, shard));
    }
  }
  if (!absent.empty()) {
    fail(ErrorKind::bad_model,
         "{}: {} tensors of the index are not in their shards: {}; index and shards are of "
         "different downloads: get the model again",
         index_path, absent.size(), list_text(absent));
  }
  if (!unlisted.empty()) {
    fail(ErrorKind::bad_model,
         "{}: {} tensors of the shards are not in the index: {}; index and shards are of different downloads: get the "
         "model again",
         index_path, unlisted.size(), list_text(unlisted));
  }
}

std::vector<Checkpoint::NamedFile> Checkpoint::files() const {
  std::vector<NamedFile> files;
  for (size_t i = 0; i < files_.size(); ++i) files.push_back({file_names_[i], files_[i].get()});
  return files;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> result;
  for (const auto& [name, at] : tensors_) result.push_back(name);
  std::sort(result.begin(), result.end());
  return result;
}

std::optional<TensorInfo> Checkpoint::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return std::nullopt;
  return found->second.tensor->info;
}

const Checkpoint::Entry& Checkpoint::entry(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    fail(ErrorKind::bad_model, "{}: tensor '{}' is missing; is this the whole model?", folder_, name);
  }
  return found->second;
}

void Checkpoint::read_bytes(const std::string& name, int64_t offset, std::span<std::byte> out) const {
  const Entry& at = entry(name);
  if (offset < 0 || offset > at.tensor->bytes || static_cast<int64_t>(out.size()) > at.tensor->bytes - offset) {
    fail(ErrorKind::bad_model, "{}: tensor '{}' has {} bytes, expected at least {} from offset {}", at.file->path(),
         name, at.tensor->bytes, out.size(), offset);
  }
  at.file->read(*at.tensor, offset, out);
}

// `values` were read from element `first_element` on and have this largest magnitude.
template <typename In>
void Checkpoint::check_magnitude(const Entry& at, const std::string& name, std::span<const In> values,
                                 int64_t first_element, uint32_t magnitude, uint32_t largest_allowed) const {
  if (magnitude <= largest_allowed) return;
  if (options_.allow_nonfinite) {
    met_nonfinite_.store(true, std::memory_order_relaxed);
    return;
  }
  const bool is_bf16 = largest_allowed == kLargestBf16Magnitude;
  for (size_t i = 0; i < values.size(); ++i) {
    float value;
    if constexpr (std::is_same_v<In, float>) {
      value = values[i];
    } else {
      value = to_float(values[i]);
    }
    if ((std::bit_cast<uint32_t>(value) & 0x7fffffff) <= largest_allowed) continue;
    const std::string cause =
        std::isnan(value) ? "is NaN"
        : std::isinf(value)
            ? "is infinite"
            : fmt::format("is {}, beyond {}", value, is_bf16 ? "bf16's largest value" : "fp16's largest value 65504");
    fail(ErrorKind::bad_model,
         "{}: tensor '{}' element {} {}; expected finite numbers that {} can hold: get the file "
         "again, or pass --allow-nonfinite to go on and have it noted in the record",
         at.file->path(), name, element_text(at.tensor->info, first_element + static_cast<int64_t>(i)), cause,
         is_bf16 ? "bf16" : "fp16");
  }
}

template <typename Out>
void Checkpoint::read(const std::string& name, int64_t first, int64_t count, Out* out) const {
  const Entry& at = entry(name);
  const TensorInfo& info = at.tensor->info;
  const int64_t elements = element_count(info);
  const int64_t rows = info.shape.size() < 2 ? 1 : info.shape[0];
  if (first < 0 || count < 0 || first > rows || count > rows - first) {
    fail(ErrorKind::bad_model, "{}: tensor '{}' has {} rows (shape {}), expected at least {} + {}", at.file->path(),
         name, rows, shape_text(info.shape), first, count);
  }
  const int64_t cols = rows == 0 ? 0 : elements / rows;
  const ConvertKernels& kernels = convert_kernels();
  constexpr bool kToF16 = std::is_same_v<Out, f16>, kToBf16 = std::is_same_v<Out, bf16>;
  constexpr uint32_t kLargest = kToF16 ? kLargestF16Magnitude : kToBf16 ? kLargestBf16Magnitude : kLargestF32Magnitude;

  // Reads pieces of In and gives each to convert(values, count, out) → largest magnitude.
  const auto read_as = [&]<typename In>(In, auto convert) {
    constexpr bool kInPlace = std::is_same_v<In, Out>;
    std::vector<In> buffer(kInPlace ? 0 : static_cast<size_t>(std::min(kPieceElements, count * cols)));
    for (int64_t done = 0; done < count * cols;) {
      const int64_t piece = std::min(kPieceElements, count * cols - done);
      const auto size = static_cast<size_t>(piece);
      In* values;
      if constexpr (kInPlace) {
        values = out + done;
      } else {
        values = buffer.data();
      }
      const int64_t element = first * cols + done;
      at.file->read(*at.tensor, element * static_cast<int64_t>(sizeof(In)),
                    std::as_writable_bytes(std::span(values, size)));
      const uint32_t magnitude = convert(values, size, out + done);
      check_magnitude(at, name, std::span<const In>(values, size), element, magnitude, kLargest);
      done += piece;
    }
  };
  switch (info.dtype) {
    case DType::f16:
      return read_as(f16{}, [&](const f16* x, size_t n, Out* y) {
        if constexpr (kToF16)
          return (void)y, kernels.f16_magnitude(x, n);
        else if constexpr (kToBf16)
          return f16_to_bf16(x, n, y);
        else
          return kernels.f16_to_f32(x, n, y);
      });
    case DType::bf16:
      return read_as(bf16{}, [&](const bf16* x, size_t n, Out* y) {
        if constexpr (kToF16)
          return kernels.bf16_to_f16(x, n, y);
        else if constexpr (kToBf16)
          return (void)y, bf16_magnitude(x, n);
        else
          return kernels.bf16_to_f32(x, n, y);
      });
    case DType::f32:
      return read_as(float{}, [&](const float* x, size_t n, Out* y) {
        if constexpr (kToF16)
          return kernels.f32_to_f16(x, n, y);
        else if constexpr (kToBf16)
          return f32_to_bf16(x, n, y);
        else
          return (void)y, kernels.f32_magnitude(x, n);
      });
    default:
      fail(ErrorKind::bad_model,
           "{}: tensor '{}' has dtype {}, expected F32, F16 or BF16; if the model is quantised, "
           "only what transformers saved with bitsandbytes is read",
           at.file->path(), name, name_of(info.dtype));
  }
}

void Checkpoint::read_f16(const std::string& name, int64_t first, int64_t count, f16* out) const {
  read(name, first, count, out);
}
void Checkpoint::read_bf16(const std::string& name, int64_t first, int64_t count, bf16* out) const {
  read(name, first, count, out);
}
void Checkpoint::read_f32(const std::string& name, int64_t first, int64_t count, float* out) const {
  read(name, first, count, out);
}

void check_tensors(const WeightSource& source, std::span<const ExpectedTensor> expected) {
  std::vector<std::string> missing, different, mistyped;
  for (const ExpectedTensor& wanted : expected) {
    const auto found = source.find(wanted.name);
    if (!found) {
      missing.push_back(fmt::format("'{}'", wanted.name));
      continue;
    }
    std::vector<int64_t> shape = found->shape;
    const bool is_quantized = is_prequantized(source, wanted.name);
    if (is_quantized) shape = prequantized_shape(source, wanted.name);
    const DType codes = source.prequantized() == Prequantized::int8 ? DType::i8 : DType::u8;
    const bool is_float = found->dtype == DType::f32 || found->dtype == DType::f16 || found->dtype == DType::bf16;
    if (is_quantized ? found->dtype != codes : !is_float) {
      mistyped.push_back(fmt::format("'{}' is {}, expected {}", wanted.name, name_of(found->dtype),
                                     is_quantized ? name_of(codes) : "F32, F16 or BF16"));
    } else if (is_quantized) {
      check_parts(source, wanted.name);
    }
    const std::vector<int64_t> matrix = {wanted.rows, wanted.cols}, vector = {wanted.cols};
    const std::vector<int64_t>& right = !wanted.stored_shape.empty() ? wanted.stored_shape
                                        : wanted.rows == 1           ? vector
                                                                     : matrix;
    if (shape == right || (wanted.rows == 1 && shape == matrix)) continue;
    different.push_back(fmt::format("'{}' is {}, expected {}", wanted.name, shape_text(shape), shape_text(right)));
  }
  if (missing.empty() && different.empty() && mistyped.empty()) return;
  std::string text;
  if (!missing.empty())
    text += fmt::format("{} tensor{} missing: {}", missing.size(), missing.size() == 1 ? " is" : "s are",
                        list_text(missing));
  if (!different.empty()) {
    text += fmt::format("{}{} tensor{} another shape than config.json says: {}", text.empty() ? "" : "; ",
                        different.size(), different.size() == 1 ? " has" : "s have", list_text(different));
  }
  if (!mistyped.empty()) {
    text += fmt::format("{}{} tensor{} a type that is not read there: {}", text.empty() ? "" : "; ", mistyped.size(),
                        mistyped.size() == 1 ? " has" : "s have", list_text(mistyped));
  }
  fail(ErrorKind::bad_model, "{}: {}; {}", source.where(), text,
       missing.empty() && different.empty() ? "get the model again"
                                            : "weights and config.json must be of the same model, and complete");
}

}  // namespace quantbench
