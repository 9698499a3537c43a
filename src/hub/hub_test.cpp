#include "hub/hub.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/os.h"
#include "hub/test_environment.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const std::string kCommit = "0123456789abcdef0123456789abcdef01234567";
const std::string kOther = "89abcdef0123456789abcdef0123456789abcdef";

class Hub : public TestEnvironment {
 protected:
  static std::string hub_refusal(const std::string& model) {
    return refusal([&] { resolve_model(model); }, ErrorKind::hub);
  }
};

// A cache as Python leaves it: blobs, a ref, a snapshot of links, and things that do not concern us.
class HubCache : public Hub {
 protected:
  HubCache() {
    set("HF_HUB_CACHE", cache_.path());
    cache_.write("version.txt", "1");
    cache_.write("models--org--name/blobs/aaa", "{}");
    cache_.write("models--org--name/refs/main", kCommit);
    cache_.write("models--org--name/refs/refs/pr/1", kOther);
    cache_.write("models--org--name/.no_exist/x", "");
    std::filesystem::create_directories(cache_ / snapshot());
    std::filesystem::create_symlink("../../blobs/aaa", cache_ / (snapshot() + "/config.json"));
  }
  static std::string snapshot() { return "models--org--name/snapshots/" + kCommit; }
  TestFolder cache_;
};

TEST_F(Hub, TheCacheIsWhereTheEnvironmentSays) {
  set("HOME", "/home/me");
  EXPECT_EQ(hub_cache_folder(), "/home/me/.cache/huggingface/hub");
  set("XDG_CACHE_HOME", "/caches");
  EXPECT_EQ(hub_cache_folder(), "/caches/huggingface/hub");
  set("HF_HOME", "~/hf");
  EXPECT_EQ(hub_cache_folder(), "/home/me/hf/hub");
  set("HUGGINGFACE_HUB_CACHE", "/old");
  EXPECT_EQ(hub_cache_folder(), "/old");
  set("HF_HUB_CACHE", "/new");
  EXPECT_EQ(hub_cache_folder(), "/new");
  set("HF_HUB_CACHE", "");
  EXPECT_EQ(hub_cache_folder(), "/old");
}

TEST_F(Hub, WithoutAHomeSaysWhatToSet) {
  EXPECT_THAT(hub_refusal("org/name"), AllOf(HasSubstr("HOME is not set"), HasSubstr("HF_HOME")));
}

TEST_F(Hub, RepoIdsAreCheckedAsTheHubDoes) {
  for (const char* good : {"gpt2", "microsoft/phi-2", "meta-llama/Llama-3.2-1B", "a_b/c.d"}) {
    EXPECT_TRUE(is_repo_id(good)) << good;
  }
  for (const char* bad : {"", "a/b/c", "/a", "a/", "a--b/c", "a/b..c", "a/b.git", "a b", "a/b@c", "a/\xc3\xa9"}) {
    EXPECT_FALSE(is_repo_id(bad)) << bad;
  }
  EXPECT_TRUE(is_repo_id(std::string(96, 'a')));
  EXPECT_FALSE(is_repo_id(std::string(97, 'a')));
}

TEST(HubNames, OnlyPlainRelativePathsBecomePaths) {
  for (const char* good : {"config.json", "a/b.c", "refs/pr/1", "a b", "..a", "\xc3\xa9"})
    EXPECT_TRUE(is_plain_path(good)) << good;
  for (const char* bad : {"", "/a", "a/", "a//b", ".", "..", "a/../b", "a\\b", "a\nb", "a\x7f"}) {
    EXPECT_FALSE(is_plain_path(bad)) << bad;
  }
  EXPECT_FALSE(is_plain_path(std::string("a\0b", 3)));
  EXPECT_FALSE(is_plain_path(std::string(256, 'a')));
  EXPECT_EQ(percent_encoded("refs/pr/1 %?#\xc3\xa9", false), "refs%2Fpr%2F1%20%25%3F%23%C3%A9");
  EXPECT_EQ(percent_encoded("a/b c~-_.", true), "a/b%20c~-_.");
}

TEST(HubNames, LoopbackIsThisMachineAlone) {
  for (const char* own : {"localhost", "127.0.0.1", "127.1.2.3", "[::1]"})
    EXPECT_TRUE((Url{.host = own}).is_loopback()) << own;
  for (const char* other :
       {"127.0.0.1.evil.com", "127.evil", "127.1", "1127.0.0.1", "localhost.evil.com", "[::2]", "10.0.0.1", ""}) {
    EXPECT_FALSE((Url{.host = other}).is_loopback()) << other;
  }
}

TEST_F(HubCache, AFolderTakesPrecedenceAndFilesAndPathsAreNotNames) {
  const ResolvedModel model = resolve_model(cache_ / snapshot());
  EXPECT_EQ(model.folder, cache_ / snapshot());
  EXPECT_EQ(model.name, cache_ / snapshot());
  EXPECT_EQ(model.commit, "");
  EXPECT_EQ(resolve_model(cache_ / snapshot() + "//").name, cache_ / snapshot());
  EXPECT_EQ(resolve_model(cache_ / snapshot() + "/.").name, os::real_path(cache_ / snapshot()));
  set("HOME", cache_.path());
  EXPECT_EQ(resolve_model("~/" + snapshot()).folder, cache_ / snapshot());
  EXPECT_THAT(hub_refusal(cache_ / "version.txt"), HasSubstr("is a file"));
  EXPECT_THAT(hub_refusal("./none"), HasSubstr("no folder './none'"));
  EXPECT_THAT(hub_refusal("/none/there"), HasSubstr("no folder '/none/there'"));
}

TEST_F(HubCache, ANameIsResolvedThroughItsRef) {
  const ResolvedModel model = resolve_model("org/name");
  EXPECT_EQ(model.folder, cache_ / snapshot());
  EXPECT_EQ(model.name, "org/name");
  EXPECT_EQ(model.commit, kCommit);
  EXPECT_TRUE(std::filesystem::exists(model.folder + "/config.json"));
  EXPECT_EQ(resolve_model("org/name@main").folder, model.folder);
  EXPECT_EQ(resolve_model("org/name@" + kCommit).folder, model.folder);
  cache_.write("models--org--name/refs/main", kCommit + "\n");
  EXPECT_EQ(resolve_model("org/name").commit, kCommit);
}

TEST_F(HubCache, ANameWithoutOrganisationIsResolved) {
  cache_.write("models--gpt2/refs/main", kOther);
  std::filesystem::create_directories(cache_ / ("models--gpt2/snapshots/" + kOther));
  EXPECT_EQ(resolve_model("gpt2").commit, kOther);
}

TEST_F(HubCache, AModelThatIsNotCachedSaysWhereWasLookedAndHowToGetIt) {
  EXPECT_THAT(hub_refusal("org/other"), AllOf(HasSubstr(cache_.path()), HasSubstr("'models--org--other'"),
                                              HasSubstr("HF_HUB_CACHE"), HasSubstr("quantbench pull org/other ")));
  EXPECT_THAT(hub_refusal("org/other@v2"), HasSubstr("quantbench pull org/other@v2"));
}

TEST_F(HubCache, ARevisionThatIsNotCachedListsThoseThatAre) {
  EXPECT_THAT(hub_refusal("org/name@v2"), AllOf(HasSubstr("'v2'"), HasSubstr("cached revisions: main"),
                                                HasSubstr(kCommit), HasSubstr("quantbench pull org/name@v2")));
  EXPECT_THAT(hub_refusal("org/name@refs/pr/1"), AllOf(HasSubstr(kOther), HasSubstr("is not there")))
      << "the ref is there, its snapshot is not";
  EXPECT_THAT(hub_refusal("org/name@" + kOther), HasSubstr("cached commits: " + kCommit));
}

TEST_F(HubCache, ADamagedRefIsRefused) {
  for (const std::string& content : {std::string("main"), std::string("../../../etc"), kCommit + "0", std::string()}) {
    cache_.write("models--org--name/refs/main", content);
    EXPECT_THAT(hub_refusal("org/name"), HasSubstr("expected a commit of 40 hex digits")) << content;
  }
}

TEST_F(HubCache, NamesThatWouldLeaveTheCacheAreRefused) {
  for (const char* name : {"org/name@../../x", "org/name@/etc/passwd", "org/name@", "org/name@a//b", "a/b/c", "a:b"}) {
    EXPECT_THAT(hub_refusal(name), HasSubstr("neither a folder nor a name on the Hub")) << name;
  }
}

}  // namespace
}  // namespace quantbench
