#!/usr/bin/env bash
# Packs consul-sim for those who test in Python and Node, into target/packages.
#
#   scripts/packages.sh wheel [dev]              a wheel, by maturin from PyPI
#   scripts/packages.sh npm [dev]                two npm packages: the functions, and the program for this machine
#   scripts/packages.sh image [BUILDER]          an image for containers, of the static program that `make dist` has made
#   scripts/packages.sh test-wheel|test-npm [dev]  the same, and its tests with what was installed from the files
#   scripts/packages.sh check-wheel|check-npm    whether what they need can be had
#
# With `dev` the program is the one of the tests, not optimised. Status 3, with SKIPPED and why: a client or its
# registry cannot be reached.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

what=${1:-}
profile=${2:-release}
packages=$PWD/target/packages
# Relative to this folder for maturin, too.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
sources=crates/consul-sim/packages
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$packages"

skip() {
    echo "SKIPPED: $1"
    exit 3
}

# What builds the wheel, and runs its tests.
python=$packages/python
check_wheel() {
    local wanted=('maturin>=1.7,<2' pytest)
    [ -x "$python/bin/pip" ] || python3 -m venv "$python" >"$folder/said" 2>&1 || skip "venv: $(tail -n 1 "$folder/said")"
    "$python/bin/pip" install --quiet --disable-pip-version-check "${wanted[@]}" >"$folder/said" 2>&1 ||
        skip "pip install ${wanted[*]}: $(tail -n 1 "$folder/said")"
}

check_npm() {
    command -v npm >/dev/null || skip 'npm is missing'
}

make_wheel() {
    check_wheel
    rm -f "$packages"/consul_sim-*.whl
    (cd "$sources/python" && "$python/bin/maturin" build --quiet --locked --profile "$profile" --out "$packages")
    ls "$packages"/consul_sim-*.whl
}

test_wheel() {
    "$python/bin/pip" install --quiet --no-index --force-reinstall "$packages"/consul_sim-*.whl
    (cd "$folder" && env -u CONSUL_SIM PYTHONDONTWRITEBYTECODE=1 "$python/bin/python" -m pytest -q -p no:cacheprovider \
        "$OLDPWD/$sources/python/tests")
}

make_npm() {
    check_npm
    cargo build --quiet --locked --package consul-sim --bin consul-sim --profile "$profile"
    local version platform program
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    platform=$(node -p 'process.platform + "-" + process.arch')
    program=$CARGO_TARGET_DIR/$([ "$profile" = dev ] && echo debug || echo "$profile")/consul-sim
    mkdir -p "$folder/main" "$folder/platform/bin"
    cp "$sources"/npm/{index.js,index.d.ts,cli.js,README.md,package.json} "$folder/main"
    install -m755 "$program" "$folder/platform/bin/consul-sim"
    VERSION=$version PLATFORM=$platform node - "$folder" <<'JS'
const { readFileSync, writeFileSync } = require("node:fs");
const [, , folder] = process.argv;
const { VERSION: version, PLATFORM: platform } = process.env;
const main = JSON.parse(readFileSync(`${folder}/main/package.json`));
const platforms = ["linux-x64", "linux-arm64", "linux-x64-musl", "linux-arm64-musl", "darwin-x64", "darwin-arm64"];
const name = (it) => `@consul-sim/${it}`;
main.version = version;
main.optionalDependencies = Object.fromEntries(platforms.map((it) => [name(it), version]));
writeFileSync(`${folder}/main/package.json`, JSON.stringify(main, null, 2));
const [os, cpu, libc] = platform.split("-");
const of_platform = { name: name(platform), version, description: `consul-sim for ${platform}`, license: main.license, os: [os], cpu: [cpu] };
if (os === "linux") of_platform.libc = [libc ?? "glibc"];
writeFileSync(`${folder}/platform/package.json`, JSON.stringify(of_platform, null, 2));
JS
    rm -f "$packages"/consul-sim-*.tgz
    (cd "$packages" && npm pack --silent "$folder/main" && npm pack --silent "$folder/platform")
}

test_npm() {
    mkdir "$folder/user"
    cp "$sources/npm/agent.test.mjs" "$folder/user"
    echo '{ "private": true }' >"$folder/user/package.json"
    local files
    files=("$packages"/consul-sim-*.tgz)
    (
        cd "$folder/user"
        # Both are files: nothing is asked of the registry.
        npm install --silent --no-audit --no-fund --no-package-lock --omit=optional --offline "${files[@]}"
        env -u CONSUL_SIM node --test --test-reporter=spec agent.test.mjs
    )
}

# The first of those that can build an image; `docker` is often a client without its server.
builder() {
    local each
    for each in "$@"; do
        ! "$each" info >/dev/null 2>&1 || { echo "$each" && return; }
    done
    return 1
}

make_image() {
    local version name chosen archive
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    name=consul-sim-$version-linux-$(uname -m)-musl
    archive=target/dist/$name.tar.gz
    [ -f "$archive" ] || { echo "image: $archive is missing: make dist ONLY=consul-sim TARGETS=$(uname -m)-unknown-linux-musl" >&2 && exit 1; }
    if [ "$profile" = release ]; then
        chosen=$(builder podman buildah docker) || skip 'the image: none of podman, buildah and docker runs here'
    else
        chosen=$(builder "$profile") || skip "the image: $profile does not run here"
    fi
    tar -xzf "$archive" -C "$folder"
    "$chosen" build --build-arg "VERSION=$version" --tag "consul-sim:$version" --file "$sources/Containerfile" "$folder/$name"
}

case $what in
    check-wheel) check_wheel ;;
    check-npm) check_npm ;;
    wheel) make_wheel ;;
    npm) make_npm ;;
    image) make_image ;;
    test-wheel) make_wheel && test_wheel ;;
    test-npm) make_npm && test_npm ;;
    *)
        sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac
