#include "hub/hashes.h"

// OpenSSL's plain hashes have been deprecated since 3.0 for ones that would take all of it into a portable program.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include <algorithm>
#include <span>
#include <vector>

#include "core/error.h"

namespace quantbench {
namespace {

constexpr size_t kSha256Digits = size_t{2} * SHA256_DIGEST_LENGTH, kSha1Digits = size_t{2} * SHA_DIGEST_LENGTH;
constexpr int64_t kPieceBytes = 1 << 20;

std::string hex_of(std::span<const unsigned char> digest) {
  std::string hex;
  for (const unsigned char byte : digest) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  return hex;
}

template <typename Update>
void read_all(const os::PartialFile& file, Update update) {
  std::vector<std::byte> piece(static_cast<size_t>(std::min(kPieceBytes, file.bytes())));
  for (int64_t at = 0; at < file.bytes(); at += static_cast<int64_t>(piece.size())) {
    piece.resize(static_cast<size_t>(std::min(kPieceBytes, file.bytes() - at)));
    file.read_at(at, piece);
    if (os::stop_requested()) {
      fail(ErrorKind::interrupted,
           "interrupted while checking what was downloaded; it is kept, and the same command goes on from there");
    }
    update(piece.data(), piece.size());
  }
}

}  // namespace

bool is_content_hash(const std::string& etag) {
  return (etag.size() == kSha256Digits || etag.size() == kSha1Digits) &&
         std::all_of(etag.begin(), etag.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

std::string content_hash(const os::PartialFile& file, size_t digits) {
  if (digits == kSha256Digits) {
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256_CTX context;
    ::SHA256_Init(&context);
    read_all(file, [&](const std::byte* data, size_t bytes) { ::SHA256_Update(&context, data, bytes); });
    ::SHA256_Final(digest, &context);
    return hex_of(digest);
  }
  unsigned char digest[SHA_DIGEST_LENGTH];
  SHA_CTX context;
  ::SHA1_Init(&context);
  const std::string begin = fmt::format("blob {}", file.bytes());
  ::SHA1_Update(&context, begin.c_str(), begin.size() + 1);
  read_all(file, [&](const std::byte* data, size_t bytes) { ::SHA1_Update(&context, data, bytes); });
  ::SHA1_Final(digest, &context);
  return hex_of(digest);
}

}  // namespace quantbench
