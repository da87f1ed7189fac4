#!/usr/bin/env bash
# Makes the release of the version in Cargo.toml, and leaves an annotated tag to be pushed.
#
#   scripts/release.sh [--check | --dry]
#
# It looks whether the files agree on the version, packs the source, builds and tests what it has packed, packs the rocks,
# asks each build for its version, and writes target/release-VERSION: the archive, the rockspecs, the rocks and
# SHA256SUMS. With --check it only looks. With --dry it does all of it but the tests, in a clone of the last commit that it
# removes afterwards, with one rock, which is not optimised.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "release: $*" >&2
    exit 1
}

mode=
case ${1:-} in
    "") ;;
    --check | --dry) mode=${1#--} ;;
    *)
        echo "usage: scripts/release.sh [--check | --dry]" >&2
        exit 2
        ;;
esac

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
flavours=(luajit 5.1 5.3 5.4)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ "$mode" = dry ]; then
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target} QUICK=1
    export GIT_AUTHOR_NAME=dry GIT_AUTHOR_EMAIL=dry@localhost GIT_COMMITTER_NAME=dry GIT_COMMITTER_EMAIL=dry@localhost
    flavours=(luajit)
    git clone -q --no-tags . "$work/clone"
    cd "$work/clone"
    sed -i "s/^## \[$version\] - not released yet$/## [$version] - $(date -u +%F)/" CHANGELOG.md
    git diff --quiet || git commit -qam "The date of the release"
fi

[ -z "$(git status --porcelain)" ] || fail "commit everything first"
scripts/rockspecs.sh --check || fail "the rockspecs are not those of $version: run scripts/rockspecs.sh"
grep -Eq "^## \[$version\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md ||
    fail "CHANGELOG.md has no line \"## [$version] - YEAR-MONTH-DAY\""
cargo metadata --format-version=1 --locked --no-deps >/dev/null || fail "Cargo.lock is not that of Cargo.toml"
[ -d "tests/golden/$version" ] || fail "tests/golden/$version is missing: run make golden"
if [ "$mode" = check ]; then
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
source=$work/source
mkdir "$source"
tar -xzf "$folder/consul_ffi-$version.tar.gz" -C "$source" --strip-components=1
[ "$mode" = dry ] || make -C "$source" test
"$source/scripts/rocks.sh" "${flavours[@]}"
for flavour in "${flavours[@]}"; do
    engine=$flavour
    [ "$flavour" = luajit ] || engine=lua$flavour
    built=$(cd "$source" && env -u LUA_CPATH_5_3 -u LUA_CPATH_5_4 LUA_CPATH="./target/rock/$flavour/?.so" \
        "$engine" -e 'print(require("consul_ffi")._VERSION)') || fail "the build for $engine does not load"
    [ "$built" = "$version" ] || fail "the build for $engine says $built"
done
cp "$source"/target/rocks/*.rock "$folder"

(cd "$folder" && sha256sum -- *.tar.gz *.rockspec *.rock >SHA256SUMS && cat SHA256SUMS)
git tag -a "v$version" -m "consul_ffi $version"
if [ "$mode" = dry ]; then
    (cd "$folder" && sha256sum --quiet -c SHA256SUMS) || fail "SHA256SUMS is wrong"
    [ "$(git cat-file -t "v$version")" = tag ] || fail "v$version is not an annotated tag"
    echo "release: $version would be made; nothing is left of it"
else
    echo "release: $folder is made; git push origin v$version publishes it"
fi
