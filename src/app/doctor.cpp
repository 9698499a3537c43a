// `quantbench doctor`: what this machine is, what it gives, and what is missing.
#include "app/bundled.h"
#include "app/commands.h"
#include "app/flags.h"
#include "backend/backend.h"
#include "backend/telemetry.h"
#include "bench/engine_worker.h"
#include "bench/environment.h"
#include "bench/rapl.h"
#include "core/os.h"
#include "hub/hub.h"
#include "report/format.h"

#include <fmt/ranges.h>

namespace quantbench {
namespace {

struct Finding {
  std::string what, text;
};

std::string bytes_or_unknown(const std::optional<int64_t>& bytes) {
  return bytes ? format_bytes(static_cast<double>(*bytes)) : "unknown";
}

class Doctor {
 public:
  explicit Doctor(EngineOptions options) : options_(std::move(options)) {}

  int run() {
    const BuildInfo build = build_info();
    say("program", fmt::format("quantbench {}, commit {}, {} build by {}", build.version, build.git_commit,
                               build.build_type, build.compiler));
    if (!build.optimized)
      advise("this build is not optimised: its timings mean little; configure with --preset release");
    machine();
    engine();
    models();
    for (const Finding& f : findings_) os::write_output(fmt::format("{:<16} {}\n", f.what, f.text));
    os::write_output(advice_.empty() ? "\nNothing is missing.\n" : "\nWhat to do:\n");
    for (const std::string& line : advice_) os::write_output("- " + line + "\n");
    return can_run_ ? 0 : exit_code(ErrorKind::device);
  }

 private:
  void say(std::string what, std::string text) { findings_.push_back({std::move(what), std::move(text)}); }
  void advise(std::string text) { advice_.push_back(std::move(text)); }

  void machine() {
    const Environment e = read_environment();
    cache_bytes_ = e.last_level_cache_bytes;
    say("system", fmt::format("{}, {}{}", e.operating_system, e.kernel, e.virtual_machine ? ", virtual machine" : ""));
    say("CPU",
        fmt::format("{}: {} physical cores, {} logical CPUs to use", e.cpu_name, e.physical_cores, e.logical_cpus));
    say("CPU features", fmt::format("{}", fmt::join(e.cpu_features, " ")));
    say("cache", e.last_level_cache_bytes > 0
                     ? format_bytes(static_cast<double>(e.last_level_cache_bytes)) + " last level"
                     : "unknown");
    say("memory",
        fmt::format("{}, {} available", bytes_or_unknown(e.memory_bytes), bytes_or_unknown(e.available_bytes)));
    say("huge pages", e.huge_pages.value_or("unknown"));
    if (e.huge_pages == "never") {
      advise(
          "transparent huge pages are off, which costs speed: echo madvise | sudo tee "
          "/sys/kernel/mm/transparent_hugepage/enabled");
    }
    say("governor", e.governor.value_or("not told by this kernel (usual in virtual machines)"));
    if (e.governor && *e.governor != "performance") {
      advise(
          fmt::format("the CPU frequency governor is '{}': timings vary less with performance (sudo cpupower "
                      "frequency-set -g performance)",
                      *e.governor));
    }
    if (e.load_average) {
      say("load", fmt::format("{:.2f} over the last minute", (*e.load_average)[0]));
      if ((*e.load_average)[0] > 0.5 * e.logical_cpus) {
        advise(
            "the CPUs were busy in the last minute, be it with a measurement that has just ended; see that no other "
            "program is when measuring");
      }
    }
    for (const std::string& line : describe_gpus()) say("GPU", line);
  }

  void engine() {
    std::unique_ptr<Backend> backend;
    try {
      // As a run would: with several processes.
      ChosenDevice chosen = choose_device(options_.device, {.threads = options_.threads, .several_processes = true});
      if (!chosen.passed_over.empty()) advise(fmt::format("the GPU cannot be used: {}", chosen.passed_over));
      backend = std::move(chosen.backend);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::usage) throw;
      can_run_ = false;
      say("engine", "cannot run here");
      advise(error.what());
      return;
    }
    const DeviceInfo& d = backend->device();
    if (d.gpu) {
      say("engine",
          fmt::format("{}, {}, {} of {} free", d.id, d.features, format_bytes(static_cast<double>(d.available_bytes)),
                      format_bytes(static_cast<double>(d.memory_bytes))));
    } else {
      say("engine",
          fmt::format("{} backend, {}, {} thread{}", d.backend, d.features, d.threads, d.threads == 1 ? "" : "s"));
    }
    if (d.gpu) {
      const OpenedTelemetry watched = open_telemetry(d);
      say("telemetry", watched.telemetry ? "clocks, throttling, power and errors, through NVML" : watched.missing);
    } else {
      Rapl counters;
      say("energy", counters.joules() ? "counted by the CPU (RAPL)" : "not measured: " + counters.missing());
    }
    if (const auto library = backend->matrix_library()) {
      say("cuBLASLt", described(*library));
      if (!library->missing.empty()) advise(fmt::format("long prompts could be faster: {}", library->missing));
    }
    try {
      const ReadSample read = sample(*make_read_probe(*backend, cache_bytes_));
      say("read bandwidth", fmt::format("{:.1f} GB/s ({})", read.bytes_per_second / 1e9, read.kernel));
    } catch (const Error& error) {
      say("read bandwidth", "not measured");
      advise(error.what());
    }
  }

  void models() {
    const auto bundled = find_bundled();
    say("bundled model", bundled.value_or("missing"));
    if (!bundled) {
      advise(fmt::format(
          "the bundled model is not there (looked in {}); copy models/bundled of the source tree to one of them",
          fmt::join(bundled_places(), ", ")));
    }
    try {
      const std::string cache = hub_cache_folder();
      say("Hub cache", cache + (os::is_directory(cache) ? "" : " (not there yet; the first download makes it)"));
    } catch (const Error&) {
      say("Hub cache", "none: HOME is not set");
    }
    std::string missing;
    const auto library = Http::version(&missing);
    const std::string offline = offline_reason();
    say("downloads", !library ? "not possible: " + missing : offline.empty() ? *library : "off: " + offline);
  }

  EngineOptions options_;
  std::vector<Finding> findings_;
  std::vector<std::string> advice_;
  int64_t cache_bytes_ = 0;
  bool can_run_ = true;
};

}  // namespace

void add_doctor(CLI::App& app, Action* action) {
  CLI::App* command =
      app.add_subcommand("doctor", "say what this machine is, how fast its memory reads, and what is missing");
  auto device = std::make_shared<std::string>("auto");
  auto threads = std::make_shared<std::string>("0");
  command->add_option("--device", *device, kDeviceHelp)->type_name("NAME")->default_str("auto");
  command->add_option("--threads", *threads, "threads; 0: one per physical core")->type_name("N")->default_str("0");
  command->callback([device, threads, action] {
    *action = [=] { return Doctor({*device, parse_threads(*threads)}).run(); };
  });
}

}  // namespace quantbench
