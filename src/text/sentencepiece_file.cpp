#include "text/sentencepiece_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <optional>
#include <unordered_map>

#include "text/byte_trie.h"
#include "text/char_bpe.h"
#include "text/charsmap.h"
#include "text/refusal.h"
#include "text/token_id.h"
#include "text/utf8.h"

namespace quantbench {
namespace {

// Bounds the work for each character of a text, as in unigram.cpp.
constexpr size_t kMaxPieceBytes = 1024;
// libsentencepiece has room for so many user-defined pieces that begin one another (PrefixMatcher::PrefixMatch).
constexpr int kMaxNestedPieces = 64;

enum Wire { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

// The fields of ModelProto and of what it holds.
namespace field {
enum Model { pieces = 1, trainer = 2, normalizer = 3 };
enum Piece { text = 1, score = 2, type = 3 };
enum Trainer { model_type = 3, whitespace_as_suffix = 24, byte_fallback = 35, bos_piece = 46, eos_piece = 47 };
enum Normalizer { charsmap = 2, dummy_prefix = 3, extra_whitespaces = 4, escape_whitespaces = 5 };
}  // namespace field

struct Field {
  int number = 0;
  Wire wire = varint;
  uint64_t value = 0;      // of varint and fixed
  std::string_view bytes;  // of bytes
};

class WireReader {
 public:
  // origin: where the message stands in the file, for refusals.
  WireReader(std::string_view message, size_t origin, const std::string& where)
      : message_(message), origin_(origin), where_(where) {}

  // Where the next field's content stands in the file.
  size_t content_at() const { return origin_ + content_at_; }

  bool next(Field& field) {
    if (at_ == message_.size()) return false;
    const size_t begin = at_;
    const uint64_t key = read_varint(), number = key >> 3;
    if (number == 0 || number > 0x1FFFFFFF) refuse(begin, "a field's number should be here");
    field = {static_cast<int>(number), static_cast<Wire>(key & 7), 0, {}};
    switch (field.wire) {
      case varint: field.value = read_varint(); break;
      case fixed64: field.value = read_fixed(8); break;
      case fixed32: field.value = read_fixed(4); break;
      case bytes: {
        const uint64_t size = read_varint();
        if (size > message_.size() - at_) {
          refuse_damaged(
              "{}: the file is no whole model of sentencepiece: at byte {} something of {} bytes begins, but {} "
              "are left",
              where_, origin_ + at_, size, message_.size() - at_);
        }
        content_at_ = at_;
        field.bytes = message_.substr(at_, size);
        at_ += size;
        break;
      }
      default: refuse(begin, "a field of a known kind should be here");
    }
    return true;
  }

  // The field is what it is expected to be; else a refusal.
  void expect(const Field& field, Wire wire, const char* name) const {
    if (field.wire != wire) {
      refuse_damaged("{}: the file is no model of sentencepiece: {}, before byte {}, is of kind {}, expected {}",
                     where_, name, origin_ + at_, static_cast<int>(field.wire), static_cast<int>(wire));
    }
  }
  bool expect_bool(const Field& field, const char* name) const {
    expect(field, varint, name);
    return field.value != 0;
  }

 private:
  [[noreturn]] void refuse(size_t at, const char* expected) const {
    refuse_damaged("{}: the file is no whole model of sentencepiece: at byte {} of it {}", where_, origin_ + at,
                   expected);
  }

  uint64_t read_varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      if (at_ == message_.size()) refuse(at_, "a number should go on");
      const auto byte = static_cast<uint8_t>(message_[at_++]);
      value |= shift < 64 ? static_cast<uint64_t>(byte & 0x7F) << shift : 0;
      if (byte < 0x80) return value;
    }
    refuse(at_, "a number should have ended");
  }

  uint64_t read_fixed(size_t size) {
    if (message_.size() - at_ < size) refuse(at_, "a number should go on");
    uint64_t value = 0;
    for (size_t i = size; i-- > 0;) value = value << 8 | static_cast<uint8_t>(message_[at_ + i]);
    at_ += size;
    return value;
  }

  std::string_view message_;
  size_t origin_, at_ = 0, content_at_ = 0;
  const std::string& where_;
};

SentencePieceFile::Piece read_piece(WireReader reader, const std::string& where, size_t id) {
  SentencePieceFile::Piece piece;
  Field field;
  while (reader.next(field)) {
    if (field.number == field::text) {
      reader.expect(field, bytes, "a piece's text");
      piece.text = std::string(field.bytes);
    } else if (field.number == field::score) {
      reader.expect(field, fixed32, "a piece's score");
      piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    } else if (field.number == field::type) {
      reader.expect(field, varint, "a piece's type");
      if (field.value < 1 || field.value > 6) {
        refuse_damaged("{}: piece {} is of type {}, expected 1 to 6", where, id, field.value);
      }
      piece.type = static_cast<SentencePieceFile::PieceType>(field.value);
    }
  }
  if (piece.text.empty() || piece.text.size() > kMaxPieceBytes) {
    refuse_damaged("{}: piece {} has {} bytes, expected 1 to {}", where, id, piece.text.size(), kMaxPieceBytes);
  }
  if (utf8::first_invalid(piece.text) || piece.text.find('\0') != std::string::npos) {
    refuse_damaged("{}: piece {} is not UTF-8, or has a zero byte", where, id);
  }
  if (!std::isfinite(piece.score)) refuse_damaged("{}: the score of piece {} is no finite number", where, id);
  return piece;
}

void read_trainer(WireReader reader, const std::string& where, SentencePieceFile& out) {
  Field field;
  while (reader.next(field)) {
    if (field.number == field::model_type) {
      reader.expect(field, varint, "the type of model");
      if (field.value == 3 || field.value == 4) {
        refuse_unsupported("{}: the model is of whole {}; supported are unigram and bpe", where,
                           field.value == 3 ? "words" : "characters");
      }
      if (field.value != 1 && field.value != 2) {
        refuse_damaged("{}: the model is of type {}, expected 1 to 4", where, field.value);
      }
      out.kind = static_cast<SentencePieceFile::Kind>(field.value);
    } else if (field.number == field::byte_fallback) {
      out.byte_fallback = reader.expect_bool(field, "byte_fallback");
    } else if (field.number == field::whitespace_as_suffix) {
      if (reader.expect_bool(field, "treat_whitespace_as_suffix")) {
        refuse_unsupported("{}: treat_whitespace_as_suffix is set; supported are models that mark the start of words",
                           where);
      }
    } else if (field.number == field::bos_piece || field.number == field::eos_piece) {
      reader.expect(field, bytes, "the name of a piece");
      (field.number == field::bos_piece ? out.bos : out.eos) = std::string(field.bytes);
    }
  }
}

void read_normalizer(WireReader reader, const std::string& where, SentencePieceFile& out) {
  Field field;
  while (reader.next(field)) {
    if (field.number == field::charsmap) {
      reader.expect(field, bytes, "the charsmap");
      out.charsmap = std::string(field.bytes);
    } else if (field.number == field::dummy_prefix) {
      out.add_dummy_prefix = reader.expect_bool(field, "add_dummy_prefix");
    } else if (field.number == field::extra_whitespaces) {
      out.remove_extra_whitespaces = reader.expect_bool(field, "remove_extra_whitespaces");
    } else if (field.number == field::escape_whitespaces) {
      if (!reader.expect_bool(field, "escape_whitespaces")) {
        refuse_unsupported("{}: escape_whitespaces is not set; supported are models that spell a space as ▁", where);
      }
    }
  }
}

// What the pieces must be together.
void check_pieces(const SentencePieceFile& file, const std::string& where) {
  using Type = SentencePieceFile::PieceType;
  std::unordered_map<std::string_view, size_t> ids;
  std::optional<size_t> unknown;
  std::array<bool, 256> byte_seen{};
  std::vector<ByteTrie::Entry> user_defined;
  for (size_t id = 0; id < file.pieces.size(); ++id) {
    const SentencePieceFile::Piece& piece = file.pieces[id];
    if (const auto [other, fresh] = ids.try_emplace(piece.text, id); !fresh) {
      refuse_damaged("{}: piece {}, \"{}\", stands already at {}", where, id, piece.text, other->second);
    }
    if (piece.type == Type::unknown) {
      if (unknown) refuse_damaged("{}: pieces {} and {} are both the unknown one", where, *unknown, id);
      unknown = id;
    } else if (piece.type == Type::byte) {
      const auto byte = byte_of_token(piece.text);
      if (!byte || byte_token(*byte) != piece.text || !file.byte_fallback) {
        refuse_damaged("{}: piece {} stands for a byte and is \"{}\" in a model {} byte_fallback", where, id,
                       piece.text, file.byte_fallback ? "with" : "without");
      }
      byte_seen[*byte] = true;
    } else if (piece.type == Type::user_defined) {
      user_defined.push_back({piece.text, static_cast<int32_t>(id)});
    }
  }
  if (!unknown) refuse_damaged("{}: none of the {} pieces is the unknown one", where, file.pieces.size());
  if (file.byte_fallback) {
    for (int byte = 0; byte < 256; ++byte) {
      if (!byte_seen[byte])
        refuse_damaged("{}: byte_fallback is set, and there is no piece {}", where, byte_token(byte));
    }
  }
  const ByteTrie trie(user_defined);
  for (const ByteTrie::Entry& entry : user_defined) {
    int nested = 0;
    int32_t node = ByteTrie::kRoot;
    for (const char c : entry.text) {
      node = trie.step(node, static_cast<uint8_t>(c));
      nested += trie.value(node) != ByteTrie::kNone;
    }
    if (nested > kMaxNestedPieces) {
      refuse_unsupported("{}: piece {} begins with {} other user-defined ones; supported are {}", where, entry.value,
                         nested - 1, kMaxNestedPieces - 1);
    }
  }
}

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}
void put(std::string& out, int number, uint64_t value) {
  put_varint(out, static_cast<uint64_t>(number) << 3 | varint);
  put_varint(out, value);
}
void put(std::string& out, int number, std::string_view content) {
  put_varint(out, static_cast<uint64_t>(number) << 3 | bytes);
  put_varint(out, content.size());
  out += content;
}
void put(std::string& out, int number, float value) {
  put_varint(out, static_cast<uint64_t>(number) << 3 | fixed32);
  const auto word = std::bit_cast<uint32_t>(value);
  for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>(word >> shift));
}

}  // namespace

SentencePieceFile parse_sentencepiece(std::string_view content, const std::string& where) {
  SentencePieceFile file;
  bool trainer_seen = false, normalizer_seen = false;
  WireReader reader(content, 0, where);
  Field field;
  while (reader.next(field)) {
    if (field.number > field::normalizer) continue;
    reader.expect(field, bytes, "a part");
    WireReader inner(field.bytes, reader.content_at(), where);
    if (field.number == field::pieces) {
      if (file.pieces.size() > size_t{kMaxTokenId}) {
        refuse_damaged("{}: more than {} pieces", where, kMaxTokenId + 1);
      }
      file.pieces.push_back(read_piece(inner, where, file.pieces.size()));
    } else if (field.number == field::trainer) {
      trainer_seen = true;
      read_trainer(inner, where, file);
    } else {
      normalizer_seen = true;
      read_normalizer(inner, where, file);
    }
  }
  // Both come behind all pieces, so a file that is cut off between pieces lacks them.
  if (file.pieces.empty() || !trainer_seen || !normalizer_seen) {
    refuse_damaged(
        "{}: the file, of {} bytes, is no whole model of sentencepiece: it has {} pieces, {} trainer's and {} "
        "normalizer's part, and each must be there",
        where, content.size(), file.pieces.size(), trainer_seen ? "a" : "no", normalizer_seen ? "a" : "no");
  }
  check_pieces(file, where);
  if (!file.charsmap.empty()) Charsmap(file.charsmap, where);
  return file;
}

std::string SentencePieceFile::serialized() const {
  std::string model;
  for (const Piece& piece : pieces) {
    std::string part;
    put(part, field::text, std::string_view(piece.text));
    put(part, field::score, piece.score);
    put(part, field::type, static_cast<uint64_t>(piece.type));
    put(model, field::pieces, std::string_view(part));
  }
  std::string trainer;
  put(trainer, field::model_type, static_cast<uint64_t>(kind));
  put(trainer, field::byte_fallback, uint64_t{byte_fallback});
  put(trainer, field::bos_piece, std::string_view(bos));
  put(trainer, field::eos_piece, std::string_view(eos));
  put(model, field::trainer, std::string_view(trainer));
  std::string normalizer;
  put(normalizer, field::charsmap, std::string_view(charsmap));
  put(normalizer, field::dummy_prefix, uint64_t{add_dummy_prefix});
  put(normalizer, field::extra_whitespaces, uint64_t{remove_extra_whitespaces});
  put(model, field::normalizer, std::string_view(normalizer));
  return model;
}

}  // namespace quantbench
