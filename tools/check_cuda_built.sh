#!/usr/bin/env bash
# Whether the CUDA backend is in a build, where this machine has nvcc. Presets take it where it is found, so that a build
# that misses nvcc would compile no kernel and pass all the same. Without nvcc, or by choice, it is skipped with CMake's
# words.
#   tools/check_cuda_built.sh BUILD_FOLDER
#   tools/check_cuda_built.sh --self-test
set -euo pipefail

# verdict MISSING NVCC: MISSING why the backend is not built, in CMake's words, empty where it is; NVCC where one is found.
verdict() {
  case "$1" in
    '')
      echo "CUDA backend: built"
      ;;
    'it is switched off'* | 'nvcc is '*' or newer is needed' | 'there is no GPU here'* | 'every GPU here is older'*)
      echo "skipped: CUDA backend: not built: $1"
      return 77
      ;;
    *)
      if [ -n "$2" ]; then
        echo "WRONG: CUDA backend: not built, though there is $2: $1"
        return 1
      fi
      echo "skipped: CUDA backend: not built: $1"
      return 77
      ;;
  esac
}

self_test() {
  local failed=0
  # expect STATUS MISSING NVCC
  expect() {
    local status=0
    verdict "$2" "$3" > /dev/null || status=$?
    [ $status -eq "$1" ] || { echo "WRONG: '$2' with nvcc '$3': $status instead of $1"; failed=1; }
  }
  expect 0 '' /usr/local/cuda/bin/nvcc
  expect 77 'no nvcc was found (looked in PATH)' ''
  expect 1 'no nvcc was found (looked in PATH)' /usr/local/cuda/bin/nvcc
  expect 1 '/usr/bin/nvcc does not compile here, most often because' /usr/bin/nvcc
  expect 1 'CUDACXX names /nonexistent, which is not there' /usr/bin/nvcc
  expect 77 'it is switched off (QB_CUDA=off)' /usr/bin/nvcc
  expect 77 'nvcc is 11.8.89, 12.4 or newer is needed' /usr/bin/nvcc
  expect 77 'there is no GPU here to build for (asked nvidia-smi)' /usr/bin/nvcc
  return $failed
}

if [ "${1:-}" = --self-test ]; then
  self_test
  exit
fi
said="${1:?the folder of a build}/src/backend/generated/backend/cuda_absence.h"
[ -r "$said" ] || { echo "WRONG: $said is not there; configure first"; exit 64; }
missing="$(sed -n 's/^#define QB_CUDA_MISSING R"qb(\(.*\))qb"$/\1/p' "$said")"
grep -q '^#define QB_CUDA_MISSING R"qb(.*)qb"$' "$said" || { echo "WRONG: $said does not say whether the backend is built"; exit 1; }
nvcc="$(command -v nvcc || true)"
for place in "${CUDA_PATH:-}/bin" "${CUDA_HOME:-}/bin" /usr/local/cuda/bin /opt/cuda/bin; do
  if [ -z "$nvcc" ] && [ -x "$place/nvcc" ]; then nvcc="$place/nvcc"; fi
done
verdict "$missing" "$nvcc"
