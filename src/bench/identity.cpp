#include "bench/identity.h"

#include <openssl/sha.h>

#include <array>
#include <cstring>
#include <span>

#include "core/os.h"

namespace quantbench {

std::string sha256_hex(std::string_view bytes) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  ::SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest.data());
  std::string hex;
  for (unsigned char byte : digest) hex += fmt::format("{:02x}", byte);
  return hex;
}

std::string hash_of(const std::vector<int32_t>& tokens) {
  std::string bytes;
  for (int32_t token : tokens) {
    for (int shift = 0; shift < 32; shift += 8)
      bytes.push_back(static_cast<char>(static_cast<uint32_t>(token) >> shift));
  }
  return sha256_hex(bytes);
}

ModelIdentity identify_model(const std::string& folder) {
  constexpr int64_t kConfigLimit = 16 << 20, kHeaderLimit = 100 << 20;
  ModelIdentity identity;
  if (folder.empty()) return identity;
  if (os::exists(folder + "/config.json")) {
    identity.config_sha256 = sha256_hex(os::read_file(folder + "/config.json", kConfigLimit));
  }
  for (const std::string& name : os::list_directory(folder)) {
    if (!name.ends_with(".safetensors") || !os::exists(folder + "/" + name)) continue;
    const os::File file = os::File::open(folder + "/" + name);
    std::array<std::byte, 8> prefix{};
    if (file.bytes() < static_cast<int64_t>(prefix.size())) continue;  // the loader says what is wrong with it
    file.read_at(0, prefix);
    uint64_t header_bytes = 0;
    for (size_t i = 0; i < prefix.size(); ++i) header_bytes |= std::to_integer<uint64_t>(prefix[i]) << (8 * i);
    if (header_bytes > static_cast<uint64_t>(std::min(kHeaderLimit, file.bytes() - 8))) continue;
    std::string header(static_cast<size_t>(header_bytes), '\0');
    file.read_at(8, std::as_writable_bytes(std::span(header)));
    identity.files.push_back({name, file.bytes(), sha256_hex(header)});
  }
  return identity;
}

}  // namespace quantbench
