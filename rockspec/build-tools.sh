#!/usr/bin/env bash
# Builds the programs consul-ha and consul-migrate, for their rock.
#
#   rockspec/build-tools.sh FOLDER
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

# shellcheck source=rockspec/lib.sh
source rockspec/lib.sh

[ $# -eq 1 ] || fail "usage: rockspec/build-tools.sh FOLDER"
check_rust "the programs"

# luarocks sets CC to its default, which cargo would treat as a change and rebuild ring.
[ "${CC:-}" != gcc ] || unset CC

folder=${CARGO_TARGET_DIR:-target}/tools
check_places "$folder" "$1"
room=2000
[ ! -d "$folder/release" ] || room=100
check_machine "the programs" "$folder" "$room"
messages=$(CARGO_TARGET_DIR=$folder cargo "${without_home[@]}" build --release --locked --package consul-ha --package consul-migrate --bin consul-ha --bin consul-migrate \
    "$as_messages")
ha=$(built consul-ha "$messages")
migrate=$(built consul-migrate "$messages")
install -D -m 755 -t "$1" "$ha" "$migrate"
