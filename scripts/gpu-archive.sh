#!/usr/bin/env bash
# Packs what scripts/gpu-check.sh needs on a machine with a GPU and nothing else: the executable, Bun, the native
# libraries, tests and sources. Leaves gpu-check.tar.xz, at most 64 MiB, with one folder, neftune. With --binaries only
# what a checkout does not have, to be unpacked over one: tar -xf FILE --strip-components=1 in its folder.
#
#   npm run build && scripts/gpu-archive.sh [--binaries] [FILE]
set -euo pipefail
cd "$(dirname "$0")/.."
sources=(src test kernels models build scripts package.json tsconfig.json bunfig.toml README.md)
[ "${1:-}" != --binaries ] || { sources=(); shift; }
archive="$(realpath "${1:-gpu-check.tar.xz}")"

[ -s dist/native/libneftune-cuda.so.zst ] || { echo "dist has no CUDA backend: npm run build makes it" >&2; exit 1; }
stage="$(mktemp -d)"
trap 'rm -rf "$stage"' EXIT
folder="$stage/neftune"
mkdir -p "$folder/dist/native" "$folder/node_modules/@oven"

[ ${#sources[@]} = 0 ] || cp -r "${sources[@]}" "$folder/"
cp dist/native/*.zst "$folder/dist/native/"
cp -r node_modules/@oven/bun-linux-x64 "$folder/node_modules/@oven/"
# (TypeScript is listed as what valibot may use for its types.)
npm ls --omit=dev --all --parseable | tail -n +2 | grep -v typescript | while read -r package; do
  mkdir -p "$folder/${package#"$PWD"/}"
  cp -r "$package/." "$folder/${package#"$PWD"/}"
done
find "$folder/node_modules" -type f \( -name '*.d.ts' -o -name '*.d.cts' -o -name '*.d.mts' -o -name '*.map' \) -delete
# Of the executable, what is not Bun; gpu-check.sh puts the two together.
node_modules/@oven/bun-linux-x64/bin/bun scripts/gpu-executable.ts split dist/neftune "$folder/dist/neftune.difference"

# The executable holds the libraries once more: side by side they are packed once.
cd "$stage"
{
  find neftune/node_modules/@oven neftune/dist -type f
  find neftune -type f -not -path 'neftune/dist/*' -not -path 'neftune/node_modules/@oven/*' | sort
} | tar -cf - -T - | xz --x86 --lzma2=preset=9e,dict=128MiB >"$archive"
bytes="$(stat -c %s "$archive")"
echo "$archive: $(awk -v bytes="$bytes" 'BEGIN { printf "%.1f", bytes / 1048576 }') MiB"
[ "$bytes" -le $((64 * 1024 * 1024)) ] || { echo "larger than 64 MiB" >&2; exit 1; }
