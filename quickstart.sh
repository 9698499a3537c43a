#!/usr/bin/env bash
# One command from a fresh Debian 12 or Ubuntu 22.04+ to a benchmark: installs what is missing, builds, and measures the
# bundled model in fp16, int8 and 4bit, on an NVIDIA GPU where there is one to use, else on the CPU. Kernels are built for
# the GPUs of this machine alone. Further arguments go to `quantbench run` (./quickstart.sh --max-new-tokens 32).
. "$(dirname "${BASH_SOURCE[0]}")/tools/setup.sh"

qb_begin quickstart
qb_install "${QB_PACKAGES[@]}"
qb_configure release -DQB_CUDA_ARCHITECTURES=present
qb_build release --target quantbench
echo
exec "$QB_ROOT/build/release/src/app/quantbench" run "$@"
