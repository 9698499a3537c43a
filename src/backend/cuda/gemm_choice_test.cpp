#include "backend/cuda/gemm_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/cuda/cublaslt_file.h"
#include "testing/test_folder.h"

namespace quantbench::cuda {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// --- which file ----------------------------------------------------------------------------------------------------

TEST(CublasLtFile, IsTheFirstThatOpensAndIsAccepted) {
  const std::vector<std::string> names{"/nowhere/libcublasLt.so.13", QB_FAKE_CUBLASLT};
  const auto has_all = [](const os::Library& library) { return library.find<int()>("cublasLtFake") != nullptr; };
  const auto found = open_cublaslt(names, has_all);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->library.find<int()>("cublasLtFake")(), 7);
  const MatrixLibrary library = library_of(found);
  EXPECT_EQ(library.version, "13.2.5");
  EXPECT_EQ(library.path, os::real_path(QB_FAKE_CUBLASLT));
  EXPECT_EQ(library.missing, "");
  EXPECT_FALSE(open_cublaslt(names, [](const os::Library&) { return false; }));
}

TEST(CublasLtFile, WhereThereIsNoneSaysWhereItWasLookedForAndWhatToDo) {
  const std::vector<std::string> names{"/nowhere/libcublasLt.so.13"};
  const MatrixLibrary library = library_of(open_cublaslt(names, [](const os::Library&) { return true; }));
  EXPECT_EQ(library.version, "");
  EXPECT_EQ(library.path, "");
  EXPECT_THAT(library.missing, AllOf(HasSubstr("libcublasLt.so.13 or .12"), HasSubstr("/usr/local/cuda/lib64/"),
                                     HasSubstr("LD_LIBRARY_PATH")));
  EXPECT_THAT(cublaslt_names(), testing::IsSupersetOf({"libcublasLt.so.13", "libcublasLt.so.12",
                                                       "/usr/local/cuda/lib64/libcublasLt.so.12"}));
}

// --- which algorithm -----------------------------------------------------------------------------------------------

const GpuInfo kGpu{.uuid = "GPU-1", .driver = "580.1"};
constexpr const char* kLibrary = "cublaslt 13.0.2";
constexpr GemmShape kLong{.rows = 512, .n = 3072, .k = 2048, .x_stride = 2048, .y_stride = 3072},
    kWide{.int8 = true, .rows = 512, .n = 8192, .k = 2048, .x_stride = 2048, .y_stride = 8192};

// Bytes as a library might have them: any, and none of them text.
std::string algorithm(int id) { return {'\0', '\xff', '"', static_cast<char>(id)}; }

class GemmChoiceTest : public testing::Test {
 protected:
  // Of proposals with these numbers, which take so long each.
  GemmProduct product(const GemmShape& shape, const std::vector<int>& ids, const std::vector<double>& seconds) {
    GemmProduct made{shape, {}, [this, ids, seconds](size_t proposal) {
                       timed.push_back(ids[proposal]);
                       return seconds[proposal];
                     }};
    for (const int id : ids) made.proposals.push_back(algorithm(id));
    return made;
  }
  // The number of the algorithm that is taken.
  int choose(const GemmShape& shape, const std::vector<int>& ids, const std::vector<double>& seconds,
             const GemmCache& cache) {
    const GemmProduct one = product(shape, ids, seconds);
    timed.clear();
    return ids[choose_algorithms({&one, 1}, cache)[0]];
  }

  TestFolder folder_;
  std::string path_ = folder_ / "quantbench/products.json";
  GemmCache cache_{kGpu, kLibrary, path_}, none_{kGpu, kLibrary, std::nullopt};
  std::vector<int> timed;
};

TEST_F(GemmChoiceTest, TheFirstStaysUnlessAnotherIsClearlyFaster) {
  EXPECT_EQ(choose(kLong, {1, 2, 3}, {1.00, 0.98, 0.99}, none_), 1);
  EXPECT_EQ(choose(kLong, {1, 2, 3}, {1.00, 0.90, 0.89}, none_), 2);
  EXPECT_EQ(choose(kLong, {1, 2, 3}, {1.00, 0.90, 0.80}, none_), 3);
  EXPECT_EQ(choose(kLong, {1, 2, 3}, {0, 2.0, 1.99}, none_), 2) << "one that cannot run is no measure";
  EXPECT_EQ(choose(kLong, {1, 2, 3}, {0, 0, 0}, none_), 1);
  EXPECT_THAT(timed, ElementsAre(1, 2, 3));
}

TEST_F(GemmChoiceTest, AnotherProcessTakesTheSameWhateverItWouldMeasure) {
  EXPECT_EQ(choose(kLong, {1, 2, 3}, {1, 0.9, 1}, cache_), 2);
  const GemmCache later(kGpu, kLibrary, path_);
  EXPECT_EQ(choose(kLong, {1, 2, 3}, {1, 1, 0.5}, later), 2);
  EXPECT_THAT(timed, IsEmpty());
  EXPECT_EQ(choose(kLong, {3, 1, 4, 2}, {1, 1, 1, 1}, later), 2) << "by what it is, not by its place";
  EXPECT_THAT(timed, IsEmpty());
}

TEST_F(GemmChoiceTest, WhatIsNoLongerProposedIsChosenAnewAndKeptInItsPlace) {
  choose(kLong, {1, 2, 3}, {1, 0.9, 1}, cache_);
  EXPECT_EQ(choose(kLong, {1, 3}, {1, 0.9}, cache_), 3);
  EXPECT_THAT(timed, ElementsAre(1, 3));
  EXPECT_EQ(choose(kLong, {1, 3}, {1, 1}, cache_), 3);
  EXPECT_THAT(timed, IsEmpty());
}

TEST_F(GemmChoiceTest, IsOfOneCardDriverLibraryAndShape) {
  choose(kLong, {1, 2}, {1, 0.5}, cache_);
  for (const auto& [gpu, library] : {std::pair{GpuInfo{.uuid = "GPU-2", .driver = "580.1"}, kLibrary},
                                     {GpuInfo{.uuid = "GPU-1", .driver = "590.1"}, kLibrary},
                                     {kGpu, "cublaslt 13.0.3"}}) {
    EXPECT_EQ(choose(kLong, {1, 2}, {1, 1}, GemmCache(gpu, library, path_)), 1);
    EXPECT_THAT(timed, ElementsAre(1, 2));
  }
  EXPECT_EQ(choose(kWide, {1, 2}, {1, 1}, cache_), 1);
  for (int GemmShape::*part :
       {&GemmShape::rows, &GemmShape::n, &GemmShape::k, &GemmShape::x_stride, &GemmShape::y_stride}) {
    GemmShape other = kLong;
    other.*part += 8;
    EXPECT_NE(text_of(other), text_of(kLong));
  }
  for (bool GemmShape::*part : {&GemmShape::int8, &GemmShape::add, &GemmShape::biased}) {
    GemmShape other = kLong;
    other.*part = true;
    EXPECT_NE(text_of(other), text_of(kLong));
  }
  EXPECT_EQ(choose(kLong, {1, 2}, {1, 1}, cache_), 2) << "and the first is still there";
}

TEST_F(GemmChoiceTest, AllOfAStartAreOneWriteAndWhatCannotRunIsNotKept) {
  struct Counting : os::System {
    int rename(const char* from, const char* to) override { return ++renames, System::rename(from, to); }
    int renames = 0;
  } system;
  const os::ScopedSystem scope(system);
  const std::vector<GemmProduct> products{product(kLong, {1, 2}, {1, 0.5}), product(kWide, {5, 6}, {0, 0})};
  EXPECT_THAT(choose_algorithms(products, cache_), ElementsAre(1, 0));
  EXPECT_EQ(system.renames, 1);
  EXPECT_EQ(cache_.find().size(), 1u);
  timed.clear();
  EXPECT_THAT(choose_algorithms({products.data(), 1}, cache_), ElementsAre(1));
  EXPECT_EQ(system.renames, 1) << "nothing is new";
  EXPECT_THAT(timed, IsEmpty());
}

TEST_F(GemmChoiceTest, AFileThatIsNotItsOwnIsReplacedAndOneThatCannotBeWrittenIsNoError) {
  for (const char* text : {"", "{", R"({"version": 1, "choices": [3]})", "\xff"}) {
    folder_.write("quantbench/products.json", text);
    EXPECT_EQ(choose(kLong, {1, 2}, {1, 0.5}, cache_), 2);
    EXPECT_EQ(choose(kLong, {1, 2}, {1, 1}, cache_), 2) << text;
  }
  // Under the right key, and no algorithm.
  std::string whole = os::read_file(path_, 1 << 20);
  const size_t at = whole.find("\"00ff22");
  ASSERT_NE(at, std::string::npos);
  for (const char* value : {"7", "\"xyz\"", "{}"}) {
    folder_.write("quantbench/products.json", std::string(whole).replace(at, 10, value));
    EXPECT_EQ(choose(kLong, {1, 2}, {1, 1}, cache_), 1) << value;
    EXPECT_THAT(timed, ElementsAre(1, 2));
  }
  const GemmCache nowhere(kGpu, kLibrary, folder_.write("file", "") + "/products.json");
  EXPECT_EQ(choose(kLong, {1, 2}, {1, 0.5}, nowhere), 2);
  EXPECT_EQ(choose(kLong, {1, 2}, {1, 0.5}, GemmCache({}, kLibrary, path_)), 2) << "a card that is not known";
}

TEST_F(GemmChoiceTest, AFullFileCanStillBeRead) {
  std::vector<std::pair<GemmShape, std::string>> all;
  for (size_t i = 0; i < GemmCache::kMostProducts + 3; ++i) {
    GemmShape shape = kLong;
    shape.add = shape.biased = true;
    shape.rows += static_cast<int>(i);
    all.emplace_back(shape, std::string(64, '\x7f'));  // as large as cuBLASLt's
  }
  cache_.keep(all);
  const auto found = cache_.find();
  EXPECT_EQ(found.size(), GemmCache::kMostProducts);
  EXPECT_FALSE(found.contains(text_of(all[2].first)));
  EXPECT_TRUE(found.contains(text_of(all[3].first)));
}

}  // namespace
}  // namespace quantbench::cuda
