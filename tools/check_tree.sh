#!/usr/bin/env bash
# Checks what no compiler checks: the direction of includes, the names that may not appear in model/, and that all I/O
# goes through core/os.h (docs/architecture.md). Prints file:line and the rule for each violation; status 1 if any.
#
#   tools/check_tree.sh [ROOT]       ROOT: the folder that holds src/, by default this project's
#   tools/check_tree.sh --self-test  plants one violation of each rule in a copy and sees that it is found
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

check() {
  cd "$1"
  local files
  mapfile -t files < <(find src -name '*.h' -o -name '*.hpp' -o -name '*.cpp' -o -name '*.cc' -o -name '*.inc' -o -name '*.cu' -o \
                                  -name '*.cuh' | sort)
  awk '
    # Who may include whom. A room always sees itself; concrete backends are rooms of their own.
    BEGIN {
      sees["core"] = ""
      sees["quant"] = "core"
      sees["checkpoint"] = "core quant"
      sees["hub"] = "core"
      sees["text"] = "core"
      sees["image"] = "core"
      sees["backend"] = "core quant"
      sees["backend/reference"] = "core quant backend"
      sees["backend/cpu"] = "core quant backend"
      sees["backend/cuda"] = "core quant backend"
      sees["model"] = "core quant checkpoint text backend"
      sees["engine"] = sees["model"] " model image"
      sees["bench"] = sees["engine"] " engine hub"
      sees["import"] = "core"
      sees["report"] = "core"
      sees["app"] = sees["bench"] " bench import report"
      for (room in sees) known[room] = 1
      # report/ is made from records alone: of bench/ it sees the record and nothing that measures.
      extra["import"] = "bench/identity.h bench/record.h bench/statistics.h bench/summary.h"
      extra["report"] = "bench/comparison.h bench/identity.h bench/record.h bench/statistics.h bench/summary.h"

      io_header = "^<(fstream|filesystem|fcntl.h|unistd.h|dirent.h|spawn.h|poll.h|dlfcn.h|sys/(mman|stat|wait|file|sendfile|uio|socket).h)>"
      # Asks the kernel how large a page is, and how much memory this process has.
      may_include["bench/process_memory.cpp"] = "<unistd.h>"
      # What is printed is printed by app/ and by tools of ours that are programs of their own.
      print_call = "(^|[^A-Za-z0-9_.>])(std::)?(printf|puts|fputs|fprintf|putchar|cout|cerr)([ ]*\\(|[ ]*<<)"
      prints["engine/bench_decode.cpp"] = prints["backend/ops_comparison.cpp"] = 1
      # Large blocks come from os::Block, which tests can make fail; small ones from new and the containers.
      memory_call = "(^|[^A-Za-z0-9_.>])(std::)?(malloc|calloc|realloc|aligned_alloc|posix_memalign)[ ]*\\("
      io_call = "(^|[^A-Za-z0-9_.>])(std::|::)?(fopen|fdopen|freopen|tmpfile|mkstemp|mkdtemp|opendir|readdir|mmap|munmap|" \
                "preadv?|pwritev?|fsync|truncate|chmod|socket|connect|fsync|fdatasync|ftruncate|posix_spawnp?|fork|vfork|popen|execvp?e?|readlink|realpath|dlopen)[ ]*\\("
      io_global = "(^|[^A-Za-z0-9_>])::(open|openat|creat|read|write|close|rename|unlink|rmdir|mkdir|stat|lstat|fstat|symlink|link)[ ]*\\("
      io_type = "std::(basic_)?([io]?fstream|filebuf|filesystem)|std::rename[ ]*\\(|std::system[ ]*\\(|std::remove[ ]*\\(([^,()]|\\(\\))*\\)"
    }
    function room_of(path,   parts, n) {
      n = split(path, parts, "/")
      if (n >= 3 && (parts[1] "/" parts[2]) in known) return parts[1] "/" parts[2]
      return parts[1]
    }
    function has(list, item,   parts, n, i) {
      n = split(list, parts, " ")
      for (i = 1; i <= n; ++i) if (parts[i] == item) return 1
      return 0
    }
    function is_test_file(path) { return path ~ /_(test|bench|check|fuzz)\.(cpp|h)$/ || path ~ /\/(test|fake|bench)_[a-z0-9_]*\.(cpp|h)$/ || path ~ /^fuzz\// }
    function bad(text) { printf "%s:%d: %s\n", FILENAME, FNR, text; ++violations }

    FNR == 1 {
      path = substr(FILENAME, 5)  # below src/
      room = room_of(path)
      # Tests lay out files by hand and fake what they need, so they and their helpers may touch files themselves.
      is_test = is_test_file(path)
      is_os = path ~ /^core\/os[a-z_]*\.(h|cpp)$/ || path == "core/process.cpp"
      if (!(room in known) && !is_test) bad("src/" room "/ is a room without a row in tools/check_tree.sh: say what it may include")
      in_comment = 0
    }
    {
      line = $0
      if (match(line, /^[ ]*#[ ]*include[ ]*"[^"]+"/)) {
        target = line
        sub(/^[ ]*#[ ]*include[ ]*"/, "", target)
        sub(/".*/, "", target)
        to = room_of(target)
        if (target !~ /\//) bad("include \"" target "\" by its path below src/, so that it is plain whose it is")
        else if (room in known && to != room && !has(sees[room], to) && !has(extra[room], target) &&
                 !(path == "backend/factory.cpp" && to ~ /^backend\//) && !is_test)
          bad("src/" room "/ may not include \"" target "\" (it sees: " (sees[room] == "" ? "itself" : sees[room]) ")")
        else if (is_test_file("/" target) && !is_test) bad("only tests may include \"" target "\"")
        next
      }
      if (!is_test && !is_os && match(line, /^[ ]*#[ ]*include[ ]*<[^>]+>/)) {
        target = line
        sub(/^[ ]*#[ ]*include[ ]*/, "", target)
        if (target ~ io_header && may_include[path] != target) bad("include of " target ": I/O and processes go through core/os.h alone")
        next
      }
      # Comments and string contents are not code.
      if (in_comment) {
        if (!match(line, /\*\//)) next
        line = substr(line, RSTART + 2)
        in_comment = 0
      }
      gsub(/\\"/, "", line)
      gsub(/"[^"]*"/, "\"\"", line)
      sub(/\/\/.*/, "", line)
      gsub(/\/\*([^*]|\*[^\/])*\*\//, "", line)
      if (match(line, /\/\*/)) {
        line = substr(line, 1, RSTART - 1)
        in_comment = 1
      }
      if (!is_test && !is_os && (line ~ io_call || line ~ io_global || line ~ io_type))
        bad("I/O or a process outside core/os.h: " $0)
      if (!is_test && line ~ print_call && room != "app" && !(path in prints)) bad("only app/ prints: " $0)
      if (!is_test && !is_os && line ~ memory_call) bad("a block of memory outside os::Block and the containers: " $0)
      if (room == "model" && !is_test && $0 ~ /"(cpu|cuda|reference)"/) bad("a backend is named in model/: " $0)
      if (room == "model" && !is_test && tolower($0) ~ /(^|[^a-z0-9])(avx2?|avx512|vnni|cuda|cpu_?backend|reference_?backend|cpu::|reference::|cuda::)([^a-z0-9]|$)/)
        bad("a backend is named in model/: " $0)
    }
    END { exit (violations > 0) }
  ' "${files[@]}"
}

# expect_found NAME FILE LINE: a copy of the tree with LINE added to FILE must be refused.
expect_found() {
  local copy="$scratch/$1"
  cp -r "$scratch/clean" "$copy"
  mkdir -p "$copy/$(dirname "$2")"
  printf '%s\n' "$3" >> "$copy/$2"
  if (check "$copy") > "$copy/out" || ! grep -q "^$2:" "$copy/out"; then
    echo "not found: $3 (in $2)"
    failed=1
  fi
}
expect_fine() {
  local copy="$scratch/$1"
  cp -r "$scratch/clean" "$copy"
  mkdir -p "$copy/$(dirname "$2")"
  printf '%s\n' "$3" >> "$copy/$2"
  if ! (check "$copy") > "$copy/out"; then
    echo "found, though it is fine: $3 (in $2)"
    sed 's/^/  /' "$copy/out"
    failed=1
  fi
}

self_test() {
  scratch="$(mktemp -d)"
  trap 'rm -rf "$scratch"' EXIT
  failed=0
  mkdir -p "$scratch/clean/src/core"
  printf '#pragma once\n' > "$scratch/clean/src/core/error.h"

  expect_found up        src/core/a.cpp             '#include "model/model.h"'
  expect_found sideways  src/text/a.cpp             '#include "quant/matrix.h"'
  expect_found backend   src/model/a.cpp            '#include "backend/cpu/kernels.h"'
  expect_found between   src/backend/cpu/a.cpp      '#include "backend/reference/ops.h"'
  expect_found kernel    src/backend/cuda/a.cu      '#include "model/model.h"'
  expect_found concrete  src/backend/a.cpp          '#include "backend/cpu/kernels.h"'
  expect_found measure   src/report/a.cpp           '#include "bench/measure.h"'
  expect_found bare      src/core/a.cpp             '#include "error.h"'
  expect_found room      src/attic/a.cpp            'int x;'
  expect_found named     src/model/a.cpp            'if (backend.name() == "cuda") skip();'
  expect_found literal   src/model/a.cpp            'if (device.backend == "cpu") skip();'
  expect_found hpp       src/core/a.hpp             '#include "model/model.h"'
  expect_found unistd    src/quant/a.cpp            '#include <unistd.h>'
  expect_found move      src/bench/a.cpp            'std::rename(a.c_str(), b.c_str());'
  expect_found delete    src/bench/a.cpp            'std::remove(path.c_str());'
  expect_found shell     src/bench/a.cpp            'std::system(command);'
  expect_found print     src/bench/a.cpp            'printf("%d", x);'
  expect_found cout      src/engine/a.cpp           'std::cout << x;'
  expect_found block     src/quant/a.cpp            'void* p = std::malloc(n);'
  expect_found stream    src/quant/a.cpp            'std::ofstream file(path);'
  expect_found header    src/quant/a.cpp            '#include <fstream>'
  expect_found fopen     src/checkpoint/a.cpp       'FILE* f = fopen(path, "rb");'
  expect_found global    src/checkpoint/a.cpp       'int fd = ::open(path, 0);'
  expect_found mmap      src/checkpoint/a.cpp       'void* p = mmap(nullptr, n, 1, 2, fd, 0);'
  expect_found fs        src/hub/a.cpp              'if (std::filesystem::exists(path)) return;'
  expect_found rename    src/bench/a.cpp            '::rename(a, b);'
  expect_found unlink    src/bench/a.cpp            '  ::unlink(a);'
  expect_found spawn     src/bench/a.cpp            'posix_spawn(&pid, p, 0, 0, argv, envp);'
  expect_found after     src/bench/a.cpp            '/* why */ ::unlink(a);'

  expect_fine erase      src/quant/a.cpp            'auto end = std::remove(v.begin(), v.end(), 0);'
  expect_fine says       src/app/a.cpp              'std::fputs(text, stderr);'
  expect_fine down       src/engine/a.cpp           '#include "model/model.h"'
  expect_fine factory    src/backend/factory.cpp    '#include "backend/cpu/backend.h"'
  expect_fine os         src/core/os_files.cpp      'int fd = ::open(path, 0);'
  expect_found helper    src/quant/a.cpp            '#include "quant/test_folder.h"'
  expect_fine helping    src/quant/test_folder.h    'std::ofstream file(path);'
  expect_fine test       src/quant/a_test.cpp       'std::ofstream file(path);'
  expect_fine comment    src/quant/a.cpp            '// fopen( would be wrong here'
  expect_fine string     src/quant/a.cpp            'fail("cannot mmap(): {}", x);'
  expect_fine ours       src/quant/a.cpp            'auto f = os::File::open(path); f.read(x); system().close(fd);'
  expect_fine record     src/report/a.cpp           '#include "bench/record.h"'
  [ $failed -eq 0 ] && echo "every planted violation was found, nothing else was"
  return $failed
}

case "${1:-}" in
  --self-test) self_test ;;
  *) check "${1:-$here}" && echo "includes and I/O: as they should be" ;;
esac
