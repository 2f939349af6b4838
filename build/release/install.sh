#!/bin/sh
# Installs neftune: fetches the archive for this machine, checks its SHA-256, and puts the program, its man page and
# its completions below a prefix. Needs curl or wget, and nothing of it stays behind when something goes wrong.
#
#   sh install.sh --base-url URL [--prefix DIR]
set -eu

version='@VERSION@'
base_url="${NEFTUNE_BASE_URL:-@BASE_URL@}"
prefix="${HOME:+$HOME/.local}"
scratch=''

fail() {
  echo "install.sh: $1" >&2
  exit 1
}
clean() { [ -z "$scratch" ] || rm -rf "$scratch"; }
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

usage() {
  cat <<'END'
Usage: install.sh [--base-url URL] [--prefix DIR]

  --base-url URL  where the release's files are (default: $NEFTUNE_BASE_URL, else this release's own address)
  --prefix DIR    install to DIR/bin and DIR/share (default: ~/.local)
END
}

# fetch URL FILE
fetch() {
  if command -v curl >/dev/null; then
    status=0
    curl --fail --silent --show-error --location --retry 2 --output "$2" "$1" 2>"$scratch/said" || status=$?
    [ "$status" -ne 18 ] || fail "$1: the download was cut short; run install.sh again"
  elif command -v wget >/dev/null; then
    status=0
    wget --quiet --tries=3 --output-document="$2" "$1" 2>"$scratch/said" || status=$?
  else
    fail "curl or wget is needed to download neftune"
  fi
  [ "$status" -eq 0 ] || fail "$1 cannot be downloaded: $(tail -n 1 "$scratch/said" | grep . || echo "status $status")"
}

check_machine() {
  system="$(uname -s)"
  machine="$(uname -m)"
  case "$system $machine" in
    "Linux x86_64" | "Linux amd64") platform=linux-x64 ;;
    "Linux aarch64" | "Linux arm64") platform=linux-arm64 ;;
    *) fail "there is no build for $system on $machine; neftune runs on Linux on x86-64 and arm64" ;;
  esac
  glibc="$(getconf GNU_LIBC_VERSION 2>/dev/null || true)"
  case "$glibc" in
    "glibc "*) ;;
    *) fail "this system has no glibc (musl, such as Alpine's, is not supported); neftune needs glibc 2.28 or later" ;;
  esac
  minor="${glibc#glibc 2.}"
  minor="${minor%%[!0-9]*}"
  [ "${minor:-0}" -ge 28 ] || fail "this system has $glibc; neftune needs glibc 2.28 or later"
}

# place FILE TARGET MODE: all of it or nothing, also over a program that runs.
place() {
  mkdir -p "$(dirname "$2")" 2>/dev/null || fail "$(dirname "$2") cannot be made; choose another --prefix"
  [ ! -d "$2" ] || fail "$2 is a folder; choose another --prefix"
  if ! cp "$1" "$2.new" 2>/dev/null || ! chmod "$3" "$2.new" || ! mv -f "$2.new" "$2"; then
    rm -f "$2.new" 2>/dev/null || true
    fail "$(dirname "$2") cannot be written to; choose another --prefix, or free some space"
  fi
}

while [ $# -gt 0 ]; do
  case "$1" in
    --base-url | --prefix)
      [ $# -ge 2 ] && [ -n "$2" ] || fail "$1 needs a value"
      if [ "$1" = --prefix ]; then prefix="$2"; else base_url="$2"; fi
      shift 2
      ;;
    --base-url=?*) base_url="${1#*=}" && shift ;;
    --prefix=?*) prefix="${1#*=}" && shift ;;
    -h | --help) usage && exit 0 ;;
    *) fail "unknown argument $1; --help lists the options" ;;
  esac
done
[ -n "$base_url" ] || fail "give --base-url: the address of the folder that holds this release's files"
[ -n "$prefix" ] || fail "HOME is not set; give --prefix"
case "$prefix" in /*) ;; *) prefix="$PWD/$prefix" ;; esac
check_machine

name="neftune-$version-$platform"
scratch="$(mktemp -d)" || fail "no temporary folder can be made"
fetch "${base_url%/}/SHA256SUMS" "$scratch/SHA256SUMS"
expected="$(sed -n "s/^\([0-9a-f]\{64\}\)  $name\.tar\.gz\$/\1/p" "$scratch/SHA256SUMS")"
[ -n "$expected" ] || fail "SHA256SUMS of ${base_url%/} does not list $name.tar.gz"
fetch "${base_url%/}/$name.tar.gz" "$scratch/$name.tar.gz"
got="$(sha256sum "$scratch/$name.tar.gz" | cut -d ' ' -f 1)"
[ "$got" = "$expected" ] ||
  fail "$name.tar.gz has the SHA-256 $got, but SHA256SUMS says $expected: it was changed or cut on the way; nothing was installed"
tar -xzf "$scratch/$name.tar.gz" -C "$scratch" || fail "$name.tar.gz cannot be unpacked; is the disk full?"

from="$scratch/$name"
place "$from/neftune" "$prefix/bin/neftune" 755
place "$from/neftune.1" "$prefix/share/man/man1/neftune.1" 644
place "$from/completions/neftune.bash" "$prefix/share/bash-completion/completions/neftune" 644
place "$from/completions/_neftune" "$prefix/share/zsh/site-functions/_neftune" 644
place "$from/completions/neftune.fish" "$prefix/share/fish/vendor_completions.d/neftune.fish" 644
for document in LICENSE THIRD_PARTY.md README.md; do
  place "$from/$document" "$prefix/share/doc/neftune/$document" 644
done
"$prefix/bin/neftune" --version >/dev/null || fail "$prefix/bin/neftune was installed, but does not run here"

echo "neftune $version is installed: $prefix/bin/neftune"
case ":$PATH:" in
  *":$prefix/bin:"*) ;;
  *) echo "$prefix/bin is not on your PATH; to add it:  export PATH=\"$prefix/bin:\$PATH\"" ;;
esac
