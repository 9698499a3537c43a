// Child processes and stop signals: the second half of core/os.h.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/os.h"

extern char** environ;

namespace quantbench::os {
namespace {

std::atomic<int64_t> first_stop_ns{0};  // 0: none yet

// One request may come as several signals: timeout(1) sends one to its child and one to the child's group.
constexpr int64_t kSameRequest_ns = 500'000'000;

void on_stop_signal(int signal) {
  const int64_t now_ns = steady_now_ns();
  int64_t first_ns = 0;
  if (first_stop_ns.compare_exchange_strong(first_ns, now_ns) || now_ns - first_ns < kSameRequest_ns) return;
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

[[noreturn]] void fail_to_start(const std::string& doing, int error) {
  const bool files = error == EMFILE || error == ENFILE;
  fail(ErrorKind::internal, "cannot {}: {}; {}", doing, std::strerror(error),
       files ? kMoreOpenFiles : "end other processes or free memory, and try again");
}

sigset_t stop_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&signals, signal);
  return signals;
}

void close_if_open(int* fd) {
  if (*fd >= 0) ::close(*fd);
  *fd = -1;
}

}  // namespace

void catch_stop_signals() {
  struct sigaction action;
  std::memset(&action, 0, sizeof action);
  action.sa_handler = on_stop_signal;
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  // A terminal that is closed stops us too, unless nohup said that it must not.
  struct sigaction hangup;
  ::sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler != SIG_IGN) ::sigaction(SIGHUP, &action, nullptr);
  const sigset_t signals = stop_signals();  // which our parent may have blocked, as Process does
  ::pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

void let_large_files_fail() { ::signal(SIGXFSZ, SIG_IGN); }

std::optional<std::string> read_input_line() {
  static std::string buffer;  // what was read beyond the last line; standard input has one reader
  while (true) {
    const size_t end = buffer.find('\n');
    if (end != std::string::npos) {
      std::string line = buffer.substr(0, end);
      buffer.erase(0, end + 1);
      return line;
    }
    char part[65536];
    const ssize_t n = system().read(STDIN_FILENO, part, sizeof part);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return std::nullopt;
    buffer.append(part, static_cast<size_t>(n));
  }
}

void write_output(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = system().write(STDOUT_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      fail(ErrorKind::disk, "cannot write to standard output: {}; {} bytes were left",
           std::strerror(n == 0 ? EIO : errno), text.size());
    }
    text.remove_prefix(static_cast<size_t>(n));
  }
}

bool is_terminal(int fd) { return ::isatty(fd) == 1; }

int terminal_columns(int fd) {
  constexpr int kUsual = 80;
  winsize size{};
  return ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : kUsual;
}

void end_with_parent() {
  const pid_t parent = ::getppid();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(exit_code(ErrorKind::interrupted));  // it ended before the line above
}

bool stop_requested() { return first_stop_ns.load() != 0; }

std::string Process::Exit::describe() const {
  if (signal != 0) return fmt::format("signal {} ({})", signal, ::strsignal(signal));
  return fmt::format("exit code {}", code);
}

Process::Process(const std::string& program, const std::vector<std::string>& arguments,
                 const std::map<std::string, std::string>& extra_environment) {
  int input[2], output[2];
  if (::pipe2(input, O_CLOEXEC) != 0) fail_to_start("open a pipe", errno);
  if (::pipe2(output, O_CLOEXEC) != 0) {
    const int error = errno;
    ::close(input[0]);
    ::close(input[1]);
    fail_to_start("open a pipe", error);
  }
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  std::vector<std::string> variables;
  for (const auto& [name, value] : extra_environment) variables.push_back(name + "=" + value);
  for (char** variable = environ; *variable; ++variable) {
    const std::string text = *variable;
    if (!extra_environment.contains(text.substr(0, text.find('=')))) variables.push_back(text);
  }
  std::vector<char*> envp;
  for (std::string& variable : variables) envp.push_back(variable.data());
  envp.push_back(nullptr);

  // Blocked signals stay blocked across exec, so they do not end the child from its first instruction on; this process
  // goes on to hear them.
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  const sigset_t signals = stop_signals();
  ::posix_spawnattr_setsigmask(&attributes, &signals);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, input[0], STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, output[1], STDOUT_FILENO);
  const int result = ::posix_spawn(&pid_, program.c_str(), &actions, &attributes, argv.data(), envp.data());
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  ::signal(SIGPIPE, SIG_IGN);  // a dead child is reported by write_line(), not by a signal
  ::close(input[0]);
  ::close(output[1]);
  to_child_ = input[1];
  from_child_ = output[0];
  if (result != 0) {
    pid_ = -1;
    close_if_open(&to_child_);
    close_if_open(&from_child_);
    fail_to_start(fmt::format("start '{}'", program), result);
  }
}

Process::Process(Process&& other) noexcept { *this = std::move(other); }
Process& Process::operator=(Process&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(to_child_, other.to_child_);
  std::swap(from_child_, other.from_child_);
  std::swap(buffer_, other.buffer_);
  std::swap(exit_, other.exit_);
  return *this;
}
Process::~Process() {
  if (pid_ > 0 && !exit_) {
    kill();
    wait();
  }
  close_if_open(&to_child_);
  close_if_open(&from_child_);
}

bool Process::write_line(std::string_view line) {
  std::string text(line);
  text.push_back('\n');
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(to_child_, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

Process::Got Process::read_line(std::string* line, int64_t timeout_ns) {
  const int64_t deadline_ns = timeout_ns < 0 ? -1 : steady_now_ns() + timeout_ns;
  while (true) {
    const size_t end = buffer_.find('\n');
    if (end != std::string::npos) {
      *line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return Got::line;
    }
    if (stop_requested()) return Got::interrupted;
    constexpr int kPollMs = 100;  // how soon a stop signal is seen
    int wait_ms = kPollMs;
    if (deadline_ns >= 0) {
      const int64_t left_ms = (deadline_ns - steady_now_ns()) / 1'000'000;
      if (left_ms <= 0) return Got::timeout;
      if (left_ms < wait_ms) wait_ms = static_cast<int>(left_ms);
    }
    pollfd waiting{from_child_, POLLIN, 0};
    if (::poll(&waiting, 1, wait_ms) <= 0) continue;
    char part[65536];
    const ssize_t n = ::read(from_child_, part, sizeof part);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return Got::end;
    buffer_.append(part, static_cast<size_t>(n));
  }
}

void Process::close_input() { close_if_open(&to_child_); }
void Process::kill() {
  if (pid_ > 0 && !exit_) ::kill(pid_, SIGKILL);
}
Process::Exit Process::wait() {
  if (exit_) return *exit_;
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  Exit result;
  if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  exit_ = result;
  return result;
}

}  // namespace quantbench::os
