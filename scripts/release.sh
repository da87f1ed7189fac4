#!/usr/bin/env bash
# Makes the release of the version in Cargo.toml, and leaves an annotated tag to be pushed.
#
#   scripts/release.sh [--check | --dry]
#
# It looks whether the files agree on the version, packs the source, builds and tests what it has packed, packs the rocks,
# asks each build for its version, and writes target/release-VERSION: the archive, the rockspecs, the rocks and
# SHA256SUMS. With --check it only looks. With --dry it does all of it but the tests, in a clone of the last commit that it
# removes afterwards, with one rock, which is not optimised; there it also dates the newest section of CHANGELOG.md, as the
# commit that is released does ("Releasing" in CONTRIBUTING.md).
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."
# In a hook they name its repository, also for git in the clone of --dry.
# shellcheck disable=SC2046 # names of variables
unset $(git rev-parse --local-env-vars | grep -v '^GIT_CONFIG')

fail() {
    echo "release: $*" >&2
    exit 1
}

mode=
case $* in
    "") ;;
    --check | --dry) mode=${1#--} ;;
    *)
        echo "usage: scripts/release.sh [--check | --dry]" >&2
        exit 2
        ;;
esac

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
flavours=(luajit 5.1 5.3 5.4)
if [ -z "$mode" ]; then
    # Two at once would put their files into one folder.
    exec 8<Cargo.toml
    flock -n 8 || fail "another release is being made in this checkout"
fi
work=
if [ "$mode" != check ]; then
    # Not in /tmp, where any user can make the .cargo/config.toml that cargo reads in each folder above.
    cache=${XDG_CACHE_HOME:-$HOME/.cache}
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/release.XXXXXX")
fi
made=
# Nothing is left of a release that is not made to its end.
trap 'rm -rf ${work:+"$work"} ${made:+"$made"}' EXIT

if [ "$mode" = dry ]; then
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target} QUICK=1
    export GIT_AUTHOR_NAME=dry GIT_AUTHOR_EMAIL=dry@localhost GIT_COMMITTER_NAME=dry GIT_COMMITTER_EMAIL=dry@localhost
    flavours=(luajit)
    git clone -q --no-tags . "$work/clone"
    cd "$work/clone"
    sed -i "0,/^## /s/^## .*/## [$version] - $(date -u +%F)/" CHANGELOG.md
    git commit -qam "The date of the release" --allow-empty
fi

# What a developer has set for this machine, such as flags for its processor, is not for others.
for name in $(compgen -e); do
    case $name in
        CARGO_BUILD_JOBS) ;;
        RUSTFLAGS | RUSTC | RUSTC_* | CARGO_ENCODED_RUSTFLAGS | CARGO_BUILD_* | CARGO_PROFILE_* | CARGO_TARGET_*_* | \
            CARGO_UNSTABLE_* | CC | CC_* | CFLAGS | CFLAGS_* | HOST_C* | TARGET_C*) unset "$name" ;;
    esac
done
# refuse_settings FILE…: fails if one of these configures what cargo builds.
refuse_settings() {
    local file
    for file; do
        ! grep -qsE "^[[:space:]]*\[*[[:space:]]*[\"']?(build|env|host|include|patch|paths|profile|target|unstable)\>" "$file" ||
            fail "$file configures what cargo builds, which is not for other machines: move it away for the release"
    done
}
if [ "$mode" != check ]; then
    above=$(cd "$work" && pwd -P)
    while
        refuse_settings "$above/.cargo/config" "$above/.cargo/config.toml"
        [ "$above" != / ]
    do
        above=$(dirname "$above")
    done
    refuse_settings "${CARGO_HOME:-$HOME/.cargo}"/{config,config.toml}
fi

# An unpacked archive can be in the repository of something else.
GIT_CEILING_DIRECTORIES=$(dirname "$(pwd -P)")
export GIT_CEILING_DIRECTORIES
# The commit that is released, also when another one is made meanwhile.
commit=$(git rev-parse HEAD) || fail "git cannot read this checkout"
changed=$(git status --porcelain) || fail "git cannot read the files of this checkout"
[ -z "$changed" ] || fail "commit everything first:"$'\n'"$changed"
scripts/rockspecs.sh --check || fail "the rockspecs are not those of $version: run scripts/rockspecs.sh"
newest=$(grep -m 1 '^## ' CHANGELOG.md) || fail "CHANGELOG.md has no section"
dated=${newest#"## [$version] - "}
[ "$(date -u -d "$dated" +%F 2>/dev/null)" = "$dated" ] || fail "the newest section of CHANGELOG.md is \"$newest\":" \
    "the commit that is released has \"## [$version] - $(date -u +%F)\" there"
others=$(git tag --points-at "$commit" --list 'v[0-9]*' | grep -vxF "v$version") || others=
[ -z "$others" ] || fail "this commit is tagged $others, and Cargo.toml has $version"
host=$(rustc -vV | sed -n 's/^host: //p')
said=$(cargo metadata --format-version=1 --locked --filter-platform="$host" 2>&1 >/dev/null) || case $said in
    *"--locked was passed"*) fail "Cargo.lock is not that of Cargo.toml:"$'\n'"$said" ;;
    *) fail "cargo does not get the crates of Cargo.lock:"$'\n'"$said" ;;
esac
# Each file that a release has, this one has too.
golden=$(git ls-tree -r --name-only "$commit" tests/golden | sed 's|.*/||' | sort -u)
for file in ${golden:-cluster.json}; do
    git cat-file -e "$commit:tests/golden/$version/$file" 2>/dev/null ||
        fail "tests/golden/$version/$file is missing: run make golden"
done
# What a release has written stays as it was: later builds are tested with it.
for release in $(git tag --list 'v[0-9]*'); do
    git diff --quiet "refs/tags/$release" "$commit" -- "tests/golden/${release#v}" ||
        fail "tests/golden/${release#v} is not that of $release: restore it, and raise the version before make golden"
done
tagged=$(git rev-parse -q --verify "refs/tags/v$version^{commit}") || tagged=
if [ "$mode" = check ]; then
    echo "release: all files are those of $version, dated $dated"
    case $tagged in
        "") echo "release: there is no tag v$version here: make release makes it" ;;
        "$commit") echo "release: this commit is v$version" ;;
        *) echo "release: v$version is another commit: a release of this one needs another version" ;;
    esac
    exit
fi
[ -z "$tagged" ] || fail "there is a tag v$version"
committed=$(TZ=UTC git log -1 --format=%cd --date=format-local:%F "$commit")
[ "$dated" = "$committed" ] ||
    fail "CHANGELOG.md dates $version on $dated, and the last commit is of $committed (UTC): commit that date"
git var GIT_COMMITTER_IDENT >/dev/null || fail "git does not know the author of the tag: set user.name and user.email"

folder=$PWD/target/release-$version
made=$folder.new
rm -rf "$folder" "$made"
mkdir -p "$made"
# The same bytes with any settings of git.
git -c tar.umask=0022 -c core.autocrlf=false archive --format=tar --prefix="consul_ffi-$version/" "$commit" |
    gzip -n >"$made/consul_ffi-$version.tar.gz"

# What is tested is what was packed: without .git, and with nothing else of this checkout.
source=$work/source
mkdir "$source"
tar -xzf "$made/consul_ffi-$version.tar.gz" -C "$source" --strip-components=1
cp "$source"/{rockspec,rockspec/tools,etcd,resty}/*-"$version"-1.rockspec "$made"
if [ "$mode" != dry ]; then
    # In another folder cargo would take a later build of this checkout, with changes that are not committed, for its own.
    export CARGO_TARGET_DIR=$source/target
    unset QUICK
    make -C "$source" test-all
fi
"$source/scripts/rocks.sh" "${flavours[@]}"
for flavour in "${flavours[@]}"; do
    engine=$flavour
    [ "$flavour" = luajit ] || engine=lua$flavour
    built=$(cd "$source" && env -u LUA_CPATH_5_3 -u LUA_CPATH_5_4 LUA_CPATH="./target/rock/$flavour/?.so" \
        "$engine" -e 'print(require("consul_ffi")._VERSION)') || fail "the build for $engine does not load"
    [ "$built" = "$version" ] || fail "the build for $engine says $built"
done
cp "$source"/target/rocks/*.rock "$made"

(cd "$made" && sha256sum -- *.tar.gz *.rockspec *.rock >SHA256SUMS && cat SHA256SUMS)
mv "$made" "$folder"
# The same programs make the same files of the archive: docs/upgrading.md.
tools="$(rustc --version), $(cc --version | head -n 1), $(ld --version | head -n 1)"
git tag -a "v$version" -m "consul_ffi $version" -m "Built with $tools." "$commit" ||
    fail "$folder is made, but there is no tag: git tag -a v$version -m 'consul_ffi $version' -m 'Built with $tools.' $commit makes it"
if [ "$mode" = dry ]; then
    (cd "$folder" && sha256sum --quiet -c SHA256SUMS) || fail "SHA256SUMS is wrong"
    [ "$(git cat-file -t "v$version")" = tag ] || fail "v$version is not an annotated tag"
    echo "release: $version would be made; nothing is left of it"
else
    echo "release: $folder is made; git push origin v$version publishes it"
fi
