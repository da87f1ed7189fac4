#!/usr/bin/env bash
# Prints the path of an etcd server of that version; all other output goes to stderr.
#
#   scripts/etcd.sh 3.4|3.5|3.6|3.7
#
# Looks at `etcd` on PATH, then in the cache (${XDG_CACHE_HOME:-$HOME/.cache}/consul_ffi); else unpacks Debian's package
# etcd-server (3.4), or builds a later one through the Go module proxy (a minute). Nothing is installed.
# Exit status 3, and the reason in one line, when it is unavailable.
set -euo pipefail

# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

usage() {
    echo "usage: scripts/etcd.sh 3.4|3.5|3.6|3.7" >&2
    exit 2
}

[ $# -eq 1 ] || usage
wanted=$1 go=24
case $wanted in
    3.4) full=3.4 ;; # that of the Debian release
    3.5) full=3.5.35 ;;
    3.6) full=3.6.8 ;; # only root may ask it for maintenance/status; later ones let each user
    3.7) full=3.7.3 go=26 ;;
    *) usage ;;
esac

# matches PROGRAM: succeeds for an etcd of that version.
matches() {
    local said
    said=$("$1" --version 2>/dev/null) || return 1
    [[ $said == "etcd Version: $full"* ]]
}

if on_path=$(command -v etcd) && matches "$on_path"; then
    echo "$on_path"
    exit
fi

# build_with_go FOLDER: builds the program `etcd` in it.
build_with_go() {
    local module=go.etcd.io/etcd/server/v3 source
    use_go "$go" "etcd $full"
    cd "$1"
    cat >main.go <<'GO'
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
GO
    printf 'module etcd-server\n\ngo 1.%s\n\nrequire %s v%s\n' "$go" "$module" "$full" >go.mod
    echo "building etcd $full with Go in $1 (a minute)…" >&2
    go mod download "$module" >&2 || cannot "Go could not download etcd $full"
    source=$(go list -m -f '{{.Dir}}' "$module") || cannot "Go could not find the downloaded etcd $full"
    # The download above has verified etcd's own go.sum, which pins all that it needs.
    install -m 644 "$source/go.sum" go.sum
    go build -mod=mod -o etcd . >&2 || cannot "Go could not build etcd $full"
    cd - >/dev/null
}

# unpack_debian_package FOLDER: puts `etcd` into it from the package of this machine's Debian release.
unpack_debian_package() {
    unpack_packages "$1/unpacked" etcd-server
    mv "$1/unpacked/usr/bin/etcd" "$1/etcd"
}

# make_etcd FOLDER: puts the program `etcd` there, and nothing else.
make_etcd() {
    local work=$1/work
    mkdir "$work"
    case $wanted in
        3.4) unpack_debian_package "$work" ;;
        *) build_with_go "$work" ;;
    esac
    matches "$work/etcd" || cannot "what was made is not an etcd $full that runs on this machine"
    mv "$work/etcd" "$1"
    rm -rf "$work"
}

cache_once "etcd-$full" etcd make_etcd
echo "$cached/etcd"
