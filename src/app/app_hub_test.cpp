// The program and the Hub: a stand-in on this machine (testing/test_hub_server.h) has the tiny checkpoint.
#include <signal.h>

#include "app/program_under_test.h"
#include "testing/test_hub_server.h"

namespace quantbench {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

const std::string kToken = "hf_PlantedTokenThatNobodyMaySee";

class ProgramAndHub : public testing::Test {
 protected:
  ProgramAndHub() {
    for (const std::string& name : os::list_directory(kTiny))
      hub.files[name] = os::read_file(kTiny + "/" + name, 1 << 24);
    hub.large = {"model.safetensors"};
    hub.cdn = hub.other_host();
  }
  // Nothing that was printed or written may have the token, or the signature of an address.
  void expect_no_secret(const Result& r) const {
    for (const std::string& text : {r.out, r.err})
      EXPECT_THAT(text, AllOf(Not(HasSubstr(kToken)), Not(HasSubstr("sig="))));
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder.path())) {
      if (!entry.is_regular_file()) continue;
      EXPECT_THAT(os::read_file(entry.path(), 1 << 24), AllOf(Not(HasSubstr(kToken)), Not(HasSubstr("sig=signature"))))
          << entry.path();
    }
  }
  std::string environment(const std::string& more = "") const {
    return fmt::format("export HF_HUB_OFFLINE= HF_ENDPOINT={} HF_HUB_CACHE={} HF_TOKEN={} {};", hub.url(),
                       folder / "cache", kToken, more);
  }
  std::vector<std::string> quick_run(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments{"run",          "--model-id", "org/name", "--pg",        "2,3",
                                       "--device",     "reference",  "-r",       "1",           "--out",
                                       folder / "out", "-o",         "jsonl",    "--precision", "fp16"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  std::string blob() const { return folder / ("cache/models--org--name/blobs/" + hub.etag("model.safetensors")); }

  TestHub hub;
  TestFolder folder;
};

TEST_F(ProgramAndHub, ARunDownloadsItsModelAndTheTokenIsNowhere) {
  const Result r = run(quick_run(), environment());
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.err, HasSubstr("downloading org/name: "));
  const auto records = lines_of(r.out);
  ASSERT_THAT(records, SizeIs(1));
  expect_well_formed(records[0]);
  EXPECT_EQ(records[0]["cell"]["model"]["name"], "org/name");
  EXPECT_EQ(records[0]["cell"]["model"]["commit"], hub.commit);
  EXPECT_THAT(records_in(folder / "out"), SizeIs(1));
  expect_no_secret(r);
  for (const TestHub::Request& request : hub.requests()) {
    const bool is_other = request.header("host").rfind("localhost", 0) == 0;
    EXPECT_EQ(request.header("authorization"), is_other ? "" : "Bearer " + kToken) << request.path;
  }
  // And what a Hub says that sends the token back.
  hub.instead = [](const TestHub::Request& request) {
    return std::optional(
        TestHub::Reply{.status = 400, .headers = {{"X-Error-Message", request.header("authorization")}}});
  };
  const Result refused = run({"pull", "org/other"}, environment());
  EXPECT_EQ(refused.code, exit_code(ErrorKind::hub));
  EXPECT_THAT(refused.err, HasSubstr("Bearer ***"));
  expect_no_secret(refused);
}

TEST_F(ProgramAndHub, OfflineAndDryRunsDownloadNothing) {
  const Result offline = run(quick_run({"--offline"}), environment());
  EXPECT_EQ(offline.code, exit_code(ErrorKind::hub));
  EXPECT_THAT(offline.err, AllOf(HasSubstr("quantbench pull org/name"), HasSubstr("--offline was given")));
  EXPECT_EQ(run(quick_run(), environment("HF_HUB_OFFLINE=1")).code, exit_code(ErrorKind::hub));
  const Result dry = run({"run", "--model-id", "org/name", "--dry-run", "--no-probe"}, environment());
  EXPECT_EQ(dry.code, exit_code(ErrorKind::hub));
  EXPECT_THAT(dry.err, HasSubstr("--dry-run writes no file"));
  EXPECT_THAT(hub.requests(), SizeIs(0));
  ASSERT_EQ(run({"pull", "org/name"}, environment()).code, 0);
  EXPECT_EQ(run(quick_run({"--offline"}), environment()).code, 0);
}

TEST_F(ProgramAndHub, RandomWeightsNeedOnlyTheConfiguration) {
  const Result r = run(quick_run({"--random-weights"}), environment());
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(hub.count("GET", "/cdn/"), 0u);
  EXPECT_EQ(hub.count("GET", "/resolve/"), 1u);
}

TEST_F(ProgramAndHub, EveryCommandThatTakesAModelTakesOneOfTheHub) {
  const Result quantized =
      run({"quantize", "--model-id", "org/name@" + hub.commit, "--out", folder / "quantized"}, environment());
  EXPECT_EQ(quantized.code, 0) << quantized.err;
  const Result generated = run({"generate", "--model-id", "org/other", "--device", "cpu"}, environment());
  EXPECT_EQ(generated.code, exit_code(ErrorKind::hub));
  EXPECT_THAT(generated.err, AllOf(HasSubstr("'org/other' was not found"), HasSubstr("HF_TOKEN")));
}

TEST_F(ProgramAndHub, TwoProcessesOnOneCacheDownloadAFileOnce) {
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (!request.is("GET", "/cdn/")) return std::nullopt;
    TestHub::Reply reply = TestHub::content(request, hub.files["model.safetensors"]);
    reply.pause_ms = 20;  // 32 pieces, so that the other process finds it in the middle
    return reply;
  };
  TestedProgram first({"pull", "org/name"}, environment()), second({"pull", "org/name"}, environment());
  const Result a = first.finish(), b = second.finish();
  EXPECT_EQ(a.code, 0) << a.err;
  EXPECT_EQ(b.code, 0) << b.err;
  EXPECT_EQ(hub.count("GET", "/cdn/"), 1u);
  EXPECT_EQ(test_sha256(os::read_file(blob(), 1 << 24)), hub.etag("model.safetensors"));
}

TEST_F(ProgramAndHub, WhatWasInterruptedGoesOnWhereItStopped) {
  std::atomic<bool> is_slow{true};
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (!is_slow || !request.is("GET", "/cdn/")) return std::nullopt;
    TestHub::Reply reply = TestHub::content(request, hub.files["model.safetensors"]);
    reply.pause_ms = 100;
    return reply;
  };
  const auto kept = [&] {
    const auto found = os::status(blob() + ".qb.incomplete");
    return found ? found->bytes : 0;
  };
  int64_t before = 0;
  for (const int signal : {SIGKILL, SIGINT}) {
    TestedProgram program({"pull", "org/name"}, environment());
    for (int i = 0; i < 1000 && kept() <= before; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    ::kill(program.pid(), signal);
    const Result r = program.finish();
    EXPECT_FALSE(os::exists(blob()));
    EXPECT_GT(kept(), before);
    before = kept();
    if (signal == SIGKILL) continue;
    EXPECT_EQ(r.code, exit_code(ErrorKind::interrupted)) << r.err;
    EXPECT_THAT(r.err, HasSubstr("what has arrived is kept"));
  }
  is_slow = false;
  const Result r = run({"pull", "org/name"}, environment());
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(hub.requests().back().header("range"), fmt::format("bytes={}-", before));
  EXPECT_EQ(test_sha256(os::read_file(blob(), 1 << 24)), hub.etag("model.safetensors"));
}

TEST_F(ProgramAndHub, WithoutLibcurlItSaysWhatToInstallAndDoesAllElse) {
  for (const char* name : {"libcurl.so.4", "libcurl-gnutls.so.4"})
    folder.write(fmt::format("lib/{}", name), "no library");
  const std::string before = environment("LD_LIBRARY_PATH=" + folder / "lib");
  const Result r = run({"pull", "org/name"}, before);
  EXPECT_EQ(r.code, exit_code(ErrorKind::hub));
  EXPECT_THAT(r.err, AllOf(HasSubstr("there is no libcurl here"), HasSubstr("apt-get install libcurl4")));
  const Result tiny = run(tiny_run(folder / "out", {"--precision", "fp16"}), before);
  EXPECT_EQ(tiny.code, 0) << tiny.err;
}

TEST_F(ProgramAndHub, PullSaysWhatItDidAndGoesOnBehindAFailure) {
  const Result r = run({"pull", "org/none", "org/name", "org/neither"}, environment());
  EXPECT_EQ(r.code, exit_code(ErrorKind::hub));
  EXPECT_THAT(r.out, AllOf(HasSubstr("org/name: commit " + hub.commit + ", 3 files, "), HasSubstr(folder / "cache")));
  EXPECT_THAT(r.err, HasSubstr("2 of 3 models were not pulled, the first: model 'org/none' was not found"));
  EXPECT_THAT(run({"pull", "org/name"}, environment()).out, HasSubstr("0 B of it downloaded now"));
  EXPECT_EQ(run({"pull"}, environment()).code, exit_code(ErrorKind::usage));
  EXPECT_EQ(run({"pull", "../x"}, environment()).code, exit_code(ErrorKind::hub));
}

}  // namespace
}  // namespace quantbench
