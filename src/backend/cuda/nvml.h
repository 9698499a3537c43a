// What NVIDIA's management library tells of a card beside CUDA. It comes with the driver and is opened at run time:
// where it is missing, or does not answer, the figure is not told.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace quantbench::cuda {

class Nvml {
 public:
  virtual ~Nvml() = default;

  struct Card {
    std::string name;
    bool mig_mode = false;
  };
  struct Memory {
    int64_t total_bytes = 0, free_bytes = 0, used_bytes = 0;  // used: by all processes, and what the driver keeps
  };
  virtual std::string driver() const = 0;  // "580.65.06", or empty
  virtual std::vector<Card> cards() const = 0;
  // uuid: of a card or a MIG slice, as CUDA tells it.
  virtual bool knows(const std::string& uuid) const = 0;
  virtual std::optional<Memory> memory(const std::string& uuid) const = 0;
  // What the process has there. Nothing in a container that numbers processes in its own way, for one.
  virtual std::optional<int64_t> process_bytes(const std::string& uuid, uint32_t process) const = 0;
};

// Null where the library is missing or does not start.
std::unique_ptr<Nvml> open_nvml(const std::string& library = "libnvidia-ml.so.1");

}  // namespace quantbench::cuda
