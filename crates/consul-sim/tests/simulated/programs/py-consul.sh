#!/usr/bin/env bash
# The tests of py-consul, with a fresh Consul for each, which conftest.py starts in place of a container.
# shellcheck disable=SC2034,SC2154 # compare.sh reads and sets them
version=1.8.0 least=150 installed=source/tests/conftest.py

install() {
    python_packages "$1/packages" "py-consul==$version" pytest pytest-asyncio pytest-xdist aiohttp
    (cd "$1" && python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: "py-consul==$version" >&2) \
        || cannot "pip could not download the tests of py-consul"
    mkdir "$1/unpacked"
    tar -xzf "$1"/py_consul-*.tar.gz --strip-components=1 -C "$1/unpacked"
    mv "$1/unpacked" "$1/source"
}

results() {
    local root=$PWD
    cp "$here/conftest.py" "$1/source/conftest.py"
    (ROOT=$root PYTHONPATH=$1/packages env -C "$1/source" python3 -m pytest -p no:cacheprovider -o addopts= -n 4 -rA -q tests 2>&1 \
        || true) \
        | tee /dev/stderr | sed -nE 's/^(PASSED|FAILED|ERROR|SKIPPED) (tests[^ ]*).*/\2\t\1/p' \
        | sed -e 's/PASSED$/pass/' -e 's/\(FAILED\|ERROR\)$/fail/' -e 's/SKIPPED$/skip/'
}
