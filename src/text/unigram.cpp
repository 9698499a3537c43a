#include "text/unigram.h"

#include <algorithm>
#include <cmath>

#include "text/json_fields.h"
#include "text/refusal.h"
#include "text/token_id.h"
#include "text/utf8.h"

namespace quantbench {
namespace {

// Bounds the work for each character of a text; the longest published piece has well under 100 bytes.
constexpr size_t kMaxPieceBytes = 1024;
constexpr double kUnknownPenalty = 10;

}  // namespace

Unigram::Unigram(const nlohmann::json& model, const std::string& where)
    : byte_fallback_(bool_or(model, "byte_fallback", false, where)) {
  const nlohmann::json& vocab = require_list(model, "vocab", where);
  if (vocab.size() > size_t{kMaxTokenId} + 1) {
    refuse_damaged("{}: \"vocab\" has {} pieces, expected at most {}", where, vocab.size(), kMaxTokenId + 1);
  }
  std::vector<ByteTrie::Entry> entries;
  vocabulary_.reserve(vocab.size());
  double least = HUGE_VAL;
  for (const nlohmann::json& entry : vocab) {
    const auto id = static_cast<int32_t>(scores_.size());
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
      refuse_damaged("{}.vocab[{}]: expected [piece, score], found {}", where, id, entry.dump());
    }
    const std::string& piece = entry[0].get_ref<const std::string&>();
    const double score = entry[1].get<double>();
    if (piece.size() > kMaxPieceBytes) {
      refuse_damaged("{}.vocab[{}]: a piece of {} bytes, expected at most {}", where, id, piece.size(), kMaxPieceBytes);
    }
    if (!std::isfinite(score)) refuse_damaged("{}.vocab[{}]: the score is no finite number", where, id);
    const auto [other, fresh] = vocabulary_.emplace(piece, id);
    if (!fresh) refuse_damaged("{}.vocab[{}]: \"{}\" stands already at [{}]", where, id, piece, other->second);
    if (!piece.empty()) entries.push_back({other->first, id});
    scores_.push_back(score);
    least = std::min(least, score);
  }
  const nlohmann::json& unknown = require(model, "unk_id", where);
  if (!unknown.is_number_integer() || unknown < 0 || unknown >= scores_.size()) {
    refuse_damaged("{}: \"unk_id\" is {}, expected the position of one of the {} pieces", where, unknown.dump(),
                   scores_.size());
  }
  unknown_ = unknown.get<int32_t>();
  unknown_score_ = least - kUnknownPenalty;
  pieces_ = ByteTrie(std::move(entries));
  bytes_ = byte_tokens(vocabulary_);
}

void Unigram::encode(std::string_view text, std::vector<int32_t>& ids) const {
  struct Best {  // of the ways to cut all before a place, the likeliest
    double score = 0;
    int32_t begin = -1, id = 0;  // of its last piece; begin -1: none known yet
  };
  std::vector<Best> best(text.size() + 1);
  const auto offer = [&](size_t begin, size_t end, int32_t id, double score) {
    Best& there = best[end];
    const double total = best[begin].score + score;
    if (there.begin < 0 || total > there.score) there = {total, static_cast<int32_t>(begin), id};
  };
  for (size_t begin = 0; begin < text.size();) {
    const size_t character_end = begin + static_cast<size_t>(utf8::step(text.substr(begin)).bytes);
    bool character_known = false;
    int32_t node = ByteTrie::kRoot;
    for (size_t end = begin; end < text.size();) {
      node = pieces_.step(node, static_cast<uint8_t>(text[end++]));
      if (node == ByteTrie::kNone) break;
      const int32_t id = pieces_.value(node);
      if (id == ByteTrie::kNone) continue;
      offer(begin, end, id, scores_[id]);
      character_known = character_known || end == character_end;
    }
    if (!character_known) offer(begin, character_end, unknown_, unknown_score_);
    begin = character_end;
  }

  struct Piece {
    size_t begin, end;
    int32_t id;
  };
  std::vector<Piece> path;  // from the end
  for (size_t end = text.size(); end > 0;) {
    const auto begin = static_cast<size_t>(best[end].begin);
    const int32_t id = best[end].id;
    if (id == unknown_ && !path.empty() && path.back().id == unknown_) {
      path.back().begin = begin;
    } else {
      path.push_back({begin, end, id});
    }
    end = begin;
  }
  for (auto piece = path.rbegin(); piece != path.rend(); ++piece) {
    if (piece->id != unknown_) {
      ids.push_back(piece->id);
      continue;
    }
    // What the unknown ones are together may be a piece after all: the one that spells the unknown token.
    const std::string_view spelled = text.substr(piece->begin, piece->end - piece->begin);
    if (spelled.size() <= kMaxPieceBytes) {
      if (const auto found = vocabulary_.find(std::string(spelled)); found != vocabulary_.end()) {
        ids.push_back(found->second);
        continue;
      }
    }
    if (!byte_fallback_ || !append_bytes(bytes_, spelled, ids)) ids.push_back(unknown_);
  }
}

}  // namespace quantbench
