#!/usr/bin/env bash
# Makes the rockspecs of the release in Cargo.toml from those of the checkout (*-scm-1.rockspec), and writes the
# repository of Cargo.toml into both.
#
#   scripts/rockspecs.sh [--check]
#
# With --check it changes nothing, prints what is not as it would be made, and fails if there is any.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

# field NAME: a field of the package in Cargo.toml.
field() {
    sed -n "s/^$1 = \"\(.*\)\"$/\1/p" Cargo.toml | head -n 1
}

check=
case ${1:-} in
    "") ;;
    --check) check=yes ;;
    *)
        echo "usage: scripts/rockspecs.sh [--check]" >&2
        exit 2
        ;;
esac

version=$(field version) repository=$(field repository)
failed=0

# made FILE: compares standard input with the file, or writes it there. Fails if they differ.
made() {
    local text
    text=$(cat)
    if [ -z "$check" ]; then
        printf '%s\n' "$text" >"$1"
    else
        diff -u --label "$1" --label "$1 as scripts/rockspecs.sh makes it" "$1" - <<<"$text"
    fi
}

for checkout in rockspec/*-scm-1.rockspec rockspec/tools/*-scm-1.rockspec etcd/*-scm-1.rockspec resty/*-scm-1.rockspec; do
    sed -e "s|^\( *url = \).*|\1\"git+$repository.git\",|" \
        -e "s|^\( *homepage = \).*|\1\"$repository\",|" "$checkout" | made "$checkout" || failed=1
    sed -e "s|^version = .*|version = \"$version-1\"|" \
        -e "s|^\( *\)url = .*|\1url = \"git+$repository.git\",\n\1tag = \"v$version\",|" \
        -e "s|^\( *homepage = \).*|\1\"$repository\",|" "$checkout" | made "${checkout/-scm-/-$version-}" || failed=1
done
exit "$failed"
