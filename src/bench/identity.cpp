#include "bench/identity.h"

// Its plain SHA-256 has been deprecated since 3.0 for one that would take all of OpenSSL into a portable program.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include <array>

#include "checkpoint/checkpoint.h"
#include "core/os.h"

namespace quantbench {

std::string sha256_hex(std::string_view bytes) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256_CTX context;
  ::SHA256_Init(&context);
  ::SHA256_Update(&context, bytes.data(), bytes.size());
  ::SHA256_Final(digest.data(), &context);
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

ModelIdentity identify_model(const ModelSource& source) {
  constexpr int64_t kConfigLimit = 16 << 20;
  ModelIdentity identity;
  if (source.folder.empty()) return identity;
  if (const auto config = find_model_file(source.folder, "config.json", source.allow_symlinks)) {
    identity.config_sha256 = sha256_hex(os::read_file(*config, kConfigLimit));
  }
  if (source.random_weights) return identity;
  const auto checkpoint = Checkpoint::open(source.folder, {source.allow_symlinks, source.allow_nonfinite});
  for (const auto& [name, file] : checkpoint->files()) {
    identity.files.push_back({name, file->bytes(), sha256_hex(file->header_text())});
  }
  return identity;
}

}  // namespace quantbench
