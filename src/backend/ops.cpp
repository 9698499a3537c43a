#include "backend/ops.h"

#include "backend/backend.h"
#include "backend/hashing.h"

namespace quantbench {

void run(const Op& op, Ops& ops) {
  struct Caller {
    Ops& ops;
    void operator()(const Embed& o) const { ops.embed(o); }
    void operator()(const Qkv& o) const { ops.qkv(o); }
    void operator()(const Attend& o) const { ops.attend(o); }
    void operator()(const AddLinear& o) const { ops.add_linear(o); }
    void operator()(const GatedUp& o) const { ops.gated_up(o); }
    void operator()(const Project& o) const { ops.project(o); }
    void operator()(const NextToken& o) const { ops.next_token(o); }
  };
  std::visit(Caller{ops}, op);
}

std::string_view name_of(Use use) {
  switch (use) {
    case Use::weights: return "weights";
    case Use::scales: return "scales";
    case Use::unquantized: return "unquantized";
    case Use::kv_cache: return "kv_cache";
    case Use::activations: return "activations";
    case Use::workspace: return "workspace";
    case Use::tables: return "tables";
  }
  return "?";
}

// For backends whose memory is the host's and whose ops are done when they return.
void Backend::hash(uint64_t* hash, const uint32_t* words, int count) {
  uint64_t sum = 0;
  for (int i = 0; i < count; ++i) sum += hash_term(words[i], static_cast<uint32_t>(i));
  *hash = fold_hash(*hash, sum);
}

std::unique_ptr<ReadProbe> Backend::read_probe(size_t) { return nullptr; }

size_t MemoryUse::total() const {
  size_t sum = 0;
  for (size_t part : bytes) sum += part;
  return sum;
}

}  // namespace quantbench
