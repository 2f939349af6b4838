#!/bin/sh
# publish.sh TAG: publishes dist/release on GitHub, npm and PyPI, once its hashes hold. Needs gh, npm and twine, with
# GH_TOKEN, NODE_AUTH_TOKEN, TWINE_USERNAME and TWINE_PASSWORD.
set -eu
cd "$(dirname "$0")/../../dist/release"
tag="${1:?usage: publish.sh TAG}"
version="${tag#v}"
sha256sum --check --strict --quiet SHA256SUMS
# npm's token belongs to a registry: the one that npm is set to.
registry="$(npm config get registry)"
NPM_CONFIG_USERCONFIG="$(mktemp)"
export NPM_CONFIG_USERCONFIG
trap 'rm -f "$NPM_CONFIG_USERCONFIG"' EXIT
printf 'registry=%s\n%s:_authToken=${NODE_AUTH_TOKEN}\n' "$registry" "${registry#*:}" >"$NPM_CONFIG_USERCONFIG"
# npm first has to know what the main package asks for.
for package in neftune-linux-*-"$version".tgz "neftune-$version.tgz"; do
  npm publish --access public "./$package"
done
twine upload --non-interactive neftune-"$version"-*.whl
gh release create "$tag" --title "neftune $version" --notes "See CHANGELOG.md." ./*
