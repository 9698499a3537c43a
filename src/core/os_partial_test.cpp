#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>

#include "core/os.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

using testing::HasSubstr;

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

// Fails every call of one kind.
struct FailingCalls final : os::System {
  enum class Call { none, pwrite, truncate, fsync, close, rename, symlink, lock, open } call = Call::none;
  int error = ENOSPC;
  int open(const char* path, int flags, unsigned mode) override {
    return call == Call::open ? (errno = error, -1) : System::open(path, flags, mode);
  }
  ssize_t pwrite(int fd, const void* data, size_t count, int64_t offset) override {
    return call == Call::pwrite ? (errno = error, -1) : System::pwrite(fd, data, count, offset);
  }
  int truncate(int fd, int64_t count) override {
    return call == Call::truncate ? (errno = error, -1) : System::truncate(fd, count);
  }
  int fsync(int fd) override { return call == Call::fsync ? (errno = error, -1) : System::fsync(fd); }
  int close(int fd) override {
    System::close(fd);
    return call == Call::close ? (errno = error, -1) : 0;
  }
  int rename(const char* from, const char* to) override {
    return call == Call::rename ? (errno = error, -1) : System::rename(from, to);
  }
  int symlink(const char* target, const char* path) override {
    return call == Call::symlink ? (errno = error, -1) : System::symlink(target, path);
  }
  int lock(int fd) override { return call == Call::lock ? (errno = error, -1) : System::lock(fd); }
};

TEST(PartialFile, IsGoneOnWithByTheNextThatOpensIt) {
  const TestFolder folder;
  const std::string path = folder / "part", whole = folder / "whole";
  {
    os::PartialFile file(path);
    EXPECT_EQ(file.bytes(), 0);
    file.append(bytes("abc"));
  }
  os::PartialFile file(path);
  EXPECT_EQ(file.bytes(), 3);
  file.append(bytes("def"));
  std::string read(4, ' ');
  file.read_at(1, std::as_writable_bytes(std::span(read)));
  EXPECT_EQ(read, "bcde");
  file.commit(whole);
  EXPECT_EQ(os::read_file(whole, 100), "abcdef");
  EXPECT_FALSE(os::exists(path));
}

TEST(PartialFile, WhatFailsIsSaidAndWhatIsThereStays) {
  const TestFolder folder;
  const std::string path = folder / "part", whole = folder.write("whole", "old");
  using Call = FailingCalls::Call;
  for (const Call call : {Call::open, Call::pwrite, Call::truncate, Call::fsync, Call::close, Call::rename}) {
    folder.write("part", "abc");
    FailingCalls failing;
    failing.call = call;
    const os::ScopedSystem scope(failing);
    EXPECT_THAT(refusal(
                    [&] {
                      os::PartialFile file(path);
                      file.append(bytes("def"));
                      if (call == Call::truncate) file.clear();
                      file.commit(whole);
                    },
                    ErrorKind::disk),
                HasSubstr("No space left"));
    failing.call = Call::none;
    EXPECT_EQ(os::read_file(path, 100), call == Call::open || call == Call::pwrite ? "abc" : "abcdef");
    EXPECT_EQ(os::read_file(whole, 100), "old");
  }
}

TEST(PartialFile, IsNoLinkAndNoSpecialFile) {
  const TestFolder folder;
  const std::string victim = folder.write("victim", "precious"), path = folder / "part";
  std::filesystem::create_symlink(victim, path);
  EXPECT_THAT(refusal([&] { os::PartialFile file(path); }, ErrorKind::disk), HasSubstr(path));
  EXPECT_THAT(refusal([&] { os::PartialFile file(folder.path()); }, ErrorKind::disk), HasSubstr(folder.path()));
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  EXPECT_THAT(refusal([&] { os::PartialFile file(folder / "fifo"); }, ErrorKind::disk), HasSubstr("fifo"));
  EXPECT_EQ(os::read_file(victim, 100), "precious");
}

TEST(FileLock, IsForOneAtATime) {
  const TestFolder folder;
  const std::string path = folder / "lock";
  {
    const os::FileLock first(path);
    EXPECT_EQ(first.state(), os::FileLock::State::taken);
    EXPECT_EQ(os::FileLock(path).state(), os::FileLock::State::busy);
  }
  EXPECT_EQ(os::FileLock(path).state(), os::FileLock::State::taken);
  EXPECT_EQ(os::FileLock(folder / "none/lock").state(), os::FileLock::State::impossible);
  FailingCalls failing;
  failing.call = FailingCalls::Call::lock;
  failing.error = ENOLCK;
  const os::ScopedSystem scope(failing);
  EXPECT_EQ(os::FileLock(path).state(), os::FileLock::State::impossible);
}

TEST(WriteLink, ReplacesWhatIsThereAsAWhole) {
  const TestFolder folder;
  const std::string path = folder.write("link", "a file");
  os::write_link("../a", path);
  os::write_link("../b", path);
  EXPECT_EQ(std::filesystem::read_symlink(path), "../b");
  for (const auto call : {FailingCalls::Call::symlink, FailingCalls::Call::rename}) {
    FailingCalls failing;
    failing.call = call;
    const os::ScopedSystem scope(failing);
    EXPECT_THAT(refusal([&] { os::write_link("../c", path); }, ErrorKind::disk), HasSubstr(path));
    EXPECT_EQ(std::filesystem::read_symlink(path), "../b");
    EXPECT_THAT(os::list_directory(folder.path()), testing::ElementsAre("link"));
  }
}

}  // namespace
}  // namespace quantbench
