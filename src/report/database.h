// A history of records in one file of SQLite, for other programs to query: docs/database.md has its tables. The
// system's library is opened when it is needed; a program without it does everything else.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bench/record.h"

namespace quantbench {

constexpr int kDatabaseVersion = 1;  // of the tables; what is there is never changed within a version

// Whether a file begins as files of SQLite do; false of one that is not there.
bool is_database(const std::string& path);

// SHA-256 of a record as the database has it: the same record is there once.
std::string sha256_of(const Record& record);

// For one thread. Other processes may read and write the same file meanwhile: a transaction waits for theirs, for a
// minute at the most. What a process that is killed had not finished is undone by the next one that opens the file.
// Error usage where the library or the file is missing, or the file is another program's or of another version; else
// Error disk.
class Database {
 public:
  enum class Access : uint8_t { read, append };
  Database(const std::string& path, Access access);  // append: makes it where it is missing
  ~Database();
  Database(const Database&) = delete;
  // The file's path, of one that can be read.
  static std::string checked(const std::string& path);

  // All of them or none, and in their place no longer those whose hashes are `replaced`. One that is there already
  // stays as it is. `sweep`: what they were measured in, the last part of its folder's name.
  void add(std::span<const Record> records, const std::string& sweep, std::span<const std::string> replaced = {});

  std::vector<std::string> sweeps();                   // each once, in order of their first records
  std::vector<int64_t> ids(const std::string& sweep);  // in the order in which they came; empty name: of all sweeps
  std::optional<std::string> record_text(int64_t id);  // JSON; nothing where it is gone

 private:
  class Connection;
  std::unique_ptr<Connection> connection_;
};

}  // namespace quantbench
