// As program_faults_test.cpp, of pull.
#include "app/test_program_faults.h"
#include "testing/test_hub_server.h"

namespace quantbench {
namespace {

TEST_F(ProgramFaults, InPullLeaveWholeFilesAndTheNextOneGoesOn) {
  TestHub hub;
  for (const std::string& name : os::list_directory(kTiny))
    hub.files[name] = os::read_file(kTiny + "/" + name, 1 << 24);
  hub.large = {"model.safetensors"};
  environment_ =
      "unset HF_HOME HF_HUB_CACHE HUGGINGFACE_HUB_CACHE; export HF_HUB_OFFLINE= HF_ENDPOINT=" + hub.url() + ";";
  fail_each({"pull", "org/name"}, false, [&](const Result& r, const std::string& out) {
    const std::string caches = out.substr(0, out.rfind('/')) + "/cache";
    const std::string repository = caches + "/huggingface/hub/models--org--name";
    const bool is_named = os::exists(repository + "/refs/main");
    EXPECT_TRUE(is_named || r.code != 0);
    if (os::exists(repository + "/blobs")) {
      for (const std::string& name : os::list_directory(repository + "/blobs")) {
        const std::string text = os::read_file(repository + "/blobs/" + name, 1 << 24);
        if (name.ends_with(".qb.incomplete")) continue;
        EXPECT_EQ(name.size() == 64 ? test_sha256(text) : test_git_hash(text), name);
      }
    }
    const Result again =
        run({"pull", "org/name"}, fmt::format("export XDG_CACHE_HOME={};{}", quoted(caches), environment_));
    EXPECT_EQ(again.code, 0) << again.err;
    for (const char* name : {"config.json", "model.safetensors"}) {
      EXPECT_EQ(os::read_file(repository + "/snapshots/" + hub.commit + "/" + name, 1 << 24), hub.files[name]) << name;
    }
  });
}

}  // namespace
}  // namespace quantbench
