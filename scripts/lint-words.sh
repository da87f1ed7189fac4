#!/usr/bin/env bash
# Refuses phrases that are not the plain English of engineers (see "Words" in CONTRIBUTING.md).
#
#   scripts/lint-words.sh [PATH…]
#
# Searches the tracked text files below each PATH, or all of them, line by line and ignoring case.
# Prints file:line, the phrase and a replacement; exits with status 1 if there is one.
# scripts/lint-words.allow has the exceptions.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

# phrase (extended regular expression, matched as whole words) = what to write; "text: " before it: in Markdown pages and in
# comments of Rust and Lua
phrases='
(is|are|was|were) no = is not a, invalid; there is no
(be|been|being) no = not be a
(somebody|someone|anybody) who = a noun: the caller, a waiter
who(so)?ever = a noun: the caller, the holder; any node that
at most so (many|much|long) = up to n
so many = up to n, n
for ever = forever
anew = again
by chance = random, at random
in vain = without success, failed
((must|has to|needs to) be|it is|(is|are|was|were) not) said = required; omitted, not set
(what|when nothing) is said = configured, set; by default
(told|tells?) of = reports, is notified of
(hears?|heard) of = learns of, sees
(has|have|had) it that = says that
for want of = without
text: one that = the noun: a node that
text: of which = two sentences; whose
text: that which = the noun
text: said = reported, recorded, configured
text: those of = the noun
'

phrases=$(sed '/^$/d' <<<"$phrases")
any=$(awk -F ' = ' '{ sub(/^text: /, ""); print $1 }' <<<"$phrases" | paste -sd '|')

# -w: whole words. A search without a match is not an error. An unpacked archive has no index of tracked files, and the
# repository that it may be in ignores its files or does not track them.
GIT_CEILING_DIRECTORIES=$(dirname "$(pwd -P)")
export GIT_CEILING_DIRECTORIES
where=(--no-color)
git rev-parse --is-inside-work-tree >/dev/null 2>&1 || where+=(--no-index --exclude-standard)
found=$(git grep "${where[@]}" -nIwiE -e "$any" -- "${@:-.}" || [ $? = 1 ])
status=0

awk -v allow=scripts/lint-words.allow -v list="$phrases" '
    BEGIN {
        n = split(list, phrases, "\n")
        while ((getline line < allow) > 0) {
            if (line ~ /^(#|$)/) continue
            if (split(line, field, " *:: *") != 3) {
                print allow ": not \"path :: phrase :: reason\": " line
                failed = 1
            }
            path[++exceptions] = field[1]
            except[exceptions] = field[2]
        }
    }
    # The part of a line that the phrases of "text: " are searched in: a page, or a comment without the code in it.
    function prose(path, text) {
        if (path ~ /\.md$/) return text
        if (path !~ /\.(rs|lua)$/) return ""
        gsub(/`[^`]*`/, "", text)
        mark = path ~ /rs$/ ? "//[/!]?" : "---?"
        return match(text, "(^|[ \t])" mark "[ \ta-z]") ? substr(text, RSTART) : ""
    }
    NF {
        split($0, part, ":")
        text = tolower(substr($0, length(part[1] part[2]) + 3))
        for (i = 1; i <= exceptions; i++)
            if (part[1] ~ "^(" path[i] ")$") gsub(except[i], "", text)
        for (i = 1; i <= n; i++) {
            split(phrases[i], phrase, " = ")
            searched = sub(/^text: /, "", phrase[1]) ? prose(part[1], text) : text
            if (match(searched, "(^|[^a-z0-9_])(" phrase[1] ")([^a-z0-9_]|$)")) {
                odd = substr(searched, RSTART, RLENGTH)
                at = index(text, odd)
                text = substr(text, 1, at) "|" substr(text, at + RLENGTH - 1)
                gsub(/^[^a-z]+|[^a-z]+$/, "", odd)
                print part[1] ":" part[2] ": \"" odd "\"; write: " phrase[2]
                failed = 1
            }
        }
    }
    END { exit failed }
' <<<"$found" || status=1

# A comment begins with a noun. A question may begin with "What".
begins='^[[:space:]]*(//[/!]?|---?) ?([^`]*[.!?] )?(What|Whatever|That which) [^?]*$'
found=$(git grep "${where[@]}" -nIE -e "$begins" -- "${@:-.}" || [ $? = 1 ])
found=$(grep -E '^[^:]*\.(rs|lua):' <<<"$found" || true)
if [ -n "$found" ]; then
    awk -F : '{ print $1 ":" $2 ": a sentence of a comment begins with \"What\"; write: a noun" }' <<<"$found"
    status=1
fi
exit "$status"
