#!/usr/bin/env bash
# Functions of the programs here; compare.sh sources it.

# How many seconds a program may take to show what has to come: as PATIENCE of consul-test-support.
patience=300

# go_source FOLDER MODULE@VERSION: a copy of the module's source in FOLDER/source, whose tests can be built there.
go_source() {
    local said from
    use_go 22 "$2"
    said=$(cd "$1" && go mod download -json "$2") || cannot "the Go module proxy has no $2 for us"
    from=$(sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p' <<<"$said")
    cp -r "$from" "$1/source"
    chmod -R u+w "$1/source"
}

# go_tests SOURCE PROGRAM PACKAGE [OPTION…]: builds the tests of a package.
go_tests() {
    (cd "$1" && go test -mod=mod "${@:4}" -c -o "$2" "$3" >&2) || cannot "the tests of $3 do not build"
}

# go_results: from what Go's tests print, names and verdicts.
go_results() {
    tee /dev/stderr | sed -nE 's/^ *--- (PASS|FAIL|SKIP): ([^ ]+) \(.*/\2\t\1/p' \
        | sed -e 's/\tPASS$/\tpass/' -e 's/\tFAIL$/\tfail/' -e 's/\tSKIP$/\tskip/'
}

# python_packages FOLDER PACKAGE…: installs them for PYTHONPATH.
python_packages() {
    command -v python3 >/dev/null || cannot "python3 is missing"
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --target "$1" "${@:2}" >&2 \
        || cannot "pip could not install ${*:2}"
}

# put PATH [BODY]: a PUT, or METHOD, to Consul.
put() {
    curl -sSf -o /dev/null -X "${METHOD:-PUT}" -d "${2:-}" "http://$CONSUL_HTTP_ADDR/v1/$1" >&2
}

# free_port: prints a port that nothing listens on.
free_port() {
    local port
    while port=$((10000 + (RANDOM * 32768 + RANDOM) % 22000)) && (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

# until_prints TEXT COMMAND…: waits until the command prints it, for up to $patience seconds; prints what it has printed last.
until_prints() {
    local seen='' end=$((SECONDS + patience))
    while seen=$("${@:2}" 2>/dev/null) || true; [ "$seen" != "$1" ] && [ $SECONDS -lt $end ]; do sleep 0.2; done
    echo "$seen"
}

# saw NAME TEXT: a result; lines of the text become one.
saw() {
    printf '%s\t%s\n' "$1" "$(printf '%s' "$2" | paste -sd ' ')"
}

# debian_libraries FOLDER: the folders of libraries in the unpacked packages there.
debian_libraries() {
    find "$1/usr/lib" "$1/lib" -maxdepth 1 -name '*-linux-*' 2>/dev/null | paste -sd :
}

# debian_runs FOLDER COMMAND…: `cannot` unless a program of these packages runs.
debian_runs() {
    LD_LIBRARY_PATH=$(debian_libraries "$1") "${@:2}" >&2 || cannot "$(basename "$2") of Debian's package does not run here"
}
