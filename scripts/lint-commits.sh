#!/usr/bin/env bash
# Checks the messages of the commits that are not in origin's branch yet, or that were made since the last tag: a subject of at
# most 72 characters, an empty line, and a body that says why. Merges and what they bring are left out: that was looked at
# on its own branch.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

if ! git rev-parse --git-dir >/dev/null 2>&1; then
    echo "SKIPPED: the messages of the commits: this is not a clone"
    exit
fi
base=$(git rev-parse --verify --quiet '@{upstream}' 2>/dev/null) || base=$(git rev-parse --verify --quiet origin/HEAD) ||
    base=$(git describe --tags --abbrev=0 2>/dev/null) || {
    echo "SKIPPED: the messages of the commits: there is neither a branch of origin nor a tag"
    exit
}
status=0
for commit in $(git rev-list --no-merges --first-parent "$base..HEAD"); do
    subject=$(git log -1 --no-show-signature --format=%s "$commit") why=
    if [ ${#subject} -gt 72 ]; then
        why="the subject has ${#subject} characters, up to 72 are allowed"
    elif [ -z "$(git log -1 --no-show-signature --format=%b "$commit")" ]; then
        why="there is no body, which says why"
    fi
    [ -z "$why" ] || { echo "${commit:0:10} \"$subject\": $why" && status=1; }
done
exit $status
