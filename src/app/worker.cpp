// `quantbench worker`: the child process that measures one cell, or the read bandwidth.
#include "app/commands.h"
#include "bench/engine_worker.h"
#include "core/os.h"

namespace quantbench {

void add_worker(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand("worker", "obeys JSON lines on standard input; started by run");
  command->group("");
  auto options = std::make_shared<EngineOptions>();
  command->add_option("--device", options->device);
  command->add_option("--threads", options->threads);
  command->callback([options, action] {
    *action = [options] {
      os::end_with_parent();
      EngineWorker worker(*options);
      return serve(worker);
    };
  });
}

}  // namespace quantbench
