#include "report/database.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <sstream>
#include <utility>

#include "core/error.h"
#include "core/os.h"
#include "report/read_records.h"
#include "report/test_record.h"
#include "testing/test_folder.h"

namespace quantbench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class Databases : public testing::Test {
 protected:
  void SetUp() override {
    if (!os::Library::open("libsqlite3.so.0")) GTEST_SKIP() << "there is no libsqlite3.so.0 here (libsqlite3-0)";
  }
  std::string refusal(const std::string& path, Database::Access access) const {
    try {
      const Database database(path, access);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage) << error.what();
      return error.what();
    }
    return "none";
  }
  TestFolder folder_;
  const std::string path_ = folder_ / "results.sqlite";
};

TEST_F(Databases, GiveBackTheRecordsOfASweepOnceAndInOrder) {
  const std::vector<Record> first{test_record({}), test_record({.precision = "int8"})},
      second{test_record({.rate = 90}), first[0]};
  {
    Database database(path_, Database::Access::append);
    database.add(first, "base");
  }
  Database(path_, Database::Access::append).add(second, "new");  // of which one is there already
  const std::vector<std::string> paths{path_};
  const FoundRecords all = read_records(paths);
  EXPECT_THAT(all.records, ElementsAre(first[0], first[1], second[0]));
  EXPECT_EQ(all.paths[2], path_ + ", record 3");
  EXPECT_THAT(read_records(paths, "base").records, ElementsAre(first[0], first[1]));
  EXPECT_THAT(read_records(paths, "new").records, ElementsAre(second[0]));
  EXPECT_THAT(Database(path_, Database::Access::read).sweeps(), ElementsAre("base", "new"));
  try {
    read_records(paths, "other");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("there are: base, new"));
  }
}

TEST_F(Databases, HaveAnImportThatIsImportedAgainOnce) {
  Record record = test_record({});
  record["imported"] = {
      {"tool", "another"}, {"from", "a.json"}, {"file_sha256", "1"}, {"imported_utc", "2026-01-01T00:00:00Z"}};
  Record again = record, of_another = record;
  again["imported"]["imported_utc"] = "2026-02-01T00:00:00Z";
  again["imported"]["from"] = "a copy.json";
  of_another["imported"]["file_sha256"] = "2";
  Database database(path_, Database::Access::append);
  for (const Record& r : {record, again, of_another}) database.add(std::vector{r}, "imported");
  EXPECT_THAT(database.ids(""), SizeIs(2));
}

TEST_F(Databases, PutARecordInThePlaceOfAnother) {
  const std::vector<Record> failed{test_record({.status = "failed"})}, ok{test_record({})};
  Database database(path_, Database::Access::append);
  database.add(failed, "sweep");
  database.add(ok, "sweep", std::vector{sha256_of(failed[0])});
  EXPECT_THAT(read_records(std::vector{path_}).records, ElementsAre(ok[0]));
}

TEST_F(Databases, KeepAllOrNoneOfWhatIsAdded) {
  Database database(path_, Database::Access::append);
  Record damaged = test_record({});
  damaged["cell"].erase("test");
  const std::vector<Record> records{test_record({}), damaged};
  EXPECT_ANY_THROW(database.add(records, "sweep"));
  EXPECT_THAT(database.ids(""), IsEmpty());
  database.add(std::span(records).first(1), "sweep");
  EXPECT_THAT(database.ids(""), SizeIs(1));
}

TEST_F(Databases, OfOtherProgramsAndVersionsAreLeftAlone) {
  EXPECT_THAT(refusal(path_, Database::Access::read), HasSubstr("no such file"));
  folder_.write("text", "a text that is longer than what a file of SQLite begins with");
  EXPECT_THAT(refusal(folder_ / "text", Database::Access::read), HasSubstr("no file of SQLite"));
  { const Database database(path_, Database::Access::append); }
  std::string bytes = os::read_file(path_, 1 << 20);
  // Where SQLite keeps user_version and application_id, sqlite.org/fileformat2.html#the_database_header.
  std::string newer = bytes, others = bytes;
  newer[63] = 2;
  others[68] = 0x11;
  folder_.write("newer", newer);
  folder_.write("others", others);
  for (const auto access : {Database::Access::read, Database::Access::append}) {
    EXPECT_THAT(refusal(folder_ / "newer", access), HasSubstr("version 2, expected 1"));
    EXPECT_THAT(refusal(folder_ / "others", access), HasSubstr("another program's database"));
  }
  EXPECT_EQ(os::read_file(folder_ / "others", 1 << 20), others);
}

// What SQLite itself says: the first column of every row, or what is wrong with the statement.
std::string answer(const std::string& path, const std::string& statement) {
  const auto library = os::Library::open("libsqlite3.so.0");
  const auto open = library->find<int(const char*, void**)>("sqlite3_open");
  const auto close = library->find<int(void*)>("sqlite3_close");
  const auto exec =
      library->find<int(void*, const char*, int (*)(void*, int, char**, char**), void*, char**)>("sqlite3_exec");
  void* handle = nullptr;
  const auto message = library->find<const char*(void*)>("sqlite3_errmsg");
  std::string said;
  open(path.c_str(), &handle);
  const int failed = exec(
      handle, statement.c_str(),
      [](void* text, int, char** columns, char**) {
        static_cast<std::string*>(text)->append(columns[0] ? columns[0] : "NULL");
        return 0;
      },
      &said, nullptr);
  if (failed != 0) said = message(handle);
  close(handle);
  return said;
}

// Every statement of docs/database.md: of its blocks, and the one for sqlite3 in quotation marks.
std::vector<std::string> documented_statements() {
  std::istringstream text(os::read_file(QB_SOURCE_DIR "/docs/database.md", 1 << 20));
  std::vector<std::string> statements;
  std::string statement;
  for (std::string line; std::getline(text, line);) {
    if (!line.starts_with("    ")) {
      EXPECT_EQ(statement, "") << "a block ends within a statement";
      continue;
    }
    line.erase(0, 4);
    if (line.starts_with("quantbench ") || line.starts_with("--")) continue;
    if (line.starts_with("sqlite3 ")) {
      const size_t from = line.find('"') + 1;
      statements.push_back(line.substr(from, line.rfind('"') - from));
      continue;
    }
    statement += line + "\n";
    if (line.ends_with(";")) statements.push_back(std::exchange(statement, ""));
  }
  return statements;
}

TEST_F(Databases, AnswerWhatTheirDocumentationAsks) {
  Record record = test_record({.model = "bundled", .precision = "4bit", .test = "p14+n64"});
  record["started_utc"] = "2026-01-01T00:00:00Z";
  record["metrics"]["total_latency"] = test_metric("ns", "lower", {7, 8, 9});
  Database(path_, Database::Access::append).add(std::vector{record}, "sweep");
  std::vector<std::string> answers;
  for (const std::string& statement : documented_statements()) answers.push_back(answer(path_, statement));
  EXPECT_THAT(answers, ElementsAre("1", "2026-01-01T00:00:00Z", "7.08.09.0"));
  EXPECT_EQ(answer(path_, "PRAGMA user_version"), "1");
  EXPECT_EQ(answer(path_, "PRAGMA application_id"), std::to_string(0x71626462));
}

Record numbered(int writer, int number) {
  return test_record({.model = fmt::format("writer{}/record{}", writer, number)});
}

// A process that adds records one after another, and says of each that it is there.
struct Writer {
  pid_t pid = -1;
  int from = -1;
};
Writer start_writer(const std::string& path, int number, int records) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t pid = fork();
  if (pid == 0) {
    int status = 0;
    try {
      Database database(path, Database::Access::append);
      for (int i = 0; i < records; ++i) {
        database.add(std::vector{numbered(number, i)}, "sweep");
        if (write(ends[1], "x", 1) != 1) status = 2;
      }
    } catch (const Error&) {
      status = 1;
    }
    _exit(status);
  }
  close(ends[1]);
  return {pid, ends[0]};
}
// How many it had said to be there by the time that it ended.
int reported_by(const Writer& writer, int* status) {
  char byte;
  int count = 0;
  while (read(writer.from, &byte, 1) == 1) ++count;
  close(writer.from);
  waitpid(writer.pid, status, 0);
  return count;
}

TEST_F(Databases, HaveWhatWasReportedWhoeverWritesAndIsKilled) {
  constexpr int kWriters = 4, kRecords = 25, kRounds = 4;
  std::map<std::string, int> reported;
  int killed = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<Writer> writers;
    for (int w = 0; w < kWriters; ++w) writers.push_back(start_writer(path_, round * kWriters + w, kRecords));
    char byte;
    int early = 0;
    for (; early < 2 + round; ++early) ASSERT_EQ(read(writers[0].from, &byte, 1), 1);
    usleep(500 * static_cast<unsigned>(round));  // at another place of a transaction each time
    kill(writers[0].pid, SIGKILL);
    for (int w = 0; w < kWriters; ++w) {
      int status = 0;
      const int count = reported_by(writers[static_cast<size_t>(w)], &status) + (w == 0 ? early : 0);
      if (w == 0) {
        killed += WIFSIGNALED(status);
      } else {
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        EXPECT_EQ(count, kRecords);
      }
      for (int i = 0; i < count; ++i) ++reported[sha256_of(numbered(round * kWriters + w, i))];
    }
  }
  EXPECT_EQ(killed, kRounds);
  std::map<std::string, int> there;
  for (const Record& record : read_records(std::vector{path_}).records) ++there[sha256_of(record)];
  for (const auto& [hash, count] : there) EXPECT_EQ(count, 1);
  for (const auto& [hash, count] : reported) EXPECT_EQ(there.count(hash), 1u);
  // Of one that was killed, what it was writing may have been finished and not reported yet.
  EXPECT_LE(there.size(), reported.size() + kRounds);
  EXPECT_EQ(answer(path_, "PRAGMA integrity_check; PRAGMA foreign_key_check"), "ok");
}

}  // namespace
}  // namespace quantbench
