# What quickstart.sh, test.sh and .ci/run share: installing what is missing, building, and saying what goes on.
# Sourced, not run. Progress goes to the terminal; the details go to a log, whose end is shown when a step fails.
#
#   qb_begin NAME               opens build/logs/NAME.log
#   qb_say TEXT                 one line to the terminal and to the log
#   qb_step TEXT COMMAND…       runs COMMAND with its output in the log, shows that it is alive; ends the script on failure
#   qb_install PACKAGE…         installs those packages that are missing; nothing to do means nothing is touched
#   qb_configure PRESET [ARG…]  configures a CMake preset; ARGs go to CMake. Says whether the CUDA backend is built
#   qb_build PRESET [ARG…]      builds it; ARGs go to the build (e.g. --target quantbench)

set -euo pipefail

QB_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
QB_LOG=""
QB_TICKER=""
QB_LAUNCHER=()
if command -v ccache > /dev/null; then QB_LAUNCHER=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi

# Names as in Debian 12 and Ubuntu 22.04 and 24.04.
QB_PACKAGES=(g++ cmake ninja-build libfmt-dev nlohmann-json3-dev libcli11-dev libonig-dev libsentencepiece-dev libssl-dev
             libcurl4-openssl-dev libjpeg-dev libpng-dev libwebp-dev libsqlite3-0 libjs-d3 libgtest-dev libgmock-dev
             libbenchmark-dev)
# For tests alone: the emulator that runs CUDA kernels on the host, charts as PNG, dpkg-shlibdeps for packages.
QB_TEST_PACKAGES=(libboost-context-dev librsvg2-2 dpkg-dev)

qb_begin() {
  QB_LOG="$QB_ROOT/build/logs/$1.log"
  if ! { mkdir -p "$QB_ROOT/build/logs" && : > "$QB_LOG"; } 2> /dev/null; then
    echo "$QB_LOG cannot be written by $(id -un): the build folder belongs to $(stat -c %U "$QB_ROOT/build" 2> /dev/null ||
          stat -c %U "$QB_ROOT"), who built here before. Make it yours (sudo chown -R $(id -un) $QB_ROOT), remove" \
         "$QB_ROOT/build, or use a copy of your own." >&2
    exit 1
  fi
  trap qb_stop_ticker EXIT
  trap 'qb_stop_ticker; echo; echo "Interrupted. Log: $QB_LOG" >&2; exit 130' INT TERM
  qb_say "Log of the details: ${QB_LOG#"$PWD"/}"
}

qb_say() {
  printf '%s\n' "$*"
  printf '== %s\n' "$*" >> "$QB_LOG"
}

# What the log's last line says, short enough for one line of a terminal.
qb_last_log_line() {
  tail -n 1 "$QB_LOG" 2>/dev/null | tr -d '\r' | cut -c1-"${1:-70}"
}

# Alive every second on a terminal (one line, rewritten), every 20 seconds elsewhere.
qb_ticker() {
  local text="$1" start=$SECONDS elapsed
  while sleep 1; do
    elapsed=$((SECONDS - start))
    if [ -t 1 ]; then
      printf '\r\033[K%s … %d s  %s' "$text" "$elapsed" "$(qb_last_log_line 60)"
    elif [ $((elapsed % 20)) -eq 0 ]; then
      printf '%s … %d s  %s\n' "$text" "$elapsed" "$(qb_last_log_line 90)"
    fi
  done
}

qb_stop_ticker() {
  [ -n "$QB_TICKER" ] || return 0
  kill "$QB_TICKER" 2>/dev/null || true
  wait "$QB_TICKER" 2>/dev/null || true
  QB_TICKER=""
  if [ -t 1 ]; then printf '\r\033[K'; fi
}

# As qb_step, but hands the exit status back instead of ending the script.
qb_try() {
  local text="$1" start=$SECONDS status=0
  shift
  printf '\n== %s\n== %s\n' "$text" "$*" >> "$QB_LOG"
  qb_ticker "$text" &
  QB_TICKER=$!
  "$@" >> "$QB_LOG" 2>&1 < /dev/null || status=$?
  qb_stop_ticker
  if [ $status -eq 0 ]; then
    printf '%s: done (%d s)\n' "$text" $((SECONDS - start))
  else
    printf '%s: FAILED with status %d after %d s. The end of %s:\n' "$text" $status $((SECONDS - start)) "$QB_LOG" >&2
    tail -n 40 "$QB_LOG" | sed 's/^/  | /' >&2
  fi
  return $status
}

qb_step() {
  qb_try "$@" || exit 1
}

qb_missing_packages() {
  local package
  for package in "$@"; do
    if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
      printf '%s ' "$package"
    fi
  done
}

qb_apt() {
  local as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@"
}

qb_install() {
  if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
    qb_say "This is not a Debian or Ubuntu system, so nothing is installed; needed are what these packages hold: $*"
    return 0
  fi
  local missing
  read -ra missing <<< "$(qb_missing_packages "$@")"
  if [ ${#missing[@]} -eq 0 ]; then
    qb_say "Packages: all there"
    return 0
  fi
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo > /dev/null; then
      qb_say "Missing packages: ${missing[*]}
Installing them takes root, and there is no sudo here. As root, run this and start again:
  apt-get update && apt-get install --no-install-recommends ${missing[*]}"
      exit 1
    fi
    qb_say "sudo is asked for, to install: ${missing[*]}"
    sudo -v || exit 1
  fi
  # An update that fails (one dead source among several) need not stop us: the install that follows tells.
  qb_try "Updating apt's package lists" qb_apt update || qb_say "going on with the lists that are there"
  qb_step "Installing ${#missing[@]} packages (${missing[*]})" \
    qb_apt install -y --no-install-recommends "${missing[@]}"
}

qb_in_root() {
  (cd "$QB_ROOT" && "$@")
}

qb_configure() {
  local preset="$1" said
  shift
  qb_step "Configuring ($preset)" qb_in_root cmake --preset "$preset" "${QB_LAUNCHER[@]}" "$@"
  said="$(sed -n 's/^-- \(CUDA backend: .*\)/\1/p' "$QB_LOG" | tail -n 1)"
  [ -z "$said" ] || qb_say "$said"
}

qb_build() {
  local preset="$1"
  shift
  qb_step "Building ($preset)" cmake --build "$QB_ROOT/build/$preset" "$@"
}
