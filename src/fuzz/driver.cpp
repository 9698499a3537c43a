// The functions that libFuzzer calls. With QB_FUZZ_SEEDS=DIR a program writes its first inputs there and ends.
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "core/os.h"
#include "fuzz/fuzzer.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace quantbench::fuzz {
namespace {

// Longer inputs are slow and find nothing that shorter ones do not.
size_t keep(const std::string& changed, uint8_t* data, size_t size, size_t max_size) {
  if (changed.empty() || changed.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::memcpy(data, changed.data(), changed.size());
  return changed.size();
}

}  // namespace

void check(bool holds, const char* claim) {
  if (holds) return;
  std::fprintf(stderr, "quantbench: does not hold: %s\n", claim);
  std::abort();
}

size_t drawn(std::string_view input, size_t n) { return std::hash<std::string_view>()(input) % n; }

void mutate_bytes(std::string* text, Random& random) {
  constexpr size_t kRoom = 32;
  const size_t size = text->size();
  text->resize(size + 1 + random.below(kRoom));
  text->resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(text->data()), size, text->size()));
}

}  // namespace quantbench::fuzz

using namespace quantbench;  // the names below are libFuzzer's

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  if (const auto folder = os::environment("QB_FUZZ_SEEDS")) {
    size_t i = 0;
    for (const std::string& seed : fuzz::seeds()) {
      os::write_file_atomically(fmt::format("{}/seed-{:03}", *folder, i++), seed);
    }
    std::exit(0);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    fuzz::run({reinterpret_cast<const char*>(data), size});
  } catch (const Error& error) {
    // What is printed to a user: the message must be whole, and no fault of ours.
    fuzz::check(std::strlen(error.what()) > 0, "an Error says something");
    fuzz::check(error.kind() != ErrorKind::internal, "bad input is no fault of ours");
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  fuzz::Random random(seed);
  if (random.one_in(16)) return LLVMFuzzerMutate(data, size, max_size);
  std::string changed(reinterpret_cast<const char*>(data), size);
  for (size_t n = 1 + random.below(3); n > 0; --n) fuzz::mutate(&changed, {}, random);
  return fuzz::keep(changed, data, size, max_size);
}

extern "C" size_t LLVMFuzzerCustomCrossOver(const uint8_t* data, size_t size, const uint8_t* other, size_t other_size,
                                            uint8_t* out, size_t max_size, unsigned seed) {
  fuzz::Random random(seed);
  std::string changed(reinterpret_cast<const char*>(data), size);
  fuzz::mutate(&changed, {reinterpret_cast<const char*>(other), other_size}, random);
  if (changed.empty() || changed.size() > max_size) changed.assign(reinterpret_cast<const char*>(data), size);
  if (changed.size() > max_size) changed.resize(max_size);
  std::memcpy(out, changed.data(), changed.size());
  return changed.size();
}
