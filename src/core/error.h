// The one exception type for bad input, files and devices. Mistakes of our own are assertions, not Errors.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace quantbench {

// Decides the exit code; numbered from 64 because 0–3 belong to `gate`.
enum class ErrorKind {
  usage = 64,          // a flag or prompt the user can correct
  bad_model = 65,      // a checkpoint, config or tokenizer that is refused
  hub = 66,            // model not found in the cache, or the Hub's refusal
  out_of_memory = 67,  // predicted or met
  device = 68,         // CPU without the features needed, GPU lost
  disk = 69,           // open, read, write, sync or rename failed
  interrupted = 70,    // SIGINT, SIGTERM or SIGHUP
  internal = 71,       // a fault of ours, e.g. a worker process that died
};

constexpr int exit_code(ErrorKind kind) { return static_cast<int>(kind); }
const char* name_of(ErrorKind kind);

// what() says what failed, where, what was expected, what was found, and what to do.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& text) : std::runtime_error(text), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// fail(ErrorKind::bad_model, "{}: tensor '{}' has shape {}, expected {}; …", path, name, found, expected)
template <typename... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> text, Args&&... args) {
  throw Error(kind, fmt::format(text, std::forward<Args>(args)...));
}

}  // namespace quantbench
