// In place of sentencepiece_model.cpp and tokenizer_sentencepiece.cpp where libsentencepiece is not linked in: in the
// portable folder.
#include "text/refusal.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer.h"

namespace quantbench {

std::unique_ptr<TextModel> make_sentencepiece_model(const SentencePieceFile&, const std::string& where) {
  fail(ErrorKind::bad_model,
       "{}: this program was built without libsentencepiece, which such files need; save the tokenizer as "
       "tokenizer.json "
       "with transformers (a fast tokenizer), or use a program that was built on this machine",
       where);
}

bool has_sentencepiece() { return false; }

Tokenizer Tokenizer::from_sentencepiece(const SentencePieceFiles& files) {
  make_sentencepiece_model({}, files.model);
  fail(ErrorKind::internal, "{}: a model of sentencepiece was read without libsentencepiece", files.model);
}

}  // namespace quantbench
