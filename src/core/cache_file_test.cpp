#include "core/cache_file.h"

#include <gtest/gtest.h>

#include "core/os.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

using nlohmann::json;

json key(const std::string& card, const std::string& shape) { return {{"card", card}, {"shape", shape}}; }
CacheFile::Entry entry(const std::string& card, const std::string& shape, int value) {
  return {key(card, shape), {{"value", value}}};
}

class CacheFileTest : public testing::Test {
 protected:
  void keep(std::vector<CacheFile::Entry> entries) { cache_.keep(entries); }
  std::vector<int> found(const json& part) const {
    std::vector<int> values;
    for (const json& entry : cache_.find(part)) values.push_back(entry.at("value"));
    return values;
  }

  static constexpr size_t kMost = 4;
  TestFolder folder_;
  std::string path_ = folder_ / "quantbench/some.json";
  CacheFile cache_{path_, 3, kMost};
};
using Values = std::vector<int>;

TEST_F(CacheFileTest, FindsByTheWholeKeyOrAPartOfIt) {
  EXPECT_EQ(found(key("a", "1")), Values{});
  keep({entry("a", "1", 1), entry("a", "2", 2), entry("b", "1", 3)});
  EXPECT_EQ(found(key("a", "1")), Values{1});
  EXPECT_EQ(found({{"card", "a"}}), (Values{1, 2}));
  EXPECT_EQ(found(key("c", "1")), Values{});
  keep({entry("a", "1", 4)});
  EXPECT_EQ(found({{"card", "a"}}), (Values{2, 4})) << "the new one in the place of the old, and the newest last";
}

TEST_F(CacheFileTest, KeepsNothingUnderAKeyThatIsNotKnown) {
  keep({entry("", "1", 1)});
  EXPECT_FALSE(os::exists(path_));
  keep({entry("", "1", 1), entry("a", "1", 2)});
  EXPECT_EQ(found({{"shape", "1"}}), Values{2});
  EXPECT_EQ(found(key("", "1")), Values{});
}

TEST_F(CacheFileTest, KeepsSoManyAndTheNewest) {
  keep({entry("a", "1", 1), entry("a", "2", 2), entry("a", "3", 3)});
  keep({entry("a", "4", 4), entry("a", "5", 5)});
  EXPECT_EQ(found({{"card", "a"}}), (Values{2, 3, 4, 5}));
}

TEST_F(CacheFileTest, AddsAllByOneWriteAndLeavesTheOldFileWhereThatFails) {
  struct Counting : os::System {
    int rename(const char* from, const char* to) override {
      ++renames;
      if (!fails) return System::rename(from, to);
      errno = ENOSPC;
      return -1;
    }
    int renames = 0;
    bool fails = false;
  } system;
  const os::ScopedSystem scope(system);
  keep({entry("a", "1", 1), entry("a", "2", 2), entry("a", "3", 3)});
  EXPECT_EQ(system.renames, 1);
  system.fails = true;
  keep({entry("a", "4", 4)});
  EXPECT_EQ(found({{"card", "a"}}), (Values{1, 2, 3}));
}

TEST_F(CacheFileTest, LeavesWhatAnotherVersionOrProgramWroteUnread) {
  keep({entry("a", "1", 1)});
  EXPECT_TRUE(CacheFile(path_, 4, kMost).find(key("a", "1")).empty());
  folder_.write("quantbench/some.json", R"({"version": 3, "choices": [7, {"card": "a", "shape": "1", "value": 2}]})");
  EXPECT_EQ(found(key("a", "1")), Values{2});
  folder_.write("quantbench/some.json", R"({"version": 3, "choices": 7})");
  EXPECT_EQ(found(key("a", "1")), Values{});
}

}  // namespace
}  // namespace quantbench
