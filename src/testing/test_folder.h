// For tests: a temporary folder, and safetensors files in it, well-formed or not.
#pragma once

#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/half.h"

namespace quantbench {

class TestFolder {
 public:
  TestFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "quantbench_test_XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~TestFolder() { std::filesystem::remove_all(path_); }
  TestFolder(const TestFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  // Writes a file, with its folders.
  std::string write(const std::string& name, const std::string& content) const {
    const std::filesystem::path path = path_ + "/" + name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << content;
    return path.string();
  }

 private:
  std::string path_;
};

// The bytes of a safetensors file with this header, as it is, and data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

struct TestTensor {
  std::string name, dtype, shape, bytes;  // shape: "2, 3"
};
inline std::string safetensors_bytes(const std::vector<TestTensor>& tensors) {
  std::string header, data;
  for (const TestTensor& tensor : tensors) {
    header +=
        fmt::format("{}\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", header.empty() ? "" : ",",
                    tensor.name, tensor.dtype, tensor.shape, data.size(), data.size() + tensor.bytes.size());
    data += tensor.bytes;
  }
  return safetensors_bytes("{" + header + "}", data);
}

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}
inline std::string f16_bytes(const std::vector<float>& values) {
  std::vector<f16> halves;
  for (const float value : values) halves.push_back(to_f16(value));
  return bytes_of(halves);
}

// The text of the Error that `body` throws, which must be of this kind; "accepted" if it throws none.
inline std::string refusal(const std::function<void()>& body, ErrorKind kind = ErrorKind::bad_model) {
  try {
    body();
  } catch (const Error& error) {
    return error.kind() == kind ? error.what() : std::string("another kind: ") + error.what();
  }
  return "accepted";
}

}  // namespace quantbench
