// The buffers of a run as a model sees them: plain views, owned by engine/.
#pragma once

#include <vector>

#include "backend/ops.h"

namespace quantbench {

struct StateShape {
  int rows = 1;        // the most rows of one call: prompt length in prefill
  int logit_rows = 1;  // rows of logits kept at once
  int sequences = 1;
  int positions = 0;  // cache slots a sequence
};

struct State {
  Tensor x, q, a, h;        // fp32 [rows, hidden], [rows, q_heads·head_dim] twice, [rows, intermediate]
  Tensor logits;            // fp32 [logit_rows, vocab]
  std::vector<KvLayer> kv;  // one a layer
  Rows rows;                // capacity `rows`; count is set per call
  Sampling sampling;
  int32_t* history = nullptr;  // [sequences, history_positions] the tokens made, at their positions; or null
  int history_positions = 0;
  const int32_t* stops = nullptr;  // see NextToken
  int32_t* done = nullptr;

  NextToken next_token(Tensor of_logits) const;  // of this state's rows
  // The first `count` rows of everything.
  State first(int count) const;
};

}  // namespace quantbench
