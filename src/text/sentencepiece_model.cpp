// The one file that knows libsentencepiece; sentencepiece_absent.cpp takes its place where it is not linked in.
#include "text/sentencepiece_model.h"

#include <sentencepiece_processor.h>

#include <exception>

#include "text/refusal.h"

namespace quantbench {
namespace {

class SentencePieceModel final : public TextModel {
 public:
  SentencePieceModel(const SentencePieceFile& file, const std::string& where) : where_(where) {
    for (size_t id = 0; id < file.pieces.size(); ++id) {
      vocabulary_.emplace(file.pieces[id].text, static_cast<int32_t>(id));
    }
    std::string cause;
    try {
      const auto status = processor_.LoadFromSerializedProto(file.serialized());
      if (status.ok()) return;
      cause = status.error_message();
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {  // its double array throws what it does not take
      cause = error.what();
    }
    refuse_damaged("{}: libsentencepiece does not take the model: {}", where, cause);
  }

  void encode(std::string_view text, std::vector<int32_t>& ids) const override {
    std::vector<int> found;
    const auto status = processor_.Encode(text, &found);
    if (!status.ok()) {
      fail(ErrorKind::bad_model, "{}: libsentencepiece cannot encode a text of {} bytes: {}; choose another model",
           where_, text.size(), status.error_message());
    }
    ids.insert(ids.end(), found.begin(), found.end());
  }

  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  std::string where_;
  Vocabulary vocabulary_;
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace

std::unique_ptr<TextModel> make_sentencepiece_model(const SentencePieceFile& file, const std::string& where) {
  return std::make_unique<SentencePieceModel>(file, where);
}

bool has_sentencepiece() { return true; }

}  // namespace quantbench
