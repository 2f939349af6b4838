#!/usr/bin/env bash
# Packs what scripts/gpu-check.sh needs on a machine with a GPU and nothing else: the executable, Bun, the native
# libraries, tests and sources. Leaves gpu-check.tar.xz, at most 64 MiB.
#
#   npm run build && scripts/gpu-archive.sh [FILE]
set -euo pipefail
cd "$(dirname "$0")/.."
archive="$(realpath "${1:-gpu-check.tar.xz}")"

[ -s dist/native/libneftune-cuda.so.zst ] || { echo "dist has no CUDA backend: npm run build makes it" >&2; exit 1; }
stage="$(mktemp -d)"
trap 'rm -rf "$stage"' EXIT
folder="$stage/neftune"
mkdir -p "$folder/dist/native" "$folder/node_modules"

cp -r src test kernels models build scripts package.json tsconfig.json bunfig.toml README.md "$folder/"
cp dist/neftune "$folder/dist/"
cp dist/native/*.zst "$folder/dist/native/"
mkdir -p "$folder/node_modules/@oven"
cp -r node_modules/@oven/bun-linux-x64 "$folder/node_modules/@oven/"
# (TypeScript is listed as what valibot may use for its types.)
npm ls --omit=dev --all --parseable | tail -n +2 | grep -v typescript | while read -r package; do
  mkdir -p "$folder/${package#"$PWD"/}"
  cp -r "$package/." "$folder/${package#"$PWD"/}"
done

# The executable is Bun and the libraries once more: side by side, with a dictionary that holds them all, they are packed
# once. (That takes one thread.)
cd "$stage"
{
  find neftune/dist neftune/node_modules/@oven -type f
  find neftune -type f -not -path 'neftune/dist/*' -not -path 'neftune/node_modules/@oven/*' | sort
} | tar -cf - -T - | xz --threads=1 --lzma2=preset=6,dict=384MiB >"$archive"
bytes="$(stat -c %s "$archive")"
echo "$archive: $((bytes / 1024 / 1024)) MiB"
[ "$bytes" -le $((64 * 1024 * 1024)) ] || { echo "larger than 64 MiB" >&2; exit 1; }
