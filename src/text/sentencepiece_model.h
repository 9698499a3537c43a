// A model of sentencepiece, encoding by libsentencepiece.
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
