#!/usr/bin/env bash
# Compares what luarocks has installed of a rock with the rock: on a full disk luarocks leaves files cut short and says that
# all is well.
#
#   scripts/installed.sh ROCK [ARGUMENT…]     the arguments of luarocks that say where
set -euo pipefail

unset "${!LUA_INIT@}" # may print where luarocks answers
rock=$1
shift
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unzip -q "$rock" -d "$folder"
for kind in lib lua; do
    place=$(luarocks "$@" config "deploy_${kind}_dir")
    while IFS= read -r file; do
        cmp -s "$folder/$kind/$file" "$place/$file" || {
            echo "install: $place/$file is not that of $rock: is the disk full? Make room, then install it again" >&2
            exit 1
        }
    done < <(cd "$folder/$kind" && find . -type f -printf "%P\n")
done
