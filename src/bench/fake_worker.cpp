// A worker process for tests: fake_worker MODE. It is healthy until its third generation.
#include "bench/fake_worker.h"

#include <signal.h>
#include <unistd.h>

#include <string>

#include "core/os.h"

using namespace quantbench;

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "healthy";
  FakeWorker worker;
  int generations = 0;
  worker.latency_ns = [&]() -> int64_t {
    if (++generations == 3) {
      if (mode == "killed") ::raise(SIGKILL);
      if (mode == "exits") ::_exit(3);
      if (mode == "hangs") ::pause();
      if (mode == "error") fail(ErrorKind::device, "the device is lost");
      if (mode == "garbage") os::write_output("this is not JSON\n");
      if (mode == "throws") throw std::runtime_error("an unforeseen fault");
    }
    return 50'000'000;
  };
  return serve(worker);
}
