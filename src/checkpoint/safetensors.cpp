#include "checkpoint/safetensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>
#include <limits>
#include <optional>

#include "checkpoint/limits.h"
#include "core/git_lfs.h"
#include "core/json.h"

namespace quantbench {
namespace {

using nlohmann::json;
static_assert(std::endian::native == std::endian::little, "safetensors is little-endian, and read as it is");

constexpr int64_t kLengthBytes = 8;
constexpr DType kDTypes[] = {DType::f32, DType::f16, DType::bf16, DType::f64, DType::i8,  DType::u8,     DType::i16,
                             DType::u16, DType::i32, DType::u32,  DType::i64, DType::u64, DType::boolean};

std::optional<DType> dtype_named(std::string_view name) {
  for (const DType dtype : kDTypes) {
    if (name_of(dtype) == name) return dtype;
  }
  return std::nullopt;
}

[[noreturn]] void refuse(const std::string& where, const std::string& tensor, const std::string& cause) {
  fail(ErrorKind::bad_model, "{}: tensor '{}': {}; the file is damaged or not a safetensors file: get it again", where,
       tensor, cause);
}

// Every number of a header is an unsigned integer below 2^63.
int64_t unsigned_of(const json& value, const std::string& where, const std::string& tensor, const char* key) {
  if (!value.is_number_unsigned() ||
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    refuse(where, tensor, fmt::format("{} holds {}, expected an unsigned integer below 2^63", key, value.dump()));
  }
  return static_cast<int64_t>(value.get<uint64_t>());
}

const json& member(const json& entry, const char* key, const std::string& where, const std::string& tensor) {
  const auto found = entry.find(key);
  if (found == entry.end()) refuse(where, tensor, fmt::format("'{}' is missing", key));
  return *found;
}

SafetensorsTensor parse_tensor(const json& entry, int64_t data_begin, int64_t data_bytes, const std::string& where,
                               const std::string& name) {
  if (!entry.is_object()) refuse(where, name, "its entry is not an object");
  SafetensorsTensor tensor;

  const json& dtype = member(entry, "dtype", where, name);
  if (!dtype.is_string()) refuse(where, name, fmt::format("dtype {}, expected a name such as \"F16\"", dtype.dump()));
  const auto known = dtype_named(dtype.get_ref<const std::string&>());
  if (!known) {
    fail(ErrorKind::bad_model,
         "{}: tensor '{}' has dtype {}, which is not supported; weights may be F32, F16 or BF16, or what transformers "
         "saved with bitsandbytes: choose such a checkpoint of the model",
         where, name, dtype.dump());
  }
  tensor.info.dtype = *known;

  const json& shape = member(entry, "shape", where, name);
  if (!shape.is_array()) refuse(where, name, "shape is not a list");
  for (const json& dim : shape) tensor.info.shape.push_back(unsigned_of(dim, where, name, "shape"));
  int64_t bytes = static_cast<int64_t>(size_of(*known));
  const bool is_empty = std::count(tensor.info.shape.begin(), tensor.info.shape.end(), 0) > 0;
  for (const int64_t dim : tensor.info.shape) {
    if (is_empty) {
      bytes = 0;
    } else if (__builtin_mul_overflow(bytes, dim, &bytes)) {
      refuse(where, name,
             fmt::format("shape {} of {} is larger than 2^63 bytes, the file has {} bytes of data",
                         shape_text(tensor.info.shape), name_of(*known), data_bytes));
    }
  }

  const json& offsets = member(entry, "data_offsets", where, name);
  if (!offsets.is_array() || offsets.size() != 2) refuse(where, name, "data_offsets is not a list of two numbers");
  const int64_t begin = unsigned_of(offsets[0], where, name, "data_offsets");
  const int64_t end = unsigned_of(offsets[1], where, name, "data_offsets");
  if (begin > end || end > data_bytes) {
    refuse(where, name,
           fmt::format("data_offsets [{}, {}] do not lie in the file's {} bytes of data; is the file "
                       "truncated?",
                       begin, end, data_bytes));
  }
  if (end - begin != bytes) {
    refuse(where, name,
           fmt::format("data_offsets [{}, {}] span {} bytes, expected {} for shape {} of {}", begin, end, end - begin,
                       bytes, shape_text(tensor.info.shape), name_of(*known)));
  }
  for (const auto& [key, value] : entry.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      refuse(where, name, fmt::format("unknown key '{}', expected dtype, shape and data_offsets", key));
    }
  }
  tensor.offset = data_begin + begin;
  tensor.bytes = bytes;
  return tensor;
}

// The tensors must fill the data exactly: in the order of their offsets each begins where the one before ended.
void check_coverage(const SafetensorsHeader& header, int64_t data_begin, int64_t data_bytes, const std::string& where) {
  std::vector<std::pair<const std::string*, const SafetensorsTensor*>> order;
  for (const auto& [name, tensor] : header.tensors) order.emplace_back(&name, &tensor);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->offset, a.second->bytes) < std::pair(b.second->offset, b.second->bytes);
  });
  int64_t expected = data_begin;
  for (const auto& [name, tensor] : order) {
    if (tensor->offset != expected) {
      refuse(where, *name,
             fmt::format("its data begin at {}, expected {} where the tensor before it ends ({})",
                         tensor->offset - data_begin, expected - data_begin,
                         tensor->offset < expected ? "they overlap" : "there is a hole"));
    }
    expected += tensor->bytes;
  }
  if (expected != data_begin + data_bytes) {
    fail(ErrorKind::bad_model,
         "{}: the tensors end after {} bytes of data, the file has {}; it is damaged or carries something else: get it "
         "again",
         where, expected - data_begin, data_bytes);
  }
}

}  // namespace

int64_t element_count(const TensorInfo& info) {
  if (std::count(info.shape.begin(), info.shape.end(), 0) > 0) return 0;
  int64_t count = 1;
  for (const int64_t dim : info.shape) count *= dim;
  return count;
}

std::string shape_text(std::span<const int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

SafetensorsHeader parse_safetensors_header(std::string_view text, int64_t file_bytes, const std::string& where) {
  const int64_t data_begin = kLengthBytes + static_cast<int64_t>(text.size());
  const int64_t data_bytes = file_bytes - data_begin;
  const json root = parse_json(text, where, {.depth = 3, .bytes = kMaxSafetensorsHeaderBytes});
  if (!root.is_object()) {
    fail(ErrorKind::bad_model, "{}: the header is not a JSON object; this is not a safetensors file: get it again",
         where);
  }
  if (root.size() > kMaxTensors) {
    fail(ErrorKind::bad_model, "{}: a header of {} tensors, at most {} are accepted; is this the weights of a model?",
         where, root.size(), kMaxTensors);
  }
  SafetensorsHeader header;
  for (const auto& [name, entry] : root.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) {
        fail(ErrorKind::bad_model, "{}: __metadata__ is {}, expected an object of strings; get the file again", where,
             entry.type_name());
      }
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) {
          fail(ErrorKind::bad_model, "{}: __metadata__ '{}' holds {}, expected a string; get the file again", where,
               key, value.dump());
        }
        header.metadata[key] = value.get<std::string>();
      }
      continue;
    }
    header.tensors.emplace(name, parse_tensor(entry, data_begin, data_bytes, where, name));
  }
  check_coverage(header, data_begin, data_bytes, where);
  return header;
}

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  os::File file = os::File::open(path);
  if (file.bytes() < kLengthBytes) {
    fail(ErrorKind::bad_model,
         "{}: {} bytes, expected at least {} for the length of a safetensors header; the download is incomplete or "
         "this is another kind of file",
         path, file.bytes(), kLengthBytes);
  }
  std::string begin(static_cast<size_t>(std::min<int64_t>(file.bytes(), kLfsPointerBytes)), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(begin)));
  refuse_lfs_pointer(begin, path);
  std::array<std::byte, kLengthBytes> length_bytes;
  std::memcpy(length_bytes.data(), begin.data(), kLengthBytes);
  const auto header_bytes = std::bit_cast<uint64_t>(length_bytes);
  if (header_bytes > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes) ||
      header_bytes > static_cast<uint64_t>(file.bytes() - kLengthBytes)) {
    fail(ErrorKind::bad_model,
         "{}: the header is said to have {} bytes, the file has {} and a header at most {}; the download is incomplete "
         "or this is not a safetensors file",
         path, header_bytes, file.bytes(), kMaxSafetensorsHeaderBytes);
  }
  std::string text(header_bytes, '\0');
  file.read_at(kLengthBytes, std::as_writable_bytes(std::span(text)));
  SafetensorsHeader header = parse_safetensors_header(text, file.bytes(), path);
  return SafetensorsFile(std::move(file), std::move(header));
}

std::string SafetensorsFile::header_text() const {
  std::array<std::byte, kLengthBytes> length_bytes;
  file_.read_at(0, length_bytes);
  const auto most = static_cast<uint64_t>(std::min<int64_t>(kMaxSafetensorsHeaderBytes, bytes() - kLengthBytes));
  std::string text(std::min(std::bit_cast<uint64_t>(length_bytes), most), '\0');
  file_.read_at(kLengthBytes, std::as_writable_bytes(std::span(text)));
  return text;
}

void SafetensorsFile::read(const SafetensorsTensor& tensor, int64_t offset, std::span<std::byte> into) const {
  assert(offset >= 0 && offset + static_cast<int64_t>(into.size()) <= tensor.bytes);
  file_.read_at(tensor.offset + offset, into);
}

SafetensorsWriter::SafetensorsWriter(const std::string& path,
                                     const std::vector<std::pair<std::string, TensorInfo>>& tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path) {
  // Of the library just strings: destructors of its objects and lists ask for memory, and end the program where there
  // is none, with the file half made.
  const auto quoted = [](const std::string& string) { return nlohmann::json(string).dump(); };
  std::string text = "{";
  for (const auto& [key, value] : metadata) {
    text += fmt::format("{}{}:{}", text == "{" ? "\"__metadata__\":{" : ",", quoted(key), quoted(value));
  }
  if (!metadata.empty()) text += "}";
  for (const auto& [name, info] : tensors) {
    const int64_t begin = promised_bytes_;
    promised_bytes_ += byte_count(info);
    text += fmt::format(R"({}{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", text == "{" ? "" : ",",
                        quoted(name), name_of(info.dtype), fmt::join(info.shape, ","), begin, promised_bytes_);
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data are aligned, as the format's own writer does
  const uint64_t length = text.size();
  file_.write(std::as_bytes(std::span(&length, 1)));
  file_.write(std::as_bytes(std::span(text)));
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  written_bytes_ += static_cast<int64_t>(bytes.size());
  assert(written_bytes_ <= promised_bytes_);
  file_.write(bytes);
}

void SafetensorsWriter::commit() {
  if (written_bytes_ != promised_bytes_) {
    fail(ErrorKind::internal, "a safetensors file was to have {} bytes of tensors and got {}", promised_bytes_,
         written_bytes_);
  }
  file_.commit();
}

}  // namespace quantbench
