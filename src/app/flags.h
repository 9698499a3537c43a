// Values of flags, parsed strictly: an Error usage names the flag, what was found and what is expected.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/model.h"

namespace quantbench {

std::vector<std::string> parse_list(const std::string& flag,
                                    const std::string& text);  // non-empty parts between commas
std::vector<int> parse_counts(const std::string& flag, const std::string& text, int low, int high);
int parse_count(const std::string& flag, const std::string& text, int low, int high);
// 0: one per physical core. More threads than CPUs would only wait for each other. Error usage.
int parse_threads(const std::string& text);
// The help of --device and --offline, the same for every command.
extern const char* const kDeviceHelp;
extern const char* const kOfflineHelp;
// The help of --engine, and its checks: what was typed beside --device, then the device that auto stood for, which may
// have no engines (passed_over: why it is no GPU, if there is one). Error usage.
extern const char* const kEngineHelp;
void check_engine(const std::string& name, const std::string& device);
void check_engine_acts(const std::string& name, const DeviceInfo& device, const std::string& passed_over);
uint64_t parse_seed(const std::string& flag, const std::string& text);
double parse_number(const std::string& flag, const std::string& text, double low, double high);
// "1%" or "0.01" → 0.01. Without "%" 1 is refused, since it is as likely to mean 1 %.
double parse_share(const std::string& flag, const std::string& text, double low, double high);
// fp16, bf16, int8, 4bit or its other name nf4; no precision twice.
std::vector<Precision> parse_precisions(const std::string& text);
Precision parse_precision(const std::string& text);

constexpr int kMostTokens = 1 << 24;  // in any count that a flag gives

}  // namespace quantbench
