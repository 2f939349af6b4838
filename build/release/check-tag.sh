#!/bin/sh
# check-tag.sh TAG: a release's tag is v and the version in package.json, and CHANGELOG.md has a section for it.
set -eu
cd "$(dirname "$0")/../.."
tag="${1:?usage: check-tag.sh TAG}"
version="$(sed -n 's/^  "version": "\(.*\)",$/\1/p' package.json)"
fail() {
  echo "check-tag.sh: $1" >&2
  exit 1
}
[ "$tag" = "v$version" ] || fail "the tag is $tag, but package.json has version $version; expected v$version"
grep -q "^## \[$version\] - [0-9]\{4\}-[0-9][0-9]-[0-9][0-9]\$" CHANGELOG.md ||
  fail "CHANGELOG.md has no section \"## [$version] - YYYY-MM-DD\"; rename Unreleased"
