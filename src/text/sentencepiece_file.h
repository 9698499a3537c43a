// A model file of sentencepiece (spiece.model, tokenizer.model): the protocol buffer ModelProto, as far as encoding
// needs it (sentencepiece_model.proto of sentencepiece). Read and checked here, since libsentencepiece trusts what it
// is given: its tables have fixed sizes, and some faults end the process.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quantbench {

struct SentencePieceFile {
  enum class Kind { unigram = 1, bpe = 2 };
  enum class PieceType { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  struct Piece {
    std::string text;  // UTF-8, neither empty nor with a zero byte
    float score = 0;   // finite
    PieceType type = PieceType::normal;
  };

  Kind kind = Kind::unigram;
  std::vector<Piece> pieces;              // by id; no text twice; one unknown piece
  bool byte_fallback = false;             // then all 256 byte pieces are there, else none
  std::string bos = "<s>", eos = "</s>";  // names of the pieces, which need not be there
  std::string charsmap;                   // sound, or empty: text stays as it is
  bool add_dummy_prefix = true, remove_extra_whitespaces = true;

  // The protocol buffer with just these fields: what libsentencepiece is given.
  std::string serialized() const;
};

// Error bad_model, with `where` and the byte, for what is cut off, is something else, or contradicts itself.
SentencePieceFile parse_sentencepiece(std::string_view bytes, const std::string& where);

}  // namespace quantbench
