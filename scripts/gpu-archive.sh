#!/usr/bin/env bash
# Packs what scripts/gpu-check.sh needs on a machine with a GPU and nothing else: the executable, the CUDA library,
# tests and sources. Leaves gpu-check.tar.xz, at most 64 MiB.
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
cp dist/native/libneftune-cuda.so.zst "$folder/dist/native/"
# The CPU's libraries are in the executable; sources import them by name, which empty files satisfy.
for library in dist/native/*.zst; do
  [ -e "$folder/dist/native/$(basename "$library")" ] || : >"$folder/dist/native/$(basename "$library")"
done
npm ls --omit=dev --all --parseable | tail -n +2 | while read -r package; do
  mkdir -p "$folder/${package#"$PWD"/}"
  cp -r "$package/." "$folder/${package#"$PWD"/}"
done

XZ_OPT="-6 -T0" tar -C "$stage" -cJf "$archive" neftune
bytes="$(stat -c %s "$archive")"
echo "$archive: $((bytes / 1024 / 1024)) MiB"
[ "$bytes" -le $((64 * 1024 * 1024)) ] || { echo "larger than 64 MiB" >&2; exit 1; }
