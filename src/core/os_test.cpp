#include "core/os.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace quantbench {
namespace {

class Os : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/quantbench_os_test_XXXXXX";
    folder_ = ::mkdtemp(name);
  }
  void TearDown() override {
    for (const std::string& name : os::list_directory(folder_)) os::system().unlink((folder_ + "/" + name).c_str());
    ::rmdir(folder_.c_str());
  }
  std::string folder_;
};

// Fails the nth call of one kind.
struct FailingSystem : os::System {
  enum class Call { none, write, fsync, close, rename, map } call = Call::none;
  int error = ENOSPC, countdown = 1;
  bool fails(Call which) {
    if (which != call || --countdown != 0) return false;
    errno = error;
    return true;
  }
  ssize_t write(int fd, const void* data, size_t bytes) override {
    return fails(Call::write) ? -1 : System::write(fd, data, bytes);
  }
  int fsync(int fd) override { return fails(Call::fsync) ? -1 : System::fsync(fd); }
  int close(int fd) override {
    if (!fails(Call::close)) return System::close(fd);
    System::close(fd);
    errno = error;
    return -1;
  }
  int rename(const char* from, const char* to) override { return fails(Call::rename) ? -1 : System::rename(from, to); }
  int rename_new(const char* from, const char* to) override {
    return fails(Call::rename) ? -1 : System::rename_new(from, to);
  }
  void* map(size_t bytes) override { return fails(Call::map) ? nullptr : System::map(bytes); }
};

TEST_F(Os, AFileIsReplacedWholeOrNotAtAll) {
  const std::string path = folder_ + "/record.json";
  os::write_file_atomically(path, "old");
  using Call = FailingSystem::Call;
  for (Call call : {Call::write, Call::fsync, Call::close, Call::rename}) {
    FailingSystem failing;
    failing.call = call;
    const os::ScopedSystem scope(failing);
    try {
      os::write_file_atomically(path, "new");
      FAIL() << "the failure was not noticed";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::disk);
      EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr(path), testing::HasSubstr("No space left")));
    }
    EXPECT_EQ(os::read_file(path, 100), "old");
    EXPECT_THAT(os::list_directory(folder_), testing::ElementsAre("record.json")) << "a temporary file was left";
  }
  os::write_file_atomically(path, "new");
  EXPECT_EQ(os::read_file(path, 100), "new");
}

TEST_F(Os, ANewFileReplacesNothing) {
  const std::string path = folder_ + "/record.json";
  EXPECT_TRUE(os::write_new_file_atomically(path, "first"));
  EXPECT_FALSE(os::write_new_file_atomically(path, "second"));
  EXPECT_EQ(os::read_file(path, 100), "first");
  EXPECT_THAT(os::list_directory(folder_), testing::ElementsAre("record.json")) << "a temporary file was left";
}

TEST_F(Os, AnOutputFolderGoesAgainUnlessItIsKept) {
  const std::string outer = folder_ + "/a", inner = folder_ + "/a/b";
  {
    const os::OutputFolder folder(inner);
    EXPECT_TRUE(os::is_directory(inner));
    EXPECT_THROW(os::OutputFolder second(inner), Error) << "one process at a time";
    EXPECT_TRUE(os::is_directory(inner)) << "the second did not make it";
  }
  EXPECT_FALSE(os::exists(outer));
  os::make_directories(outer);
  { const os::OutputFolder folder(inner); }
  EXPECT_TRUE(os::is_directory(outer)) << "it was there before";
  EXPECT_FALSE(os::exists(inner));
  os::OutputFolder(inner).keep();
  EXPECT_TRUE(os::is_directory(inner));
  ::rmdir(inner.c_str()), ::rmdir(outer.c_str());
}

TEST_F(Os, AFileInTheWayOfAFolderIsSaid) {
  os::write_file_atomically(folder_ + "/file", "");
  try {
    os::make_directories(folder_ + "/file/out");
    FAIL() << "made";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("a part of this path is a file"));
  }
}

TEST_F(Os, ReadingPastTheEndNamesTheFigures) {
  const std::string path = folder_ + "/short";
  os::write_file_atomically(path, "12345");
  const os::File file = os::File::open(path);
  std::byte bytes[4];
  file.read_at(1, bytes);
  EXPECT_EQ(static_cast<char>(bytes[3]), '5');
  try {
    file.read_at(3, bytes);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("expected 4 bytes from offset 3, found 2"));
  }
}

TEST_F(Os, RefusesFoldersMissingFilesAndFilesTooLarge) {
  EXPECT_THROW(os::File::open(folder_), Error);
  EXPECT_THROW(os::File::open(folder_ + "/none"), Error);
  os::write_file_atomically(folder_ + "/f", "12345");
  EXPECT_THROW(os::read_file(folder_ + "/f", 4), Error);
}

TEST_F(Os, MemoryThatIsRefusedIsAnErrorWithTheFigure) {
  FailingSystem failing;
  failing.call = FailingSystem::Call::map;
  failing.error = ENOMEM;
  const os::ScopedSystem scope(failing);
  try {
    os::Block block(size_t{3} << 30);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::out_of_memory);
    EXPECT_THAT(error.what(), testing::HasSubstr("3.00 GiB"));
  }
}

TEST_F(Os, ABlockIsZeroedAndMovable) {
  os::Block block(5 << 20);
  EXPECT_EQ(block.data()[(5 << 20) - 1], std::byte{0});
  os::Block other = std::move(block);
  EXPECT_EQ(block.data(), nullptr);  // NOLINT(bugprone-use-after-move): what is left behind is the claim
  EXPECT_EQ(other.bytes(), size_t{5} << 20);
}

TEST(OsLibrary, FindsFunctionsByNameAndMissesNothingAloud) {
  const auto library = os::Library::open("libm.so.6");
  ASSERT_TRUE(library);
  auto* const square_root = library->find<double(double)>("sqrt");
  ASSERT_TRUE(square_root);
  EXPECT_EQ(square_root(9), 3);
  EXPECT_EQ(library->find<void()>("no_such_function"), nullptr);
  EXPECT_FALSE(os::Library::open("libno-such-thing.so.1"));
}

TEST(OsBuildId, NamesThisProgramInHex) {
  const std::string id = os::build_id();
  EXPECT_THAT(id, testing::MatchesRegex("[0-9a-f]+"));
  EXPECT_EQ(id.size(), 40u) << "SHA-1";
  EXPECT_EQ(os::build_id(), id);
}

TEST(OsProcess, TalksInLinesAndReportsTheEnd) {
  os::Process child("/bin/sh", {"-c", "read line; echo \"got $line $QB_TEST\"; exit 3"}, {{"QB_TEST", "value"}});
  ASSERT_TRUE(child.write_line("hello"));
  std::string line;
  ASSERT_EQ(child.read_line(&line, 10'000'000'000), os::Process::Got::line);
  EXPECT_EQ(line, "got hello value");
  EXPECT_EQ(child.read_line(&line, 10'000'000'000), os::Process::Got::end);
  EXPECT_EQ(child.wait().describe(), "exit code 3");
}

TEST(OsProcess, TheChildOutlivesWhatStopsTheParent) {
  for (const char* name : {"INT", "TERM", "HUP"}) {
    os::Process child("/bin/sh", {"-c", fmt::format("kill -{} $$; echo alive", name)});
    std::string line;
    ASSERT_EQ(child.read_line(&line), os::Process::Got::line) << name;
    EXPECT_EQ(line, "alive") << name;
    child.wait();
  }
}

std::atomic<int> heard{0};

// One signal after the other, while children are started one after the other: each must be heard.
TEST(OsProcess, NoSignalIsLostWhileAChildIsStarted) {
  struct sigaction action {
  }, old{};
  action.sa_handler = [](int) { ++heard; };
  ::sigaction(SIGTERM, &action, &old);
  std::atomic<bool> ends{false};
  int lost = 0;
  std::thread sender([&] {
    for (int sent = 1; sent <= 200; ++sent) {
      ::kill(::getpid(), SIGTERM);
      for (int waited = 0; heard < sent - lost && waited < 500; ++waited) ::usleep(1000);
      if (heard < sent - lost) ++lost;
    }
    ends = true;
  });
  while (!ends) os::Process("/bin/true", {}).wait();
  sender.join();
  ::sigaction(SIGTERM, &old, nullptr);
  EXPECT_EQ(lost, 0);
}

TEST(OsProcess, TimesOutAndReportsASignal) {
  os::Process child("/bin/sh", {"-c", "exec sleep 100"});
  std::string line;
  EXPECT_EQ(child.read_line(&line, 20'000'000), os::Process::Got::timeout);
  child.kill();
  EXPECT_EQ(child.wait().signal, 9);
}

TEST(OsProcess, AProgramThatIsNotThereIsAnError) { EXPECT_THROW(os::Process("/no/such/program", {}), Error); }

}  // namespace
}  // namespace quantbench
