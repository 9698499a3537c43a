#include "bench/protocol.h"

#include "core/os.h"

namespace quantbench {

std::string_view name_of(Status status) {
  switch (status) {
    case Status::ok: return "ok";
    case Status::failed: return "failed";
    case Status::interrupted: return "interrupted";
  }
  return "?";
}

std::string_view name_of(MemoryCount count) {
  switch (count) {
    case MemoryCount::resident: return "resident pages";
    case MemoryCount::driver: return "driver";
    case MemoryCount::allocations: return "allocations";
  }
  return "?";
}

namespace protocol {
namespace {

json gpu_to_json(const GpuInfo& g) {
  json j{{"uuid", g.uuid},
         {"driver", g.driver},
         {"driver_cuda", g.driver_cuda},
         {"runtime_cuda", g.runtime_cuda},
         {"major", g.major},
         {"minor", g.minor},
         {"multiprocessors", g.multiprocessors},
         {"cache", g.cache_bytes},
         {"is_mig_slice", g.is_mig_slice}};
  if (g.cublaslt) j["cublaslt"] = {g.cublaslt->version, g.cublaslt->path, g.cublaslt->missing};
  return j;
}
GpuInfo gpu_from(const json& j) {
  GpuInfo g;
  g.uuid = j.at("uuid");
  g.driver = j.at("driver");
  g.driver_cuda = j.at("driver_cuda");
  g.runtime_cuda = j.at("runtime_cuda");
  g.major = j.at("major");
  g.minor = j.at("minor");
  g.multiprocessors = j.at("multiprocessors");
  g.cache_bytes = j.at("cache");
  g.is_mig_slice = j.at("is_mig_slice");
  if (j.contains("cublaslt")) {
    const json& library = j.at("cublaslt");
    g.cublaslt = {library.at(0), library.at(1), library.at(2)};
  }
  return g;
}

json info_to_json(const DeviceInfo& d) {
  json j{{"backend", d.backend},          {"id", d.id},           {"name", d.name},
         {"features", d.features},        {"threads", d.threads}, {"memory", d.memory_bytes},
         {"available", d.available_bytes}};
  if (d.gpu) j["gpu"] = gpu_to_json(*d.gpu);
  return j;
}
DeviceInfo info_from(const json& j) {
  DeviceInfo d;
  d.backend = j.at("backend");
  d.id = j.at("id");
  d.name = j.at("name");
  d.features = j.at("features");
  d.threads = j.at("threads");
  d.memory_bytes = j.at("memory");
  d.available_bytes = j.at("available");
  if (j.contains("gpu")) d.gpu = gpu_from(j.at("gpu"));
  return d;
}

json encoder_to_json(const std::optional<EncoderShape>& e) {
  if (!e) return nullptr;
  json j{{"layers", e->layers}, {"hidden", e->hidden},     {"intermediate", e->intermediate},
         {"heads", e->heads},   {"head_dim", e->head_dim}, {"max_tokens", e->max_tokens}};
  if (e->picture) j["picture"] = {e->picture->size, e->picture->patch, e->picture->token};
  return j;
}
std::optional<EncoderShape> encoder_from(const json& j) {
  if (j.is_null()) return std::nullopt;
  EncoderShape e;
  e.layers = j.at("layers");
  e.hidden = j.at("hidden");
  e.intermediate = j.at("intermediate");
  e.heads = j.at("heads");
  e.head_dim = j.at("head_dim");
  e.max_tokens = j.at("max_tokens");
  if (j.contains("picture")) {
    const json& p = j.at("picture");
    e.picture = {p.at(0), p.at(1), p.at(2)};
  }
  return e;
}

json shape_to_json(const Shape& s) {
  return {{"architecture", s.architecture},
          {"layers", s.layers},
          {"hidden", s.hidden},
          {"intermediate", s.intermediate},
          {"heads", s.heads},
          {"kv_heads", s.kv_heads},
          {"head_dim", s.head_dim},
          {"vocab", s.vocab},
          {"max_positions", s.max_positions},
          {"parameters", s.parameters},
          {"bos", s.bos},
          {"eos", s.eos},
          {"decoder_start", s.decoder_start},
          {"encoder", encoder_to_json(s.encoder)}};
}
Shape shape_from(const json& j) {
  Shape s;
  s.architecture = j.at("architecture");
  s.layers = j.at("layers");
  s.hidden = j.at("hidden");
  s.intermediate = j.at("intermediate");
  s.heads = j.at("heads");
  s.kv_heads = j.at("kv_heads");
  s.head_dim = j.at("head_dim");
  s.vocab = j.at("vocab");
  s.max_positions = j.at("max_positions");
  s.parameters = j.at("parameters");
  s.bos = j.at("bos").get<std::vector<int32_t>>();
  s.eos = j.at("eos").get<std::vector<int32_t>>();
  s.decoder_start = j.at("decoder_start");
  s.encoder = encoder_from(j.at("encoder"));
  return s;
}

}  // namespace

json to_json(const Cell& c) {
  return {{"name", c.model.name},
          {"commit", c.model.commit},
          {"folder", c.model.folder},
          {"random_weights", c.model.random_weights},
          {"weight_seed", c.model.weight_seed},
          {"outlier_channels", c.model.outlier_channels},
          {"allow_nonfinite", c.model.allow_nonfinite},
          {"allow_symlinks", c.model.allow_symlinks},
          {"precision", static_cast<int>(c.precision)},
          {"kind", static_cast<int>(c.test.kind)},
          {"prompt_tokens", c.test.prompt_tokens},
          {"new_tokens", c.test.new_tokens},
          {"depth", c.test.depth},
          {"batch", c.test.batch},
          {"picture", c.picture},
          {"host_tokens", c.host_tokens},
          {"device", c.engine.device},
          {"threads", c.engine.threads},
          {"engine", c.engine.engine}};
}
Cell cell_from(const json& j) {
  Cell c;
  c.model.name = j.at("name");
  c.model.commit = j.at("commit");
  c.model.folder = j.at("folder");
  c.model.random_weights = j.at("random_weights");
  c.model.weight_seed = j.at("weight_seed");
  c.model.outlier_channels = j.at("outlier_channels");
  c.model.allow_nonfinite = j.at("allow_nonfinite");
  c.model.allow_symlinks = j.at("allow_symlinks");
  c.precision = static_cast<Precision>(j.at("precision").get<int>());
  c.test.kind = static_cast<TestKind>(j.at("kind").get<int>());
  c.test.prompt_tokens = j.at("prompt_tokens");
  c.test.new_tokens = j.at("new_tokens");
  c.test.depth = j.at("depth");
  c.test.batch = j.at("batch");
  c.picture = j.at("picture");
  c.host_tokens = j.at("host_tokens");
  c.engine.device = j.at("device");
  c.engine.threads = j.at("threads");
  c.engine.engine = j.at("engine");
  return c;
}

json to_json(const MemoryUse& use) {
  json j = json::object();
  for (int i = 0; i < kUses; ++i) j[std::string(name_of(static_cast<Use>(i)))] = use.bytes[static_cast<size_t>(i)];
  return j;
}
MemoryUse use_from(const json& j) {
  MemoryUse use;
  for (int i = 0; i < kUses; ++i) {
    use.bytes[static_cast<size_t>(i)] = j.at(std::string(name_of(static_cast<Use>(i)))).get<size_t>();
  }
  return use;
}

json to_json(const DeviceReport& r) { return {{"device", info_to_json(r.device)}, {"passed_over", r.passed_over}}; }
DeviceReport device_from(const json& j) { return {info_from(j.at("device")), j.at("passed_over")}; }

json to_json(const PlanReport& r) {
  return {{"shape", shape_to_json(r.shape)},
          {"device", info_to_json(r.device)},
          {"engines", r.engines},
          {"predicted", to_json(r.predicted)},
          {"skipped", r.skipped},
          {"token_weight_bytes", r.token_weight_bytes},
          {"kv_position_bytes", r.kv_position_bytes},
          {"kv_fixed_bytes", r.kv_fixed_bytes}};
}
PlanReport plan_from(const json& j) {
  return {.shape = shape_from(j.at("shape")),
          .device = info_from(j.at("device")),
          .engines = j.at("engines").get<std::vector<std::string>>(),
          .predicted = use_from(j.at("predicted")),
          .skipped = j.at("skipped").get<std::vector<std::string>>(),
          .token_weight_bytes = j.at("token_weight_bytes"),
          .kv_position_bytes = j.at("kv_position_bytes"),
          .kv_fixed_bytes = j.at("kv_fixed_bytes")};
}

json to_json(const EngineChoice& c) {
  json times = json::array();
  for (const EngineTime& time : c.times) times.push_back({time.engine, time.step_ns});
  return {{"engine", c.engine}, {"by", static_cast<int>(c.by)}, {"times", times}, {"failure", c.failure}};
}
EngineChoice choice_from(const json& j) {
  EngineChoice c{.engine = j.at("engine"), .by = static_cast<ChosenBy>(j.at("by").get<int>())};
  for (const json& time : j.at("times")) c.times.push_back({time.at(0), time.at(1)});
  c.failure = j.at("failure");
  return c;
}

namespace {

json picture_to_json(const std::optional<PictureReport>& p) {
  if (!p) return nullptr;
  return {{"width", p->width},         {"height", p->height},       {"size", p->size},
          {"decode_ns", p->decode_ns}, {"resize_ns", p->resize_ns}, {"warning", p->warning}};
}
PictureReport picture_from(const json& j) {
  return {j.at("width"), j.at("height"), j.at("size"), j.at("decode_ns"), j.at("resize_ns"), j.at("warning")};
}

}  // namespace

json to_json(const CellLoad& r) {
  return {{"context_ns", r.context_ns},
          {"weights_ns", r.weights_ns},
          {"session_ns", r.session_ns},
          {"resident", to_json(r.resident)},
          {"token_weight_bytes", r.token_weight_bytes},
          {"kv_position_bytes", r.kv_position_bytes},
          {"kv_fixed_bytes", r.kv_fixed_bytes},
          {"part_bytes", to_json(r.part_bytes)},
          {"picture", picture_to_json(r.picture)},
          {"engine", to_json(r.engine)},
          {"tuning", r.tuning},
          {"weight_form", r.weight_form}};
}
CellLoad load_from(const json& j) {
  CellLoad r;
  r.context_ns = j.at("context_ns");
  r.weights_ns = j.at("weights_ns");
  r.session_ns = j.at("session_ns");
  r.resident = use_from(j.at("resident"));
  r.token_weight_bytes = j.at("token_weight_bytes");
  r.kv_position_bytes = j.at("kv_position_bytes");
  r.kv_fixed_bytes = j.at("kv_fixed_bytes");
  r.part_bytes = part_bytes_from(j.at("part_bytes"));
  if (const json& picture = j.at("picture"); !picture.is_null()) r.picture = picture_from(picture);
  r.engine = choice_from(j.at("engine"));
  r.tuning = j.at("tuning");
  r.weight_form = j.at("weight_form");
  return r;
}

json to_json(const GenerateReport& r) {
  json spans = json::array();
  for (const Span& s : r.run.spans) {
    spans.push_back({static_cast<int>(s.phase), static_cast<int>(s.clock), s.start_ns, s.end_ns});
  }
  json j{{"spans", spans},
         {"tokens", r.run.tokens},
         {"prompt_tokens", r.run.prompt_tokens},
         {"context_tokens", r.run.context_tokens},
         {"sequences", r.run.sequences},
         {"total_ns", r.run.total_ns},
         {"finite", r.run.finite}};
  if (r.other_cpu) j["other_cpu"] = *r.other_cpu;
  if (r.launches) j["launches"] = *r.launches;
  return j;
}
GenerateReport generate_from(const json& j) {
  GenerateReport r;
  for (const json& s : j.at("spans")) {
    r.run.spans.push_back({static_cast<Phase>(s.at(0).get<int>()), static_cast<Clock>(s.at(1).get<int>()),
                           s.at(2).get<int64_t>(), s.at(3).get<int64_t>()});
  }
  r.run.tokens = j.at("tokens").get<std::vector<int32_t>>();
  r.run.prompt_tokens = j.at("prompt_tokens");
  r.run.context_tokens = j.at("context_tokens");
  r.run.sequences = j.at("sequences");
  r.run.total_ns = j.at("total_ns");
  r.run.finite = j.at("finite");
  if (j.contains("other_cpu")) r.other_cpu = j.at("other_cpu").get<double>();
  if (j.contains("launches")) r.launches = j.at("launches").get<int>();
  return r;
}

namespace {

// Members that are told on some devices alone.
void put(json& j, const char* key, const std::optional<int64_t>& bytes) {
  if (bytes) j[key] = *bytes;
}
std::optional<int64_t> get(const json& j, const char* key) {
  if (!j.contains(key)) return std::nullopt;
  return j.at(key).get<int64_t>();
}

}  // namespace

json to_json(const MemoryReport& r) {
  json j{{"count", static_cast<int>(r.count)}, {"start", r.start_bytes},       {"load_peak", r.load_peak_bytes},
         {"run_peak", r.run_peak_bytes},       {"end", r.end_bytes},           {"peaks_separate", r.peaks_separate},
         {"load_use", to_json(r.load_use)},    {"end_use", to_json(r.end_use)}};
  put(j, "host_peak", r.host_peak_bytes);
  put(j, "driver_process", r.driver_process_bytes);
  put(j, "driver_device", r.driver_device_bytes);
  put(j, "taken", r.taken_bytes);
  return j;
}
MemoryReport memory_from(const json& j) {
  MemoryReport r;
  r.count = static_cast<MemoryCount>(j.at("count").get<int>());
  r.start_bytes = j.at("start");
  r.load_peak_bytes = j.at("load_peak");
  r.run_peak_bytes = j.at("run_peak");
  r.end_bytes = j.at("end");
  r.peaks_separate = j.at("peaks_separate");
  r.load_use = use_from(j.at("load_use"));
  r.end_use = use_from(j.at("end_use"));
  r.host_peak_bytes = get(j, "host_peak");
  r.driver_process_bytes = get(j, "driver_process");
  r.driver_device_bytes = get(j, "driver_device");
  r.taken_bytes = get(j, "taken");
  return r;
}

json to_json(const ReadSample& s) { return {{"bytes_per_second", s.bytes_per_second}, {"kernel", s.kernel}}; }
ReadSample read_sample_from(const json& j) { return {0, j.at("bytes_per_second"), j.at("kernel")}; }

}  // namespace protocol

namespace {

using protocol::json;

void say(const json& message) {
  // Text that is not UTF-8 (a file name in an error) must not break the line.
  os::write_output(message.dump(-1, ' ', false, json::error_handler_t::replace) + "\n");
}

json answer(Worker& worker, const json& request) {
  const std::string op = request.at("op");
  if (op == "device") return protocol::to_json(worker.device());
  if (op == "plan") return protocol::to_json(worker.plan(protocol::cell_from(request.at("cell"))));
  if (op == "load") {
    constexpr double kStep = 0.01;  // a message for each per cent is plenty
    double last = 0;
    return protocol::to_json(worker.load([&last](double done) {
      if (done < last + kStep) return;
      last = done;
      say({{"event", "progress"}, {"done", done}});
    }));
  }
  if (op == "fill") {
    worker.fill_context(request.at("context").get<std::vector<int32_t>>());
    return json::object();
  }
  if (op == "generate") {
    const auto prompt = request.at("prompt").get<std::vector<int32_t>>();
    const auto stop_at = request.at("stop_at").get<std::vector<int32_t>>();
    return protocol::to_json(worker.generate(prompt, request.at("new_tokens"), stop_at));
  }
  if (op == "explain") {
    return protocol::to_json(
        worker.explain(request.at("prompt").get<std::vector<int32_t>>(), request.at("new_tokens")));
  }
  if (op == "memory") return protocol::to_json(worker.memory());
  if (op == "probe") return protocol::to_json(worker.probe());
  if (op == "quality") {
    return protocol::to_json(worker.quality(protocol::quality_request_from(request), [](double done) {
      say({{"event", "progress"}, {"done", done}});
    }));
  }
  fail(ErrorKind::internal, "a worker was asked for '{}', which it does not know", op);
}

}  // namespace

int serve(Worker& worker) {
  while (const auto line = os::read_input_line()) {
    try {
      const json request = parse_json(*line, "request to a worker");
      if (request.at("op") == "quit") return 0;
      json result = answer(worker, request);
      result["event"] = "result";
      say(result);
    } catch (const Error& error) {
      say({{"event", "error"}, {"kind", exit_code(error.kind())}, {"text", error.what()}});
    } catch (const std::bad_alloc&) {
      say({{"event", "error"},
           {"kind", exit_code(ErrorKind::out_of_memory)},
           {"text", "the worker process ran out of memory; use a smaller model or precision, or free memory"}});
    } catch (const std::exception& error) {
      say({{"event", "error"}, {"kind", exit_code(ErrorKind::internal)}, {"text", error.what()}});
    }
  }
  return 0;
}

}  // namespace quantbench
