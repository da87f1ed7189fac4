#!/usr/bin/env bash
# Makes the release of the version in Cargo.toml, and leaves an annotated tag to be pushed.
#
#   scripts/release.sh [--check]
#
# It looks whether the files agree on the version, packs the source, builds and tests what it has packed, asks each
# build for its version, and writes target/release-VERSION: the archive, the rockspecs and SHA256SUMS. With --check it
# only looks.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "release: $*" >&2
    exit 1
}

check=
case ${1:-} in
    "") ;;
    --check) check=yes ;;
    *)
        echo "usage: scripts/release.sh [--check]" >&2
        exit 2
        ;;
esac

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)

[ -z "$(git status --porcelain)" ] || fail "commit everything first"
scripts/rockspecs.sh --check || fail "the rockspecs are not those of $version: run scripts/rockspecs.sh"
grep -Eq "^## \[$version\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md ||
    fail "CHANGELOG.md has no line \"## [$version] - YEAR-MONTH-DAY\""
cargo metadata --format-version=1 --locked --no-deps >/dev/null || fail "Cargo.lock is not that of Cargo.toml"
[ -d "tests/golden/$version" ] || fail "tests/golden/$version is missing: run make golden"
if [ -n "$check" ]; then
    echo "release: all files are those of $version"
    exit
fi
! git rev-parse -q --verify "refs/tags/v$version" >/dev/null || fail "there is a tag v$version"

folder=$PWD/target/release-$version
rm -rf "$folder"
mkdir -p "$folder"
git archive --prefix="consul_ffi-$version/" -o "$folder/consul_ffi-$version.tar.gz" HEAD
cp rockspec/*-"$version"-1.rockspec rockspec/tools/*-"$version"-1.rockspec \
    etcd/*-"$version"-1.rockspec resty/*-"$version"-1.rockspec "$folder"

# What is tested is what was packed: without .git, and with nothing else of this checkout.
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
tar -xzf "$folder/consul_ffi-$version.tar.gz" -C "$source" --strip-components=1
make -C "$source" test
for engine in luajit lua5.1 lua5.4; do
    built=$(cd "$source" && LUA_CPATH="./target/lua/${engine#lua5.}/?.so" LUA_CPATH_5_4='' \
        "$engine" -e 'print(require("consul_ffi")._VERSION)') || fail "the build for $engine does not load"
    [ "$built" = "$version" ] || fail "the build for $engine says $built"
done

(cd "$folder" && sha256sum -- *.tar.gz *.rockspec >SHA256SUMS && cat SHA256SUMS)
git tag -a "v$version" -m "consul_ffi $version"
echo "release: $folder is made; git push origin v$version publishes it"
