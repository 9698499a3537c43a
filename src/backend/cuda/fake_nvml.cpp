// A libnvidia-ml.so.1 for tests: two cards, one of them cut into slices, with the functions and types of NVIDIA's
// header. What changes with time is in a trace, the file that QB_FAKE_NVML_TRACE names when the library is started
// (testdata/telemetry says what is in it); the time is told by qb_fake_nvml_now().
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <sstream>
#include <string>
#include <vector>

struct Card {
  const char *name, *uuid;
  bool mig;
};

namespace {

Card cards[] = {{"Fake H100", "GPU-one", false}, {"Fake A100", "GPU-two", true}};
Card slice{"Fake A100 MIG 1g.5gb", "MIG-of-two", false};

int say(const char* text, char* to, unsigned size) {
  const size_t length = std::strlen(text);
  if (length >= size) return 7;  // too short
  std::memcpy(to, text, length + 1);
  return 0;
}

// A line of the trace, as text: columns in the order of this enum.
enum Column { seconds, sm, memory, reasons, celsius, milliwatts, millijoules, ecc, mig, pids, columns };
std::vector<std::vector<std::string>> trace;
std::atomic<double> now_s{0};

void read_trace() {
  trace.clear();
  const char* path = std::getenv("QB_FAKE_NVML_TRACE");
  std::ifstream file(path ? path : "");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::vector<std::string> row;
    for (std::string word; words >> word && word[0] != '#';) row.push_back(word);
    if (row.empty()) continue;
    if (row.size() != columns) std::abort();
    trace.push_back(row);
  }
}

// What the trace has at this time: the last line that is not later. Null where the card does not tell.
const char* traced(Column column) {
  const std::vector<std::string>* at = nullptr;
  for (const auto& row : trace) {
    if (!at || std::stod(row[seconds]) <= now_s) at = &row;
  }
  return at && (*at)[column] != "-" ? (*at)[column].c_str() : nullptr;
}

template <typename T>
int tell(Column column, T* to) {
  const char* text = traced(column);
  if (!text) return 3;  // not supported
  *to = static_cast<T>(std::strtoull(text, nullptr, 0));
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

void qb_fake_nvml_now(double s) { now_s = s; }

int nvmlInit_v2() { return read_trace(), std::getenv("QB_FAKE_NVML_FAILS") ? 999 : 0; }
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
  if (!trace.empty()) return tell(mig, now);
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
  if (!trace.empty()) {
    const char* text = traced(pids);
    if (!text) return 4;
    std::istringstream list(std::strcmp(text, "none") == 0 ? "" : text);
    std::vector<unsigned> all;
    for (std::string pid; std::getline(list, pid, ',');) all.push_back(static_cast<unsigned>(std::stoul(pid)));
    if (*count < all.size()) return *count = static_cast<unsigned>(all.size()), 7;
    *count = static_cast<unsigned>(all.size());
    for (unsigned i = 0; i < *count; ++i) to[i] = {all[i], ~0ULL, ~0U, ~0U};
    return 0;
  }
  constexpr unsigned kProcesses = 41;
  if (*count < kProcesses) return *count = kProcesses, 7;
  *count = kProcesses;
  to[0] = {7, ~0ULL, ~0U, ~0U};
  for (unsigned i = 1; i < kProcesses; ++i) to[i] = {1000 + i - 1, (i - 1ULL) << 20, ~0U, ~0U};
  return 0;
}

// Clocks and what else is the card's: a slice is not asked.
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Card* card, Card** whole) {
  if (card != &slice) return 2;
  return *whole = &cards[1], 0;
}
int nvmlDeviceGetClockInfo(Card* card, int clock, unsigned* mhz) {
  if (card == &slice) return 3;
  return tell(clock == 1 ? sm : memory, mhz);
}
int nvmlDeviceGetCurrentClocksEventReasons(Card* card, unsigned long long* to) {
  return card == &slice ? 3 : tell(reasons, to);
}
int nvmlDeviceGetTemperature(Card* card, int, unsigned* to) { return card == &slice ? 3 : tell(celsius, to); }
int nvmlDeviceGetPowerUsage(Card*, unsigned* to) { return tell(milliwatts, to); }
int nvmlDeviceGetTotalEnergyConsumption(Card*, unsigned long long* to) { return tell(millijoules, to); }
int nvmlDeviceGetTotalEccErrors(Card* card, int, int, unsigned long long* to) {
  return card == &slice ? 3 : tell(ecc, to);
}

}  // extern "C"
