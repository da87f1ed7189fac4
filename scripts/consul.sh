#!/usr/bin/env bash
# Prints the path of a Consul binary of that version; all other output goes to stderr.
#
#   scripts/consul.sh 1.21|1.8
#
# Looks at $CONSUL_BIN, then at `consul` on PATH, then in the cache
# (${XDG_CACHE_HOME:-$HOME/.cache}/consul_ffi); else builds 1.21.0 through the Go module proxy
# (some minutes) or unpacks Debian's package of 1.8.7. Nothing is installed.
# Exit status 3, and the reason in one line, when it is unavailable.
set -euo pipefail

# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

usage() {
    echo "usage: scripts/consul.sh 1.21|1.8" >&2
    exit 2
}

[ $# -eq 1 ] || usage
wanted=$1
case $wanted in
    1.21) full=1.21.0 ;;
    1.8) full=1.8.7 ;;
    *) usage ;;
esac

# matches BINARY: succeeds for a Consul of that version.
matches() {
    local said
    said=$("$1" version 2>/dev/null) || return 1
    [[ $said == "Consul v$wanted."* ]]
}

if [ -n "${CONSUL_BIN:-}" ] && matches "$CONSUL_BIN"; then
    echo "$CONSUL_BIN"
    exit
fi
if on_path=$(command -v consul) && matches "$on_path"; then
    echo "$on_path"
    exit
fi

# build_with_go FOLDER: builds the program `consul` in it.
build_with_go() {
    local source
    use_go 24 "Consul $full"
    cd "$1"
    cat >go.mod <<MODULE
module consul-server

go 1.24.0

tool github.com/hashicorp/consul

require github.com/hashicorp/consul v$full
MODULE
    echo "building Consul $full with Go in $1 (some minutes)…" >&2
    go mod download github.com/hashicorp/consul >&2 || cannot "Go could not download Consul $full"
    # One dependency is not in the proxy's checksum database; Consul's own go.sum, which the download
    # above has verified, pins it.
    source=$(go list -m -f '{{.Dir}}' github.com/hashicorp/consul) \
        || cannot "Go could not find the downloaded Consul $full"
    install -m 644 "$source/go.sum" go.sum
    go build -mod=mod -o consul github.com/hashicorp/consul >&2 \
        || cannot "Go could not build Consul $full"
    cd - >/dev/null
}

# unpack_debian_package FOLDER: puts `consul` into it from the package of an older Debian release,
# which the archives in this machine's apt sources still have.
unpack_debian_package() {
    local helper=/usr/lib/apt/apt-helper
    local package=pool/main/c/consul/consul_1.8.7+dfsg1-2+b3_amd64.deb
    local sum=SHA256:e4e888bba104daba1d9161f49bfc52649a7e4efd45b1a7ead5bc54f2cb9c89d9
    local base
    [ -x "$helper" ] || cannot "Consul $full comes from a Debian package, and this machine has no apt"
    [ "$(dpkg --print-architecture)" = amd64 ] \
        || cannot "Consul $full comes from a Debian package for amd64, and this is another architecture"
    while read -r base; do
        echo "looking for Debian's Consul $full in this machine's apt archives…" >&2
        if "$helper" -q -o APT::Sandbox::User=root \
            download-file "${base%/}/$package" "$1/consul.deb" "$sum" >&2; then
            dpkg-deb -x "$1/consul.deb" "$1/unpacked"
            mv "$1/unpacked/usr/bin/consul" "$1/consul"
            return
        fi
    done < <(apt_archives)
    cannot "none of this machine's apt archives has Debian's package of Consul $full"
}

# apt_archives: prints the base URLs in the machine's apt sources, of both formats.
apt_archives() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list \
        /etc/apt/sources.list.d/*.sources 2>/dev/null \
        | sed -n -E -e 's/^deb +(\[[^]]*\] +)?([^ ]+).*/\2/p' -e 's/^URIs: *//p' \
        | tr -s ' ' '\n' | awk 'NF && !seen[$0]++'
}

# make_consul FOLDER: puts the program `consul` there, and nothing else.
make_consul() {
    local work=$1/work
    mkdir "$work"
    case $wanted in
        1.21) build_with_go "$work" ;;
        1.8) unpack_debian_package "$work" ;;
    esac
    matches "$work/consul" || cannot "the new Consul $full does not run on this machine"
    mv "$work/consul" "$1"
    rm -rf "$work"
}

cache_once "consul-$full" consul make_consul
echo "$cached/consul"
