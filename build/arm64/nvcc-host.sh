#!/bin/bash
# What nvcc takes for the host compiler: Debian's cross compiler, in the folder where build/arm64/debian.ts unpacked it.
set -eu
root="$(cd "$(dirname "$0")/../.." && pwd)/.toolchain/debian"
arguments=()
for argument in "$@"; do
  # nvcc says -m64, which the compiler for arm64 does not know.
  [ "$argument" = -m64 ] || arguments+=("$argument")
done
export LD_LIBRARY_PATH="$root/usr/lib/x86_64-linux-gnu"
export PATH="$root/usr/bin:$PATH"
export GCC_EXEC_PREFIX="$root/usr/lib/gcc-cross/"
exec aarch64-linux-gnu-g++-12 -B"$root/usr/bin/aarch64-linux-gnu-" -isystem "$root/usr/aarch64-linux-gnu/include" "${arguments[@]}"
