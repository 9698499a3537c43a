// A model of sentencepiece, encoding by libsentencepiece. A run of n unknown characters costs it n² (a megabyte of them
// some 10 s, with 0.1.97), all else O(n log n). Where two cuts of a text are equally likely, rounding decides, and
// versions of the library differ: 0.1.97 to 0.2.0 agree, 0.2.3 now and then takes the other, as tokenizer.json's reader
// may.
#pragma once

#include <memory>
#include <string>

#include "text/sentencepiece_file.h"
#include "text/text_model.h"

namespace quantbench {

// Error bad_model where libsentencepiece refuses the model, or where this program was built without it.
std::unique_ptr<TextModel> make_sentencepiece_model(const SentencePieceFile& file, const std::string& where);

// Whether this program was built with libsentencepiece.
bool has_sentencepiece();

}  // namespace quantbench
