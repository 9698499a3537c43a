// A libnvidia-ml.so.1 for tests: two cards, one of them cut into slices, with the functions and types of NVIDIA's
// header.
#include <cstdlib>
#include <cstring>
#include <initializer_list>

struct Card {
  const char *name, *uuid;
  bool mig;
};

namespace {

Card cards[] = {{"Fake H100", "GPU-one", false}, {"Fake A100", "GPU-two", true}};
Card slice{"Fake A100 MIG 1g.5gb", "MIG-of-two", false};

int say(const char* text, char* to, unsigned size) {
  if (std::strlen(text) >= size) return 7;  // too short
  std::strcpy(to, text);
  return 0;
}

}  // namespace

extern "C" {

struct nvmlMemory_t {
  unsigned long long total, free, used;
};
struct nvmlProcessInfo_t {
  unsigned pid;
  unsigned long long usedGpuMemory;
  unsigned gpuInstanceId, computeInstanceId;
};

int nvmlInit_v2() { return std::getenv("QB_FAKE_NVML_FAILS") ? 999 : 0; }
int nvmlShutdown() { return 0; }
int nvmlSystemGetDriverVersion(char* to, unsigned size) { return say("580.65.06", to, size); }
int nvmlDeviceGetCount_v2(unsigned* count) { return *count = 2, 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Card** card) { return *card = &cards[index], 0; }
int nvmlDeviceGetHandleByUUID(const char* uuid, Card** card) {
  for (Card* each : {&cards[0], &cards[1], &slice}) {
    if (std::strcmp(each->uuid, uuid) == 0) return *card = each, 0;
  }
  return 6;  // not found
}
int nvmlDeviceGetName(Card* card, char* to, unsigned size) { return say(card->name, to, size); }
int nvmlDeviceGetMigMode(Card* card, unsigned* now, unsigned* pending) {
  if (card == &slice) return 3;  // not supported
  return *now = *pending = card->mig ? 1 : 0, 0;
}
int nvmlDeviceGetMemoryInfo(Card* card, nvmlMemory_t* memory) {
  if (card == &slice) return 3;
  *memory = {80ULL << 30, 60ULL << 30, 20ULL << 30};
  return 0;
}
// Process 1000 + i has i MiB, for i below 40; process 7 is there and its memory is not told.
int nvmlDeviceGetComputeRunningProcesses_v3(Card* card, unsigned* count, nvmlProcessInfo_t* to) {
  if (card == &slice) return 4;  // no permission
  constexpr unsigned kProcesses = 41;
  if (*count < kProcesses) return *count = kProcesses, 7;
  *count = kProcesses;
  to[0] = {7, ~0ULL, ~0U, ~0U};
  for (unsigned i = 1; i < kProcesses; ++i) to[i] = {1000 + i - 1, (i - 1ULL) << 20, ~0U, ~0U};
  return 0;
}

}  // extern "C"
