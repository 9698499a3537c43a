// For the preset portable alone. The C++ runtime's std::random_device calls arc4random, which glibc has since 2.36; the
// linker takes that function out, since nothing here uses it, and may still leave its need of the newer glibc (gold
// does). This is the same answer from what glibc has since 2.25.
#include <cstdint>
#include <cstdlib>

#include <sys/random.h>

// A random number from the system.
extern "C" uint32_t arc4random() noexcept {
  uint32_t value = 0;
  if (getentropy(&value, sizeof value) != 0) {
    std::abort();
  }
  return value;
}
