#!/usr/bin/env bash
# Checks lua/meta with a language server: it marks no line of tests/annotations/uses.lua, and each line of
# tests/annotations/mistakes.lua that ends with `-- !`.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

if ! command -v emmylua_check >/dev/null; then
    echo "SKIPPED: emmylua_check is missing (cargo install emmylua_check --locked)"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp lua/meta/library/*.lua tests/annotations/*.lua "$folder"
# The results of calls that failed are not the subject, and nothing is used.
cat >"$folder/.emmyrc.json" <<'JSON'
{ "runtime": { "version": "LuaJIT" }, "diagnostics": { "disable": ["need-check-nil", "unnecessary-assert", "unused"] } }
JSON
(cd "$folder" && emmylua_check . >found 2>&1) || true
if ! grep -q '^Check ' "$folder/found"; then
    cat "$folder/found"
    exit 1
fi
failed=0
if grep -B 1 -E -- '--> (uses|consul_ffi\.d)\.lua:' "$folder/found"; then
    echo "lua/meta: right uses are marked"
    failed=1
fi
while IFS=: read -r line _; do
    if ! grep -q -- "--> mistakes.lua:$line:" "$folder/found"; then
        echo "tests/annotations/mistakes.lua:$line: the mistake is not marked"
        failed=1
    fi
done < <(grep -n -- '-- !$' tests/annotations/mistakes.lua)
exit "$failed"
