#!/usr/bin/env bash
# Proves that a newcomer's machine is enough: makes a bare Debian with debootstrap (its minbase, without even git, Python
# or sudo), clones this tree's last commit into it, and runs there, as root:
#   1. ./quickstart.sh              from nothing
#   2. ./quickstart.sh, no network  everything is there: nothing is fetched
#   3. ./test.sh
# and prints how long each took. Takes about 2 GB of disk and is run by hand, as root: tools/fresh_debian.sh
#
#   tools/fresh_debian.sh [--suite bookworm] [--folder DIR] [--keep]
#     --folder DIR   where the system is put (default: a new folder under /var/tmp); if one is there already, it is used
#     --keep         leaves it there
# Packages come from where this machine's own apt takes them (mirror, proxy and keys as configured in /etc/apt).
set -euo pipefail
source_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
suite=bookworm
folder=""
keep=0
while [ $# -gt 0 ]; do
  case "$1" in
    --suite) suite="${2:?}"; shift 2 ;;
    --folder) folder="${2:?}"; shift 2 ;;
    --keep) keep=1; shift ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 64 ;;
  esac
done
if [ "$(id -u)" -ne 0 ]; then echo "debootstrap and chroot take root: sudo $0" >&2; exit 1; fi
for tool in debootstrap chroot unshare git; do
  command -v $tool > /dev/null || { echo "$tool is missing here: apt-get install debootstrap util-linux git" >&2; exit 1; }
done
[ -n "$folder" ] || folder="$(mktemp -d /var/tmp/quantbench-fresh.XXXXXX)"
folder="$(realpath -m "$folder")"
clean_up() {
  if [ $keep -eq 1 ]; then echo "kept: $folder"; else rm -rf --one-file-system "$folder"; fi
}
trap clean_up EXIT

say() { printf '\n### %s\n' "$*"; }
seconds_of() {  # NAME COMMAND…: runs it, keeps its seconds for the summary
  local name="$1" start=$SECONDS status=0
  shift
  say "$name"
  "$@" || status=$?
  summary+="$(printf '%5d s  %s%s' $((SECONDS - start)) "$name" "$([ $status -eq 0 ] || echo " (FAILED, status $status)")")"$'\n'
  if [ $status -ne 0 ]; then worst=$status; fi
}
summary=""
worst=0

# "URI release component" of every binary package source that this machine uses for that suite.
sources="$(apt-get indextargets 'Created-By: Packages' --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' |
           awk -v suite="$suite" '$2 == suite || index($2, suite "-") == 1' | sort -u)"
mirror="$(awk -v suite="$suite" '$2 == suite { print $1; exit }' <<< "$sources")"
if [ -z "$mirror" ]; then
  # Another suite than this machine's: the mirror is the same, only the main part is used.
  mirror="$(apt-get indextargets 'Created-By: Packages' --format '$(REPO_URI)' | head -n 1)"
  sources="$mirror $suite main"
fi

make_system() {
  if [ -x "$folder/bin/bash" ]; then echo "using the system in $folder"; return 0; fi
  mkdir -p "$folder"
  debootstrap --variant=minbase --include=ca-certificates "$suite" "$folder" "$mirror" > "$folder.log" 2>&1 || {
    tail -n 20 "$folder.log"
    return 1
  }
  rm -f "$folder.log"
  sed 's/^/deb /' <<< "$sources" > "$folder/etc/apt/sources.list"
  apt-config dump Acquire | grep -v '^Acquire "";' > "$folder/etc/apt/apt.conf.d/99as-the-host" || true
  cp /etc/resolv.conf /etc/hosts "$folder/etc/"
}

# In a mount and process namespace of its own, so that nothing stays mounted and nothing stays running.
inside() {
  unshare --mount --pid --fork bash -c '
    set -e
    folder="$1"; shift
    mount --make-rprivate /
    mount --bind /dev "$folder/dev"
    mount -t proc proc "$folder/proc"
    mount -t sysfs -o ro sysfs "$folder/sys" 2> /dev/null || true
    exec chroot "$folder" /usr/bin/env -i HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 \
      PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
  ' bash "$folder" "$@"
}
inside_without_network() {
  unshare --net bash -c "$(declare -f inside); folder='$folder'; inside \"\$@\"" bash "$@"
}

seconds_of "debootstrap of $suite" make_system
if [ $worst -ne 0 ]; then exit 1; fi
rm -rf "$folder/home/quantbench"
git clone -q --no-hardlinks "$source_root" "$folder/home/quantbench"
echo "commit $(git -C "$folder/home/quantbench" rev-parse --short HEAD)"

seconds_of "./quickstart.sh, from nothing" inside /home/quantbench/quickstart.sh
if [ $worst -eq 0 ]; then
  seconds_of "./quickstart.sh, without a network" inside_without_network /home/quantbench/quickstart.sh
fi
seconds_of "./test.sh" inside /home/quantbench/test.sh
du -sh "$folder" | awk '{ print "\ndisk: " $1 }'
say "seconds on $(nproc) cores"
printf '%s' "$summary"
exit $worst
