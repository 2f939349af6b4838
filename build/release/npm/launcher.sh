#!/bin/sh
# neftune of the npm package: becomes the executable of the package for this platform, so that signals, exit status and
# terminal are its own.
set -eu
fail() {
  echo "neftune: $1" >&2
  exit 1
}
system="$(uname -s)"
machine="$(uname -m)"
case "$system $machine" in
  "Linux x86_64") package=neftune-linux-x64 ;;
  "Linux aarch64") package=neftune-linux-arm64 ;;
  *) fail "there is no build for $system on $machine; neftune runs on Linux on x86-64 and arm64" ;;
esac
here="$(dirname "$(readlink -f "$0")")/.."
# Beside this package where npm has one folder for all, inside it where npm nests them.
for modules in "$here/.." "$here/node_modules"; do
  if [ -x "$modules/$package/bin/neftune" ]; then exec "$modules/$package/bin/neftune" "$@"; fi
done
fail "the npm package $package is missing; install neftune again without --omit=optional (musl systems, such as Alpine, are not supported)"
