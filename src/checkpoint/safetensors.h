// The safetensors container: eight bytes with the length of a JSON header, the header, and the tensors' bytes without
// gaps. Everything a header says is checked before a byte is allocated or read for a tensor.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/weight_source.h"
#include "core/os.h"

namespace quantbench {

struct SafetensorsTensor {
  TensorInfo info;
  int64_t offset = 0, bytes = 0;  // offset from the start of the file
};

struct SafetensorsHeader {
  std::map<std::string, SafetensorsTensor> tensors;
  std::map<std::string, std::string> metadata;
};

constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;  // the format's own limit

// The header of a file: `json` follows the first eight bytes, the file has `file_bytes` in all. Error bad_model, naming
// `where`, the tensor, what was expected and what was found.
SafetensorsHeader parse_safetensors_header(std::string_view json, int64_t file_bytes, const std::string& where);

// An open file with its header. Reads may come from several threads.
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  int64_t bytes() const { return file_.bytes(); }
  const SafetensorsHeader& header() const { return header_; }
  std::string header_text() const;  // as it stands in the file, read again
  // Bytes [offset, offset + into.size()) of a tensor, which must lie within it.
  void read(const SafetensorsTensor& tensor, int64_t offset, std::span<std::byte> into) const;

 private:
  SafetensorsFile(os::File file, SafetensorsHeader header) : file_(std::move(file)), header_(std::move(header)) {}
  os::File file_;
  SafetensorsHeader header_;
};

// The number of elements of a checked shape; a scalar ([]) has one.
int64_t element_count(const TensorInfo& info);
// "[2048, 512]"
std::string shape_text(std::span<const int64_t> shape);
inline int64_t byte_count(const TensorInfo& info) {
  return element_count(info) * static_cast<int64_t>(size_of(info.dtype));
}

// Writes a file whose tensors are known beforehand and whose bytes come in that order, in pieces of any size. It has
// its name only after commit().
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::string& path, const std::vector<std::pair<std::string, TensorInfo>>& tensors,
                    const std::map<std::string, std::string>& metadata = {});
  void write(std::span<const std::byte> bytes);
  void commit();  // every byte that the header promises must have been written

 private:
  os::OutputFile file_;
  int64_t promised_bytes_ = 0, written_bytes_ = 0;
};

}  // namespace quantbench
