#include "report/database.h"

#include <algorithm>

#include "bench/identity.h"
#include "core/error.h"
#include "core/os.h"

namespace quantbench {
namespace {

// Of SQLite's interface (sqlite.org/c3ref), which keeps its numbers; so no header is needed to build.
constexpr int kOk = 0, kBusy = 5, kRow = 100, kDone = 101;
constexpr int kOpenReadOnly = 1, kOpenReadWrite = 2, kOpenCreate = 4;
constexpr int kBusyTimeout_ms = 60'000;
constexpr std::string_view kFileBegin("SQLite format 3\0", 16);
constexpr int64_t kApplicationId = 0x71626462;  // "qbdb", in the file's header

// Records as they are, and of each what queries ask for, so that they need not take JSON apart.
constexpr const char* kTables = R"(
CREATE TABLE records(
  id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, added_utc TEXT NOT NULL, sweep TEXT NOT NULL, started_utc TEXT,
  model TEXT NOT NULL, weights TEXT, precision TEXT NOT NULL, test TEXT NOT NULL, kind TEXT NOT NULL,
  prompt_tokens INTEGER, new_tokens INTEGER, depth INTEGER, batch INTEGER, device TEXT, engine TEXT, version TEXT,
  git_commit TEXT, imported_from TEXT, status TEXT NOT NULL, stamp TEXT NOT NULL, record TEXT NOT NULL);
CREATE INDEX records_by_sweep ON records(sweep);
CREATE TABLE metrics(
  record_id INTEGER NOT NULL REFERENCES records(id) ON DELETE CASCADE, name TEXT NOT NULL, unit TEXT NOT NULL,
  runs INTEGER NOT NULL, median REAL NOT NULL, low REAL, high REAL, PRIMARY KEY(record_id, name)) WITHOUT ROWID;
CREATE VIEW results AS SELECT r.id, r.sweep, r.started_utc, r.model, r.precision, r.test, r.batch, r.device, r.engine,
  r.stamp, t.median AS tokens_per_second, t.low AS tokens_per_second_low, t.high AS tokens_per_second_high,
  f.median AS time_to_first_token_ns, m.median AS memory_peak_bytes FROM records r
  LEFT JOIN metrics t ON t.record_id = r.id AND t.name =
    CASE r.kind WHEN 'prefill' THEN 'prefill_tokens_per_second' ELSE 'tokens_per_second' END
  LEFT JOIN metrics f ON f.record_id = r.id AND f.name = 'time_to_first_token'
  LEFT JOIN metrics m ON m.record_id = r.id AND m.name = 'memory_peak';)";

struct Sqlite {  // sqlite3
  int unused;
};
struct SqliteStatement {  // sqlite3_stmt
  int unused;
};

struct Api {
  int (*open)(const char*, Sqlite**, int, const char*);
  int (*close)(Sqlite*);
  int (*busy_timeout)(Sqlite*, int);
  int (*exec)(Sqlite*, const char*, int (*)(void*, int, char**, char**), void*, char**);
  const char* (*message)(Sqlite*);
  int64_t (*last_id)(Sqlite*);
  int (*changes)(Sqlite*);
  int (*prepare)(Sqlite*, const char*, int, SqliteStatement**, const char**);
  int (*step)(SqliteStatement*);
  int (*reset)(SqliteStatement*);
  int (*finalize)(SqliteStatement*);
  int (*bind_text)(SqliteStatement*, int, const char*, int, void (*)(void*));
  int (*bind_int64)(SqliteStatement*, int, int64_t);
  int (*bind_double)(SqliteStatement*, int, double);
  int (*bind_null)(SqliteStatement*, int);
  const unsigned char* (*text)(SqliteStatement*, int);
  int (*bytes)(SqliteStatement*, int);
  int64_t (*int64)(SqliteStatement*, int);
};

os::Library open_library() {
  auto library = os::Library::open("libsqlite3.so.0");
  if (!library) {
    fail(ErrorKind::usage,
         "a database takes SQLite, and there is no libsqlite3.so.0 on this machine; install libsqlite3-0 (apt-get "
         "install libsqlite3-0), or keep records in folders");
  }
  return std::move(*library);
}

Api functions_of(const os::Library& library) {
  Api api{};
  const auto find = [&](auto* function, const char* name) {
    *function = library.find<std::remove_pointer_t<std::remove_pointer_t<decltype(function)>>>(name);
    if (*function) return;
    fail(ErrorKind::usage, "{} has no {}; expected SQLite 3.24 or newer (libsqlite3-0)", library.path(), name);
  };
  find(&api.open, "sqlite3_open_v2");
  find(&api.close, "sqlite3_close");
  find(&api.busy_timeout, "sqlite3_busy_timeout");
  find(&api.exec, "sqlite3_exec");
  find(&api.message, "sqlite3_errmsg");
  find(&api.last_id, "sqlite3_last_insert_rowid");
  find(&api.changes, "sqlite3_changes");
  find(&api.prepare, "sqlite3_prepare_v2");
  find(&api.step, "sqlite3_step");
  find(&api.reset, "sqlite3_reset");
  find(&api.finalize, "sqlite3_finalize");
  find(&api.bind_text, "sqlite3_bind_text");
  find(&api.bind_int64, "sqlite3_bind_int64");
  find(&api.bind_double, "sqlite3_bind_double");
  find(&api.bind_null, "sqlite3_bind_null");
  find(&api.text, "sqlite3_column_text");
  find(&api.bytes, "sqlite3_column_bytes");
  find(&api.int64, "sqlite3_column_int64");
  return api;
}

std::string compact(const Record& record) { return record.dump(-1, ' ', false, Record::error_handler_t::replace); }

}  // namespace

class Database::Connection {
 public:
  Connection(std::string path, Access access)
      : path_(std::move(path)), library_(open_library()), api(functions_of(library_)) {
    int status =
        api.open(path_.c_str(), &handle_, kOpenReadWrite | (access == Access::append ? kOpenCreate : 0), nullptr);
    if (status != kOk && access == Access::read) {  // a file, or a folder, that may not be written
      api.close(handle_);
      status = api.open(path_.c_str(), &handle_, kOpenReadOnly, nullptr);
    }
    if (status != kOk) {
      const std::string why = handle_ ? api.message(handle_) : "no memory";
      api.close(handle_);
      fail(ErrorKind::disk, "{}: cannot be opened as a database: {}; expected a folder that may be written to", path_,
           why);
    }
    api.busy_timeout(handle_, kBusyTimeout_ms);
  }
  ~Connection() { api.close(handle_); }
  Connection(const Connection&) = delete;

  void run(const char* sql) {
    const int status = api.exec(handle_, sql, nullptr, nullptr, nullptr);
    if (status != kOk) fail_with(status);
  }
  [[noreturn]] void fail_with(int status) const {
    const std::string why = api.message(handle_);
    if (status == kBusy) {
      fail(ErrorKind::disk, "{}: another process has held the database for {} s; try again when it is done", path_,
           kBusyTimeout_ms / 1000);
    }
    fail(ErrorKind::disk,
         "{}: SQLite says: {}; see that the disk has room and that the file is whole (sqlite3 FILE 'PRAGMA "
         "integrity_check')",
         path_, why);
  }
  int64_t number(const char* sql);
  const std::string& path() const { return path_; }
  Sqlite* handle() const { return handle_; }

 private:
  std::string path_;
  os::Library library_;
  Sqlite* handle_ = nullptr;

 public:
  const Api api;  // of library_
};

namespace {

// One SQL statement with its parameters, to be run as often as is needed.
template <typename Connection>
class Statement {
 public:
  Statement(Connection& connection, const char* sql) : connection_(connection), api_(connection.api) {
    const int status = api_.prepare(connection.handle(), sql, -1, &statement_, nullptr);
    if (status != kOk) connection.fail_with(status);
  }
  ~Statement() { api_.finalize(statement_); }
  Statement(const Statement&) = delete;

  // Texts live until the next step.
  void bind(int at, const std::string& text) {
    check(api_.bind_text(statement_, at, text.data(), static_cast<int>(text.size()), nullptr));
  }
  void bind(int at, int64_t value) { check(api_.bind_int64(statement_, at, value)); }
  void bind(int at, double value) { check(api_.bind_double(statement_, at, value)); }
  void bind(int at, const std::optional<double>& value) {
    check(value ? api_.bind_double(statement_, at, *value) : api_.bind_null(statement_, at));
  }
  void bind_or_null(int at, const Record& j, const char* key) {
    const auto found = j.is_object() ? j.find(key) : j.end();
    if (j.is_object() && found != j.end() && found->is_string())
      bind(at, found->template get_ref<const std::string&>());
    else if (j.is_object() && found != j.end() && found->is_number_integer())
      bind(at, found->template get<int64_t>());
    else
      check(api_.bind_null(statement_, at));
  }
  // Whether there is a row.
  bool step() {
    const int status = api_.step(statement_);
    if (status != kRow && status != kDone) connection_.fail_with(status);
    return status == kRow;
  }
  // From its beginning again, with other parameters.
  void run() {
    step();
    reset();
  }
  void reset() { api_.reset(statement_); }
  std::string text(int column) const {
    const auto* bytes = reinterpret_cast<const char*>(api_.text(statement_, column));
    return bytes ? std::string(bytes, static_cast<size_t>(api_.bytes(statement_, column))) : std::string();
  }
  int64_t number(int column) const { return api_.int64(statement_, column); }

 private:
  void check(int status) const {
    if (status != kOk) connection_.fail_with(status);
  }
  Connection& connection_;
  const Api& api_;
  SqliteStatement* statement_ = nullptr;
};

// Begun at once, so that nothing comes between what it reads and what it writes; undone unless it is committed.
template <typename Connection>
class Transaction {
 public:
  explicit Transaction(Connection& connection) : connection_(connection) { connection_.run("BEGIN IMMEDIATE"); }
  ~Transaction() {
    if (!done_) connection_.api.exec(connection_.handle(), "ROLLBACK", nullptr, nullptr, nullptr);
  }
  Transaction(const Transaction&) = delete;
  void commit() {
    connection_.run("COMMIT");
    done_ = true;
  }

 private:
  Connection& connection_;
  bool done_ = false;
};

}  // namespace

int64_t Database::Connection::number(const char* sql) {
  Statement statement(*this, sql);
  return statement.step() ? statement.number(0) : 0;
}

bool is_database(const std::string& path) {
  const auto status = os::status(path);
  if (!status || !status->is_regular || status->bytes < static_cast<int64_t>(kFileBegin.size())) return false;
  std::string begin(kFileBegin.size(), '\0');
  os::File::open(path).read_at(0, std::as_writable_bytes(std::span(begin)));
  return begin == kFileBegin;
}

std::string sha256_of(const Record& record) {
  const auto imported = record.find("imported");
  if (imported == record.end() || !imported->is_object()) return sha256_hex(compact(record));
  Record same = record;  // the same file again, or a copy of it, is the same record: file_sha256 says which it is
  same["imported"].erase("imported_utc");
  same["imported"].erase("from");
  return sha256_hex(compact(same));
}

Database::Database(const std::string& path, Access access) {
  if (access == Access::read && !is_database(path)) {
    fail(ErrorKind::usage, "{}: {}; expected a database that quantbench run --db has written", path,
         os::exists(path) ? "this is no file of SQLite" : "there is no such file");
  }
  connection_ = std::make_unique<Connection>(path, access);
  Connection& c = *connection_;
  if (access == Access::append) {
    c.run("PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON");
    if (c.number("PRAGMA application_id") == 0) {  // else nothing need be waited for
      Transaction transaction(c);
      if (c.number("SELECT count(*) FROM sqlite_master") == 0 && c.number("PRAGMA application_id") == 0) {
        c.run(
            fmt::format("PRAGMA application_id={}; PRAGMA user_version={}", kApplicationId, kDatabaseVersion).c_str());
        c.run(kTables);
      }
      transaction.commit();
    }
  }
  if (c.number("PRAGMA application_id") != kApplicationId) {
    fail(ErrorKind::usage,
         "{} is another program's database; expected one of quantbench, or a file that is not there yet", path);
  }
  if (const int64_t version = c.number("PRAGMA user_version"); version != kDatabaseVersion) {
    fail(ErrorKind::usage, "{} has tables of version {}, expected {}; use the quantbench that made it", path, version,
         kDatabaseVersion);
  }
}

Database::~Database() = default;

std::string Database::checked(const std::string& path) {
  std::string file = os::expand_home(path);
  const Database database(file, Access::read);
  return file;
}

void Database::add(std::span<const Record> records, const std::string& sweep, std::span<const std::string> replaced) {
  Connection& c = *connection_;
  Transaction transaction(c);
  Statement remove(c, "DELETE FROM records WHERE sha256=?");
  for (const std::string& hash : replaced) {
    remove.bind(1, hash);
    remove.run();
  }
  Statement insert(c,
                   "INSERT INTO records VALUES(NULL,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) "
                   "ON CONFLICT(sha256) DO NOTHING");
  Statement metric(c, "INSERT INTO metrics VALUES(?,?,?,?,?,?,?)");
  const std::string now = os::utc_now();
  for (const Record& record : records) {
    const std::string text = compact(record), hash = sha256_of(record);
    const RecordView v = view_of(record);
    const Record nothing;
    const auto part = [&](const char* key) -> const Record& { return record.contains(key) ? record[key] : nothing; };
    const Record& cell = record.at("cell");
    const std::string precision = with_half(v.precision, v.half), stamp(name_of(v.stamp.kind));
    insert.bind(1, hash);
    insert.bind(2, now);
    insert.bind(3, sweep);
    insert.bind_or_null(4, record, "started_utc");
    insert.bind(5, v.model);
    insert.bind_or_null(6, cell.at("model"), "weights");
    insert.bind(7, precision);
    insert.bind(8, v.test);
    insert.bind(9, v.kind);
    int at = 10;
    for (const char* count : {"prompt_tokens", "new_tokens", "depth", "batch"}) insert.bind_or_null(at++, cell, count);
    insert.bind(14, v.device);
    insert.bind(15, v.engine);
    insert.bind_or_null(16, part("build"), "version");
    insert.bind_or_null(17, part("build"), "git_commit");
    insert.bind_or_null(18, part("imported"), "tool");
    insert.bind(19, v.status);
    insert.bind(20, stamp);
    insert.bind(21, text);
    insert.run();
    if (c.api.changes(c.handle()) == 0) continue;
    const int64_t id = c.api.last_id(c.handle());
    for (const Summary& s : v.metrics) {
      const std::string unit(name_of(s.unit));
      metric.bind(1, id);
      metric.bind(2, s.name);
      metric.bind(3, unit);
      metric.bind(4, int64_t{s.runs});
      metric.bind(5, s.median);
      metric.bind(6, s.low);
      metric.bind(7, s.high);
      metric.run();
    }
  }
  transaction.commit();
}

std::vector<std::string> Database::sweeps() {
  Statement select(*connection_, "SELECT sweep FROM records GROUP BY sweep ORDER BY min(id)");
  std::vector<std::string> all;
  while (select.step()) all.push_back(select.text(0));
  return all;
}

std::vector<int64_t> Database::ids(const std::string& sweep) {
  Statement select(*connection_, "SELECT id FROM records WHERE ?1='' OR sweep=?1 ORDER BY id");
  select.bind(1, sweep);
  std::vector<int64_t> all;
  while (select.step()) all.push_back(select.number(0));
  return all;
}

std::optional<std::string> Database::record_text(int64_t id) {
  Statement select(*connection_, "SELECT record FROM records WHERE id=?");
  select.bind(1, id);
  return select.step() ? std::optional(select.text(0)) : std::nullopt;
}

}  // namespace quantbench
