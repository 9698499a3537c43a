#include "bench/worker_process.h"

namespace quantbench {

using protocol::json;

WorkerProcess::WorkerProcess(const WorkerCommand& command)
    : process_(command.program, command.arguments), timeout_ns_(static_cast<int64_t>(command.answer_timeout_s * 1e9)) {}

// Nothing needs saving in a worker, and one that is stuck would not listen: its memory is free soonest this way.
WorkerProcess::~WorkerProcess() { process_.kill(); }

json WorkerProcess::ask(const json& request, const char* doing, const OnProgress& progress) {
  process_.write_line(request.dump());  // a dead worker shows as the end of its output below
  while (true) {
    std::string line;
    switch (process_.read_line(&line, timeout_ns_)) {
      case os::Process::Got::line: break;
      case os::Process::Got::interrupted: fail(ErrorKind::interrupted, "interrupted while {}", doing);
      case os::Process::Got::timeout:
        process_.kill();
        process_.wait();
        fail(ErrorKind::internal,
             "the worker process gave no answer for {:g} s while {} and was ended; allow more with "
             "--cell-timeout, or measure fewer tokens",
             static_cast<double>(timeout_ns_) / 1e9, doing);
      case os::Process::Got::end: {
        const os::Process::Exit exit = process_.wait();
        fail(
            exit.code == exit_code(ErrorKind::out_of_memory) ? ErrorKind::out_of_memory : ErrorKind::internal,
            "the worker process ended with {} while {}{}", exit.describe(), doing,
            exit.signal == 9 ? "; the kernel ends processes so when memory runs out: try fewer or smaller models" : "");
      }
    }
    json message = parse_json(line, "answer of the worker");
    const std::string event = message.at("event");
    if (event == "result") return message;
    if (event == "progress") {
      if (progress) progress(message.at("done"));
    } else {
      throw Error(static_cast<ErrorKind>(message.at("kind").get<int>()), message.at("text"));
    }
  }
}

DeviceReport WorkerProcess::device() { return protocol::device_from(ask({{"op", "device"}}, "choosing a device")); }
PlanReport WorkerProcess::plan(const Cell& cell) {
  return protocol::plan_from(ask({{"op", "plan"}, {"cell", protocol::to_json(cell)}}, "planning"));
}
CellLoad WorkerProcess::load(const OnProgress& progress) {
  return protocol::load_from(ask({{"op", "load"}}, "loading", progress));
}
void WorkerProcess::fill_context(std::span<const int32_t> context) {
  ask({{"op", "fill"}, {"context", std::vector<int32_t>(context.begin(), context.end())}}, "filling the context");
}
GenerateReport WorkerProcess::generate(std::span<const int32_t> prompt, int new_tokens,
                                       std::span<const int32_t> stop_at) {
  const json request{{"op", "generate"},
                     {"prompt", std::vector<int32_t>(prompt.begin(), prompt.end())},
                     {"new_tokens", new_tokens},
                     {"stop_at", std::vector<int32_t>(stop_at.begin(), stop_at.end())}};
  return protocol::generate_from(ask(request, "generating"));
}
ExplainReport WorkerProcess::explain(std::span<const int32_t> prompt, int new_tokens) {
  const json request{
      {"op", "explain"}, {"prompt", std::vector<int32_t>(prompt.begin(), prompt.end())}, {"new_tokens", new_tokens}};
  return protocol::explain_report_from(ask(request, "explaining its steps"));
}
MemoryReport WorkerProcess::memory() { return protocol::memory_from(ask({{"op", "memory"}}, "reading its memory")); }
ReadSample WorkerProcess::probe() {
  return protocol::read_sample_from(ask({{"op", "probe"}}, "measuring read bandwidth"));
}
QualityReport WorkerProcess::quality(const QualityRequest& request, const OnProgress& progress) {
  json asked = protocol::to_json(request);
  asked["op"] = "quality";
  return protocol::quality_report_from(ask(asked, "measuring quality", progress));
}

}  // namespace quantbench
