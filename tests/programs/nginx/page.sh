#!/usr/bin/env bash
# Runs the commands of "A gateway in ten minutes" in docs/openresty.md as they stand there, and prints what they print.
#
#   tests/programs/nginx/page.sh debian FOLDER         FOLDER is what scripts/nginx.sh prints
#   tests/programs/nginx/page.sh openresty PROGRAM     an OpenResty, which its workers' user can read
#
# In namespaces of its own, as root: it has the page's ports and its files in /etc, /usr and /var, and nothing of the
# machine changes. Only the programs are others that the reader has installed before: Debian's packages are unpacked,
# consul is CONSUL_SIM, and make is MAKE if that is set. Exit status 3, and the reason, when there are no namespaces.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/../../.."

# shellcheck source=scripts/lib.sh
source scripts/lib.sh
[ "${1:-}" = inside ] || enter_namespaces "$@"

kind=$2 what=$3
ip link set lo up
scratch=$(mktemp -d)
mount -t tmpfs none "$scratch"
# changes FOLDER LOWER: has FOLDER take changes, which nobody else sees.
changes() {
    mkdir -p "$scratch$1/upper" "$scratch$1/work"
    mount -t overlay overlay -o "lowerdir=$2,upperdir=$scratch$1/upper,workdir=$scratch$1/work" "$1"
}
mkdir "$scratch/bin"
# program NAME TEXT: in the place of one that the reader has.
program() {
    printf '#!/bin/sh\n%s\n' "$2" >"$scratch/bin/$1"
    chmod 755 "$scratch/bin/$1"
}
sim=$(realpath "$CONSUL_SIM")
program consul "exec $sim \"\$@\" -dns-port=-1"
program make "exec ${MAKE:-$(command -v make)} \"\$@\" >&2"
if [ "$kind" = debian ]; then
    changes /usr "$what/usr:/usr"
    cp -P "$what"/libraries/*.so.* "/usr/lib/$(uname -m)-linux-gnu/"
    skipped="With OpenResty"
    # What the packages' scripts make; the packages themselves are unpacked.
    program apt-get "case \"\$*\" in
        *--no-remove*) mkdir -p /var/lib/nginx /var/log/nginx ;;
        *) echo 'apt-get may remove packages' >&2; exit 1 ;;
    esac"
else
    changes /usr /usr
    ln -s "$what" "$scratch/bin/openresty"
    skipped="With Debian's nginx"
fi
changes /etc /etc
changes /var /var
chmod 755 "$scratch"
PATH=$scratch/bin:$PATH
unset LUA_PATH LUA_CPATH

# The blocks with commands of the section, without those for the other nginx.
awk -v skipped="### $skipped" '
    /^## / { is_section = /^## A gateway in ten minutes/ }
    /^### / { is_skipped = $0 == skipped }
    /^```/ { is_sh = /^```sh/; next }
    is_section && !is_skipped && is_sh
' docs/openresty.md >"$scratch/commands"
bash -e "$scratch/commands" 2>"$scratch/errors" || {
    echo "the commands end with status $?" >&2
    tail -n 30 "$scratch/errors" >&2
    exit 1
}
