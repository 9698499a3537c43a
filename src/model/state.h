// The buffers of a run as a model sees them: plain views, owned by engine/.
#pragma once

#include <initializer_list>
#include <vector>

#include "backend/ops.h"

namespace quantbench {

struct StateShape {
  int rows = 1;        // the most rows of one call: prompt length in prefill
  int logit_rows = 1;  // rows of logits kept at once
  int sequences = 1;
  int positions = 0;  // cache slots a sequence
  // Of a model with an encoder:
  int encoder_rows = 0;       // the most of one call of it
  int encoder_positions = 0;  // of a sequence
};

// Of the stack beside the decoder (EncoderShape); its q, a and h are the decoder's memory, which waits for it.
struct EncoderState {
  Tensor x, q, a, h;           // fp32, of the encoder's own sizes, as State's
  Tensor patches;              // fp32 [rows, picture values] where its input is a picture
  KvLayer kv;                  // keys and values of the layer at work
  Rows rows;                   // token: ids, or the numbers of patches
  int32_t* lengths = nullptr;  // [rows] all rows of their sequence
};

struct State {
  Tensor x, q, a, h;                 // fp32 [rows, hidden], [rows, q_heads·head_dim] twice, [rows, intermediate]
  Tensor logits;                     // fp32 [logit_rows, vocab]
  std::vector<KvLayer> kv;           // one a layer
  Rows rows;                         // capacity `rows`; count is set per call
  int answers = 0;                   // the head reads so many of the last rows and no other; 0: perhaps any
  const int32_t* lengths = nullptr;  // [rows] positions of its own cache that a row sees; null: those up to its own
  EncoderState encoder;
  int picture_rows = 0;        // the first of `rows` stand for outputs of the encoder, which leaves them in x
  std::vector<KvLayer> cross;  // one a layer of a decoder that reads its encoder by cross-attention
  const int32_t* cross_lengths = nullptr;  // [rows] positions of `cross` that a row sees
  Sampling sampling;
  int32_t* history = nullptr;  // [sequences, history_positions] the tokens made, at their positions; or null
  int history_positions = 0;
  const int32_t* stops = nullptr;  // see NextToken
  int32_t* done = nullptr;

  NextToken next_token(Tensor of_logits) const;  // of this state's rows
  // The first `count` rows of everything.
  State first(int count) const;
  // The rows whose part the last layer has to make behind its keys and values, by the linears that do so: those that
  // the head reads; all of them with LLM.int8, where other rows' outliers decide how a row is multiplied.
  State answering(std::initializer_list<const Linear*> by) const;
};

}  // namespace quantbench
