// Downloads from a stand-in of the Hub on this machine (testing/test_hub_server.h), which plays every way in which the
// Hub, its storage and what lies between can behave.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>

#include <filesystem>

#include "core/os.h"
#include "hub/hub.h"
#include "hub/test_environment.h"
#include "testing/test_folder.h"
#include "testing/test_hub_server.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// Planted wherever a token may be, and then looked for in all that is said.
const std::string kToken = "hf_PlantedTokenThatNobodyMaySee";
// Longer than a socket's buffers, so that a test sees a transfer in pieces.
const std::string kWeights = [] {
  std::string text;
  for (int i = 0; text.size() < 700'000; ++i) text += fmt::format("{:08d}", i * 7919);
  return text;
}();

struct Heard final : HubListener {
  std::string text;
  int64_t most_done = 0, total = 0;
  void begin(const std::string& model, size_t files, int64_t missing) override {
    text += fmt::format("begin {} {} {}\n", model, files, missing);
  }
  void progress(const DownloadState& state) override {
    most_done = std::max(most_done, state.done_bytes);
    total = state.total_bytes;
  }
  void waiting(const std::string& why) override { text += why + "\n"; }
  void line(const std::string& line) override { text += line + "\n"; }
};

class HubDownload : public TestEnvironment {
 public:
  ~HubDownload() override {
    EXPECT_THAT(heard.text, Not(HasSubstr(kToken)));
    EXPECT_THAT(heard.text, Not(HasSubstr("sig=signature"))) << "an address with a signature is a secret too";
  }

 protected:
  HubDownload() {
    set("HF_ENDPOINT", hub.url() + "/");
    set("HF_HUB_CACHE", cache.path());
    set("HF_TOKEN", kToken + "\n");
    hub.files = {{"config.json", "{\"a\": 1}"},       {"tokenizer.json", "{}"},
                 {"model.safetensors", kWeights},     {"README.md", "not needed"},
                 {"pytorch_model.bin", "not needed"}, {"onnx/model.onnx", "not needed"}};
    hub.large = {"model.safetensors"};
  }
  // Without the second's wait before retries that the default is.
  PulledModel pull(const std::string& model = "org/name") { return pull_model(model, heard, kNoWait_ns); }
  std::string pull_refusal(const std::string& model = "org/name", ErrorKind kind = ErrorKind::hub) {
    std::string text = refusal([&] { pull(model); }, kind);
    EXPECT_THAT(text, AllOf(Not(HasSubstr(kToken)), Not(HasSubstr("sig=signature"))));
    return text;
  }
  static constexpr int64_t kNoWait_ns = 1'000'000;
  std::string repository() const { return cache / "models--org--name"; }
  std::string blob(const std::string& name) const { return repository() + "/blobs/" + hub.etag(name); }
  std::string snapshot(const std::string& name) const { return repository() + "/snapshots/" + hub.commit + "/" + name; }
  static std::string text_of(const std::string& path) { return os::read_file(path, 1 << 24); }
  // Nothing that could be taken for a whole file: no blob but those that are right.
  void expect_only_whole_blobs() const {
    for (const std::string& name : os::list_directory(repository() + "/blobs")) {
      if (name.ends_with(".qb.incomplete")) continue;
      const std::string text = text_of(repository() + "/blobs/" + name);
      EXPECT_EQ(name.size() == 64 ? test_sha256(text) : test_git_hash(text), name);
    }
  }

  TestHub hub;
  TestFolder cache;
  Heard heard;
};

TEST_F(HubDownload, WhatARunNeedsIsBroughtIntoTheLayoutThatPythonShares) {
  const PulledModel pulled = pull();
  EXPECT_EQ(pulled.model.folder, repository() + "/snapshots/" + hub.commit);
  EXPECT_EQ(pulled.model.commit, hub.commit);
  EXPECT_EQ(pulled.files, 3u);
  EXPECT_EQ(pulled.received_bytes, static_cast<int64_t>(kWeights.size() + 10));
  EXPECT_THAT(os::list_directory(pulled.model.folder),
              ElementsAre("config.json", "model.safetensors", "tokenizer.json"));
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    EXPECT_EQ(std::filesystem::read_symlink(snapshot(name)), "../../blobs/" + hub.etag(name));
    EXPECT_EQ(text_of(snapshot(name)), hub.files[name]);
  }
  EXPECT_EQ(text_of(repository() + "/refs/main"), hub.commit);
  EXPECT_TRUE(os::exists(cache / (".locks/models--org--name/" + hub.etag("config.json") + ".lock")));
  EXPECT_THAT(heard.text, HasSubstr(fmt::format("begin org/name 3 {}", kWeights.size() + 10)));
  EXPECT_EQ(heard.most_done, heard.total);
  EXPECT_EQ(heard.total, pulled.bytes);
  for (const TestHub::Request& request : hub.requests()) {
    EXPECT_EQ(request.header("authorization"), "Bearer " + kToken) << request.path;
    EXPECT_EQ(request.header("accept-encoding"), "identity");
  }
}

TEST_F(HubDownload, WhatIsThereIsNotBroughtAgain) {
  pull();
  const size_t before = hub.requests().size();
  const PulledModel again = pull();
  EXPECT_EQ(again.received_bytes, 0);
  EXPECT_EQ(hub.requests().size(), before + 1) << "the list of files, and nothing else";
  EXPECT_EQ(obtain_model("org/name", {}, "", heard).commit, hub.commit);
  EXPECT_EQ(hub.requests().size(), before + 1) << "a whole model in the cache needs no network";
  // Another commit with one other file: the rest is linked.
  hub.commit = std::string(40, 'b');
  hub.files["config.json"] = "{\"a\": 2}";
  const PulledModel newer = pull();
  EXPECT_EQ(newer.received_bytes, 8);
  EXPECT_EQ(text_of(snapshot("config.json")), "{\"a\": 2}");
  EXPECT_EQ(hub.count("GET", "/cdn/"), 1u);
  EXPECT_EQ(resolve_model("org/name").commit, hub.commit);
}

TEST_F(HubDownload, ARunBringsWhatTheCacheLacks) {
  EXPECT_EQ(obtain_model("org/name", {.weights = false}, "", heard).commit, hub.commit);
  EXPECT_THAT(os::list_directory(repository() + "/snapshots/" + hub.commit), ElementsAre("config.json"));
  EXPECT_EQ(text_of(obtain_model("org/name", {}, "", heard).folder + "/model.safetensors"), kWeights);
}

TEST_F(HubDownload, ShardsAreThoseThatTheIndexNames) {
  hub.files.erase("model.safetensors");
  hub.files["model.safetensors.index.json"] =
      R"({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}})";
  hub.files["model-1-of-2.safetensors"] = "one";
  hub.files["model-2-of-2.safetensors"] = "two";
  hub.files["other.safetensors"] = "not needed";
  EXPECT_EQ(pull().files, 5u);
  EXPECT_EQ(text_of(snapshot("model-2-of-2.safetensors")), "two");
  EXPECT_FALSE(os::exists(snapshot("other.safetensors")));
  EXPECT_EQ(heard.most_done, heard.total);
  std::filesystem::remove(snapshot("model-2-of-2.safetensors"));
  EXPECT_TRUE(os::exists(obtain_model("org/name", {}, "", heard).folder + "/model-2-of-2.safetensors"))
      << "a shard is missing, so the cache has not all";
}

TEST_F(HubDownload, NamesThatLeadOutOfTheCacheAreRefused) {
  for (const char* name : {"../evil", "/etc/passwd", "a/../../b", "a//b", "..", "a\\\\b"}) {
    hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
      if (!request.is("GET", "/api/")) return std::nullopt;
      return TestHub::Reply{
          .body = fmt::format(R"({{"sha":"{}","siblings":[{{"rfilename":"config.json"}},{{"rfilename":"{}"}}]}})",
                              hub.commit, name)};
    };
    EXPECT_THAT(pull_refusal(), HasSubstr("no file in a repository")) << name;
  }
  hub.instead = nullptr;
  hub.files.erase("model.safetensors");
  hub.files["model.safetensors.index.json"] = R"({"weight_map": {"a": "../../../../../../evil"}})";
  EXPECT_THAT(pull_refusal("org/name", ErrorKind::bad_model), HasSubstr("such an index is refused"));
  EXPECT_THAT(os::list_directory(cache.path()), ElementsAre(".locks", "models--org--name"));
  // An etag that is a path, and a commit that is one.
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (request.method != "HEAD") return std::nullopt;
    return TestHub::Reply{.headers = {{"X-Repo-Commit", hub.commit}, {"ETag", "\"../../../evil\""}}, .body = "{}"};
  };
  hub.files["config.json"] = "{}";
  std::filesystem::remove_all(repository());
  EXPECT_THAT(pull_refusal(), HasSubstr("expected a hash of 64 or 40 hex digits"));
  hub.instead = [](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (!request.is("GET", "/api/")) return std::nullopt;
    return TestHub::Reply{.body = R"({"sha":"../../x","siblings":[]})"};
  };
  EXPECT_THAT(pull_refusal(), HasSubstr("does not answer as the Hub does"));
}

TEST_F(HubDownload, TheTokenDoesNotFollowToAnotherHost) {
  hub.cdn = hub.other_host();
  EXPECT_TRUE(pull().is_current);
  size_t elsewhere = 0;
  for (const TestHub::Request& request : hub.requests()) {
    const bool is_other = request.header("host").rfind("localhost", 0) == 0;
    elsewhere += is_other;
    EXPECT_EQ(request.header("authorization"), is_other ? "" : "Bearer " + kToken) << request.path;
  }
  EXPECT_EQ(elsewhere, 1u);
  EXPECT_EQ(text_of(snapshot("model.safetensors")), kWeights);
}

TEST_F(HubDownload, RelativeRedirectsAreFollowedAndOthersNotByTheQuestionForAFile) {
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    const bool is_config = request.path.find("config.json") != std::string::npos;
    if (is_config && request.path.rfind("/moved", 0) == 0) {
      TestHub::Request original = request;
      original.path.erase(0, 6);
      return hub.answer(original);
    }
    if (is_config) return TestHub::Reply{.status = 307, .headers = {{"Location", "/moved" + request.path}}};
    return std::nullopt;
  };
  pull();
  EXPECT_EQ(text_of(snapshot("config.json")), hub.files["config.json"]);
  EXPECT_EQ(hub.count("HEAD", "/moved"), 1u);
  EXPECT_EQ(hub.count("HEAD", "/cdn/"), 0u);
  // One that only looks relative leads to another host, and the token not with it.
  std::filesystem::remove_all(repository());
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (!request.is("HEAD", "config.json")) return std::nullopt;
    return TestHub::Reply{.status = 307,
                          .headers = {{"Location", "//localhost" + hub.url().substr(16) + "/x"},
                                      {"X-Repo-Commit", hub.commit},
                                      {"X-Linked-ETag", hub.etag("config.json")},
                                      {"X-Linked-Size", "8"}}};
  };
  pull_refusal();
  for (const TestHub::Request& request : hub.requests()) {
    if (request.path == "/x") {
      EXPECT_EQ(request.header("authorization"), "");
    }
  }
  EXPECT_GE(hub.count("GET", "/x"), 1u);
}

TEST_F(HubDownload, WhatIsNotHttpsIsNotAsked) {
  for (const char* bad :
       {"http://example.invalid", "http://127.0.0.1.example.invalid", "ftp://127.0.0.1", "file:///etc",
        "https://user:secret@example.invalid", "https://example.invalid/?a", "nonsense:"}) {
    set("HF_ENDPOINT", bad);
    EXPECT_THAT(pull_refusal(), AllOf(HasSubstr("HF_ENDPOINT"), HasSubstr("https://"), Not(HasSubstr("secret"))))
        << bad;
  }
  set("HF_ENDPOINT", hub.url());
  hub.cdn = "http://example.invalid";
  EXPECT_THAT(pull_refusal(), HasSubstr("not https (http://example.invalid)"));
}

TEST_F(HubDownload, RedirectsThatLeadNowhereAreNotFollowedAgain) {
  std::string where;
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (!request.is("GET", "/resolve/") && !request.is("GET", "/cdn/")) return std::nullopt;
    return TestHub::Reply{.status = 302, .headers = {{"Location", where.empty() ? request.path : where}}};
  };
  for (const char* to : {"", "file:///etc/passwd", "ftp://127.0.0.1/x", "https://user:secret@127.0.0.1/"}) {
    where = to;
    const size_t before = hub.count("GET", "/resolve/");
    EXPECT_THAT(pull_refusal(),
                AllOf(HasSubstr(*to ? "no address of the web" : "in a circle"), Not(HasSubstr("secret"))));
    EXPECT_LE(hub.count("GET", "/resolve/"), before + 6);
  }
}

TEST_F(HubDownload, ASizeThatIsNoneOrNotThatOfTheListIsRefused) {
  for (const char* size : {"-5", "1.5", "\"10\"", "1e30", "17592186044417"}) {
    hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
      if (!request.is("GET", "/api/")) return std::nullopt;
      return TestHub::Reply{
          .body =
              fmt::format(R"({{"sha":"{}","siblings":[{{"rfilename":"config.json","size":{}}}]}})", hub.commit, size)};
    };
    EXPECT_THAT(pull_refusal(), HasSubstr("an entry that is no file")) << size;
  }
  int64_t told = int64_t{1} << 43;
  bool listed = true;
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (request.is("GET", "/api/") && !listed) {
      return TestHub::Reply{
          .body = fmt::format(
              R"({{"sha":"{}","siblings":[{{"rfilename":"config.json"}},{{"rfilename":"model.safetensors"}}]}})",
              hub.commit)};
    }
    if (!request.is("HEAD", "config.json")) return std::nullopt;
    return TestHub::Reply{.headers = {{"X-Repo-Commit", hub.commit},
                                      {"ETag", hub.etag("config.json")},
                                      {"X-Linked-Size", std::to_string(told)}}};
  };
  EXPECT_THAT(pull_refusal(), HasSubstr("lists it with 8 bytes, and asked for it says 8796093022208"));
  listed = false;
  EXPECT_THAT(pull_refusal("org/name", ErrorKind::disk), HasSubstr("not enough space"));
  EXPECT_EQ(hub.count("GET", "/resolve/"), 0u);
}

TEST_F(HubDownload, RefusalsSayWhatToDo) {
  TestHub::Reply reply;
  hub.instead = [&](const TestHub::Request&) { return std::optional(reply); };
  const auto refused = [&](int status, const std::string& code, const std::string& message = "") {
    reply = {.status = status, .headers = {{"X-Error-Code", code}, {"X-Error-Message", message}}};
    return pull_refusal();
  };
  EXPECT_THAT(refused(403, "GatedRepo"), AllOf(HasSubstr("accept the licence at " + hub.url() + "/org/name"),
                                               HasSubstr("HF_TOKEN has no access yet")));
  EXPECT_THAT(refused(401, "RepoNotFound"), AllOf(HasSubstr("was not found"), HasSubstr("private"),
                                                  HasSubstr("not authenticated"), HasSubstr("HF_TOKEN")));
  EXPECT_THAT(refused(404, ""), HasSubstr("was not found"));
  EXPECT_THAT(refused(401, "", "Invalid credentials in Authorization header"),
              HasSubstr("does not accept the token of HF_TOKEN"));
  EXPECT_THAT(refused(404, "RevisionNotFound"), HasSubstr("has no revision 'main'"));
  EXPECT_THAT(refused(403, "", "Access to this resource is disabled."), HasSubstr("is disabled"));
  EXPECT_THAT(refused(400, "", "Echo of " + kToken), AllOf(HasSubstr("400"), HasSubstr("Echo of ***")));
  EXPECT_THAT(refused(400, "", std::string(190, 'x') + kToken), AllOf(HasSubstr("x***"), Not(HasSubstr("hf_"))));
  EXPECT_THAT(refused(400, "", "a\x1b[2Jb"), HasSubstr("a?[2Jb"));
  EXPECT_THAT(refused(400, "", "HF_PLANTEDtokenThatNobodyMaySee"), HasSubstr("400: ***;"));
  reply = {.status = 404, .headers = {{"X-Error-Code", "EntryNotFound"}}};
  EXPECT_THAT(pull_refusal(), HasSubstr("was not found")) << "no file was asked for";
  set("HF_TOKEN", "*");  // whose replacement has it in itself
  reply = {.status = 400, .headers = {{"X-Error-Message", "a * b"}}};
  EXPECT_THAT(refusal([&] { pull(); }, ErrorKind::hub), HasSubstr("a ***"));
  set("HF_TOKEN", kToken);
  reply = {.body = "<html>log in here</html>"};
  EXPECT_THAT(pull_refusal(), HasSubstr("a list of the files of 'org/name' that is refused"));
  hub.instead = nullptr;
  EXPECT_THAT(pull_refusal("org/name@v2"), HasSubstr("has no revision 'v2'"));
  EXPECT_THAT(pull_refusal("org/other"), HasSubstr("was not found"));
  ::unsetenv("HF_TOKEN");
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (request.method != "HEAD") return std::nullopt;
    return TestHub::Reply{.status = 401, .headers = {{"X-Error-Code", "GatedRepo"}}};
  };
  EXPECT_THAT(pull_refusal(), AllOf(HasSubstr("is gated"), HasSubstr("no token is set")));
  EXPECT_FALSE(os::exists(repository() + "/refs/main"));
}

TEST_F(HubDownload, ARepositoryWithoutSafetensorsIsRefusedBeforeAnythingIsBrought) {
  hub.files.erase("model.safetensors");
  EXPECT_THAT(pull_refusal("org/name", ErrorKind::bad_model),
              AllOf(HasSubstr("pytorch_model.bin"), HasSubstr("can run code")));
  EXPECT_EQ(hub.count("HEAD", ""), 0u);
  hub.files.erase("config.json");
  EXPECT_THAT(pull_refusal("org/name", ErrorKind::bad_model), HasSubstr("no config.json"));
}

TEST_F(HubDownload, ATruncatedBodyIsResumed) {
  int times = 0;
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (!request.is("GET", "/cdn/")) return std::nullopt;
    TestHub::Reply reply = TestHub::content(request, kWeights);
    if (++times < 8) reply.cut = 90'000;  // so more failures than are allowed without getting on
    return reply;
  };
  EXPECT_EQ(pull().received_bytes, static_cast<int64_t>(kWeights.size() + 10)) << "no byte came twice";
  EXPECT_EQ(times, 8);
  EXPECT_EQ(text_of(snapshot("model.safetensors")), kWeights);
}

TEST_F(HubDownload, WhereNothingMoreComesItEndsAndTheNextCallGoesOn) {
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (!request.is("GET", "/cdn/")) return std::nullopt;
    TestHub::Reply reply = TestHub::content(request, kWeights);
    reply.cut = request.header("range").empty() ? 300'000 : 0;
    return reply;
  };
  EXPECT_THAT(pull_refusal(),
              AllOf(HasSubstr(fmt::format("300000 of {} bytes arrived", kWeights.size())), HasSubstr("they are kept")));
  EXPECT_EQ(hub.count("GET", "/cdn/"), 6u) << "the first, and five more";
  EXPECT_EQ(os::status(blob("model.safetensors") + ".qb.incomplete")->bytes, 300'000);
  EXPECT_FALSE(os::exists(blob("model.safetensors")));
  EXPECT_FALSE(os::exists(repository() + "/refs/main"));
  expect_only_whole_blobs();
  hub.instead = nullptr;
  EXPECT_EQ(pull().received_bytes, static_cast<int64_t>(kWeights.size()) - 300'000);
  EXPECT_EQ(hub.requests().back().header("range"), "bytes=300000-");
  EXPECT_EQ(text_of(snapshot("model.safetensors")), kWeights);
  EXPECT_FALSE(os::exists(blob("model.safetensors") + ".qb.incomplete"));
}

TEST_F(HubDownload, WhereRangesAreIgnoredItBeginsAgain) {
  cache.write("models--org--name/blobs/" + hub.etag("model.safetensors") + ".qb.incomplete", "what was left, ignored");
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (!request.is("GET", "/cdn/")) return std::nullopt;
    return TestHub::Reply{.body = kWeights};
  };
  pull();
  EXPECT_EQ(hub.count("GET", "/cdn/"), 1u);
  EXPECT_EQ(text_of(snapshot("model.safetensors")), kWeights);
  // And where it breaks off at the same place again and again, that is not getting on.
  std::filesystem::remove_all(repository());
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (!request.is("GET", "/cdn/")) return std::nullopt;
    return TestHub::Reply{.body = kWeights, .cut = 200'000};
  };
  EXPECT_THAT(pull_refusal(), HasSubstr("200000 of"));
  EXPECT_EQ(hub.count("GET", "/cdn/"), 7u);
}

TEST_F(HubDownload, AnotherRangeThanWasAskedForIsRefused) {
  cache.write("models--org--name/blobs/" + hub.etag("model.safetensors") + ".qb.incomplete", kWeights.substr(0, 1000));
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (!request.is("GET", "/cdn/")) return std::nullopt;
    return TestHub::Reply{.status = 206, .headers = {{"Content-Range", "bytes 999-1/2"}}, .body = kWeights.substr(999)};
  };
  EXPECT_THAT(pull_refusal(), HasSubstr("other bytes than were asked for"));
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (!request.is("GET", "/cdn/")) return std::nullopt;
    return TestHub::Reply{.body = kWeights + "more"};
  };
  EXPECT_THAT(pull_refusal(), HasSubstr("other bytes than were asked for"));
  hub.instead = nullptr;
  pull();
  EXPECT_EQ(text_of(snapshot("model.safetensors")), kWeights);
}

TEST_F(HubDownload, AWrongHashIsNeverTaken) {
  std::string damaged = kWeights;
  damaged[damaged.size() / 2] ^= 1;
  bool is_damaged = true;
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (!is_damaged || !request.is("GET", "/cdn/")) return std::nullopt;
    return TestHub::content(request, damaged);
  };
  EXPECT_THAT(pull_refusal(), AllOf(HasSubstr(test_sha256(damaged)), HasSubstr(test_sha256(kWeights))));
  EXPECT_EQ(hub.count("GET", "/cdn/"), 2u);
  EXPECT_FALSE(os::exists(blob("model.safetensors")));
  EXPECT_EQ(os::status(blob("model.safetensors") + ".qb.incomplete")->bytes, 0);
  is_damaged = false;
  // What an earlier attempt left is wrong: found by the hash, and brought again from the beginning.
  cache.write("models--org--name/blobs/" + hub.etag("model.safetensors") + ".qb.incomplete",
              damaged.substr(0, 600'000));
  pull();
  EXPECT_EQ(text_of(snapshot("model.safetensors")), kWeights);
  EXPECT_THAT(heard.text, HasSubstr("the hash of what arrived is wrong"));
  // The same for a small file, whose hash is git's.
  std::filesystem::remove_all(repository());
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (!request.is("GET", "/resolve/") || request.path.find("config.json") == std::string::npos) return std::nullopt;
    return TestHub::Reply{.body = "{\"b\": 1}"};
  };
  EXPECT_THAT(pull_refusal(), HasSubstr("expected " + test_git_hash("{\"a\": 1}")));
  expect_only_whole_blobs();
}

TEST_F(HubDownload, AnExpiredAddressIsAskedForAnew) {
  int heads = 0;
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (request.is("HEAD", "model.safetensors")) ++heads;
    if (!request.is("GET", "/cdn/")) return std::nullopt;
    TestHub::Reply reply = TestHub::content(request, kWeights);
    if (heads == 1 && request.header("range").empty()) {
      reply.cut = 100'000;
    } else if (heads == 1) {
      reply = {.status = 403};  // it expired meanwhile
    }
    return reply;
  };
  pull();
  EXPECT_EQ(heads, 2);
  EXPECT_EQ(hub.requests().back().header("range"), "bytes=100000-");
  EXPECT_EQ(text_of(snapshot("model.safetensors")), kWeights);
  // Not without end.
  std::filesystem::remove_all(repository());
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (!request.is("GET", "/cdn/")) return std::nullopt;
    return TestHub::Reply{.status = 403};
  };
  EXPECT_THAT(pull_refusal(), HasSubstr("403"));
}

TEST_F(HubDownload, TooManyRequestsAreWaitedOut) {
  int refused = 0;
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (request.is("GET", "/api/") && refused++ < 1)
      return TestHub::Reply{.status = 429, .headers = {{"Retry-After", "1"}}};
    if (request.is("HEAD", "config.json") && refused++ < 4) return TestHub::Reply{.status = 503};
    if (request.is("GET", "/cdn/") && refused++ < 6) return TestHub::Reply{.status = 408};
    return std::nullopt;
  };
  const int64_t begin_ns = os::steady_now_ns();
  pull();
  EXPECT_GE(os::steady_now_ns() - begin_ns, 1'000'000'000) << "as long as it asked for";
  EXPECT_THAT(heard.text, AllOf(HasSubstr("429"), HasSubstr("503"), HasSubstr("408"), HasSubstr("(1 of 5)")));
  hub.instead = [&](const TestHub::Request&) {
    return std::optional(TestHub::Reply{.status = 429, .headers = {{"Retry-After", "86400"}}});
  };
  std::filesystem::remove_all(repository());
  EXPECT_THAT(pull_refusal(), HasSubstr("come back in 86400 s"));
}

TEST_F(HubDownload, ASlowBodyIsTakenAndOneThatStopsIsAskedForAgain) {
  set("HF_HUB_DOWNLOAD_TIMEOUT", "1");
  int times = 0;
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    // In all slower than the timeout; what counts is bytes a second over some seconds, so that a busy machine is no
    // stop.
    if (request.is("GET", "/cdn/"))
      return TestHub::Reply{.body = kWeights, .pause_ms = 500, .piece = kWeights.size() / 4 + 1};
    if (!request.is("GET", "tokenizer.json") || ++times > 1) return std::nullopt;
    return TestHub::Reply{.body = "{}", .pause_ms = 3000, .piece = 1};  // nothing for longer than the timeout
  };
  pull();
  EXPECT_EQ(times, 2);
  EXPECT_EQ(hub.count("GET", "/cdn/"), 1u);
  EXPECT_EQ(text_of(snapshot("model.safetensors")), kWeights);
}

TEST_F(HubDownload, OfflineNobodyIsAsked) {
  for (const char* value : {"1", "on", "YES", "True"}) {
    set("HF_HUB_OFFLINE", value);
    EXPECT_THAT(pull_refusal(), HasSubstr("HF_HUB_OFFLINE is set")) << value;
  }
  ::unsetenv("HF_HUB_OFFLINE");
  set("TRANSFORMERS_OFFLINE", "1");
  const auto obtain = [&](const std::string& why) {
    return refusal([&] { obtain_model("org/name", {}, why, heard); }, ErrorKind::hub);
  };
  EXPECT_THAT(obtain(""), AllOf(HasSubstr("was not found"), HasSubstr("TRANSFORMERS_OFFLINE is set")));
  set("TRANSFORMERS_OFFLINE", "0");
  EXPECT_THAT(obtain("--offline was given"), HasSubstr("--offline was given"));
  EXPECT_THAT(hub.requests(), IsEmpty());
  pull();
  const size_t before = hub.requests().size();
  std::filesystem::remove(snapshot("tokenizer.json"));
  EXPECT_EQ(obtain_model("org/name", {}, "--offline was given", heard).commit, hub.commit);
  EXPECT_EQ(hub.requests().size(), before);
}

TEST_F(HubDownload, WhereTheHubDoesNotAnswerTheCacheIsTakenWithAWarning) {
  pull();
  hub.instead = [](const TestHub::Request&) { return std::optional(TestHub::Reply{.status = 500}); };
  const PulledModel pulled = pull();
  EXPECT_FALSE(pulled.is_current);
  EXPECT_EQ(pulled.model.commit, hub.commit);
  EXPECT_THAT(heard.text, AllOf(HasSubstr("warning: "), HasSubstr("500"), HasSubstr("in the cache")));
  std::filesystem::remove(snapshot("tokenizer.json"));  // not all that a run needs, and all there is
  EXPECT_EQ(obtain_model("org/name", {}, "", heard).commit, hub.commit);
  // Somebody who cannot be reached at all.
  set("HF_ENDPOINT", "http://127.0.0.1:1");
  heard.text.clear();
  EXPECT_EQ(obtain_model("org/name", {}, "", heard).commit, hub.commit);
  EXPECT_THAT(heard.text, HasSubstr("warning: asking 127.0.0.1"));
}

TEST_F(HubDownload, ProxiesAndCertificatesAreThoseOfTheEnvironment) {
  set("http_proxy", "http://127.0.0.1:1");
  EXPECT_TRUE(pull().is_current) << "this machine itself is asked past any proxy";
  set("SSL_CERT_FILE", cache / "none.pem");
  EXPECT_THAT(pull_refusal("org/other"), HasSubstr("SSL_CERT_FILE names " + cache / "none.pem"));
  ::unsetenv("SSL_CERT_FILE");
  // What goes through a proxy asks it, here the stand-in: CONNECT, without the token.
  set("https_proxy", fmt::format("http://user:ProxySecret@{}", hub.url().substr(7)));
  set("HF_ENDPOINT", "https://example.invalid");
  const std::string text = pull_refusal("org/other");
  EXPECT_THAT(text, Not(HasSubstr("ProxySecret")));
  EXPECT_EQ(hub.count("CONNECT", "example.invalid:443"), 6u);
  EXPECT_EQ(hub.requests().back().header("authorization"), "");
  hub.instead = [](const TestHub::Request&) { return std::optional(TestHub::Reply{.status = 407}); };
  EXPECT_THAT(pull_refusal("org/other"), HasSubstr("asks for a login (407)"));
  EXPECT_EQ(hub.count("CONNECT", "example.invalid:443"), 7u) << "asked again in vain";
  set("https_proxy", "htps://user:ProxySecret@127.0.0.1:1");
  heard.text.clear();
  EXPECT_THAT(pull_refusal("org/other"), AllOf(HasSubstr("the proxy that is set"), Not(HasSubstr("ProxySecret"))));
  EXPECT_EQ(heard.text, "") << "tried again in vain";
  EXPECT_THAT(heard.text, Not(HasSubstr("ProxySecret")));
}

TEST_F(HubDownload, TheTokenComesFromTheUsualPlaces) {
  const TestFolder home;
  const auto sent = [&] {
    pull();
    return hub.requests().back().header("authorization");
  };
  EXPECT_EQ(sent(), "Bearer " + kToken);
  set("HUGGING_FACE_HUB_TOKEN", "second");
  EXPECT_EQ(sent(), "Bearer " + kToken);
  set("HF_TOKEN", " \n");
  EXPECT_EQ(sent(), "Bearer second");
  ::unsetenv("HUGGING_FACE_HUB_TOKEN");
  set("HF_HOME", home.path());
  EXPECT_EQ(sent(), "");
  home.write("token", "third\n");
  EXPECT_EQ(sent(), "Bearer third");
  home.write("elsewhere", "fourth");
  set("HF_TOKEN_PATH", home / "elsewhere");
  EXPECT_EQ(sent(), "Bearer fourth");
  set("HF_TOKEN", "two\nPlantedLines: x");
  EXPECT_THAT(refusal([&] { pull(); }, ErrorKind::hub), AllOf(HasSubstr("HF_TOKEN"), Not(HasSubstr("PlantedLines"))));
}

TEST_F(HubDownload, ALockThatAnotherProcessHasIsWaitedFor) {
  const std::string path = cache / (".locks/models--org--name/" + hub.etag("model.safetensors") + ".lock");
  os::make_directories(cache / ".locks/models--org--name");
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);  // as Python's filelock does
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  std::thread other([&] {
    for (int i = 0; i < 100 && hub.count("HEAD", "model.safetensors") == 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    cache.write("models--org--name/blobs/" + hub.etag("model.safetensors"), kWeights);
    ::close(fd);
  });
  pull();
  other.join();
  EXPECT_THAT(heard.text, HasSubstr("waiting for another process"));
  EXPECT_EQ(hub.count("GET", "/cdn/"), 0u) << "the other one has brought it";
  EXPECT_EQ(text_of(snapshot("model.safetensors")), kWeights);
}

// Fails the write that would make the file longer than `room`, and locks where it is told to.
struct NarrowSystem final : os::System {
  int64_t room = INT64_MAX;
  bool has_locks = true;
  ssize_t pwrite(int fd, const void* data, size_t bytes, int64_t offset) override {
    if (offset + static_cast<int64_t>(bytes) > room) return errno = ENOSPC, -1;
    return System::pwrite(fd, data, bytes, offset);
  }
  int lock(int fd) override { return has_locks ? System::lock(fd) : (errno = ENOLCK, -1); }
};

TEST_F(HubDownload, AFullDiskIsSaidAndWhatFittedIsKept) {
  NarrowSystem narrow;
  narrow.room = 200'000;
  {
    const os::ScopedSystem scoped(narrow);
    EXPECT_THAT(pull_refusal("org/name", ErrorKind::disk),
                AllOf(HasSubstr("No space left"), HasSubstr("free some space")));
  }
  expect_only_whole_blobs();
  EXPECT_FALSE(os::exists(snapshot("model.safetensors")));
  const int64_t kept = os::status(blob("model.safetensors") + ".qb.incomplete")->bytes;
  EXPECT_GT(kept, 0);
  EXPECT_LE(kept, narrow.room);
  EXPECT_EQ(pull().received_bytes, static_cast<int64_t>(kWeights.size()) - kept);
}

TEST_F(HubDownload, WhatDoesNotFitIsRefusedBeforeItIsBrought) {
  constexpr int64_t kTooMuch = int64_t{1} << 43;
  if (os::free_bytes(cache.path()).value_or(0) > kTooMuch) GTEST_SKIP() << "there is room for 8 TiB here";
  hub.instead = [&](const TestHub::Request& request) -> std::optional<TestHub::Reply> {
    if (!request.is("GET", "/api/")) return std::nullopt;
    return TestHub::Reply{
        .body = fmt::format(
            R"({{"sha":"{}","siblings":[{{"rfilename":"config.json"}},{{"rfilename":"model.safetensors","size":{}}}]}})",
            hub.commit, kTooMuch)};
  };
  EXPECT_THAT(pull_refusal("org/name", ErrorKind::disk),
              AllOf(HasSubstr("not enough space"), HasSubstr(std::to_string(kTooMuch)), HasSubstr("HF_HUB_CACHE")));
  EXPECT_EQ(hub.requests().size(), 1u);
}

TEST_F(HubDownload, WhatIsLeftOfSomethingLongerIsNotGoneOnWith) {
  cache.write("models--org--name/blobs/" + hub.etag("model.safetensors") + ".qb.incomplete", kWeights + "more");
  pull();
  EXPECT_EQ(hub.requests().back().header("range"), "");
  EXPECT_EQ(text_of(snapshot("model.safetensors")), kWeights);
}

TEST_F(HubDownload, WhereTheCacheCannotBeWrittenWhatItHasIsTaken) {
  pull();
  std::filesystem::remove(snapshot("tokenizer.json"));
  std::filesystem::remove(blob("tokenizer.json"));
  NarrowSystem narrow;
  narrow.room = 0;
  const os::ScopedSystem scoped(narrow);
  EXPECT_EQ(obtain_model("org/name", {}, "", heard).commit, hub.commit);
  EXPECT_THAT(heard.text, AllOf(HasSubstr("warning: "), HasSubstr("No space left")));
}

TEST_F(HubDownload, WithoutLocksEachProcessHasAFileOfItsOwn) {
  NarrowSystem narrow;
  narrow.has_locks = false;
  narrow.room = 200'000;
  const os::ScopedSystem scoped(narrow);
  pull_refusal("org/name", ErrorKind::disk);
  for (const std::string& name : os::list_directory(repository() + "/blobs")) {
    EXPECT_THAT(name, Not(HasSubstr("incomplete"))) << "nobody could go on with it";
  }
  narrow.room = INT64_MAX;
  pull();
  EXPECT_EQ(text_of(snapshot("model.safetensors")), kWeights);
}

TEST_F(HubDownload, ALinkInThePlaceOfWhatIsBroughtIsNotFollowed) {
  const std::string victim = cache.write("victim", "precious");
  std::filesystem::create_directories(repository() + "/blobs");
  std::filesystem::create_symlink(victim, blob("model.safetensors") + ".qb.incomplete");
  pull_refusal("org/name", ErrorKind::disk);
  EXPECT_EQ(text_of(victim), "precious");
}

TEST_F(HubDownload, ACacheThatCannotBeWrittenIsSaid) {
  cache.write("file", "");
  set("HF_HUB_CACHE", cache / "file/hub");
  EXPECT_THAT(pull_refusal("org/name", ErrorKind::disk), HasSubstr("cannot create folder"));
}

}  // namespace
}  // namespace quantbench
