#!/usr/bin/env bash
# Runs the long tests. The last line is "N passed, N failed, N skipped", counted in steps.
#
#   scripts/soak.sh [STEP…]
#
# Without a STEP all of them run, each to its end, also after a failure:
#
#   api       the tests of HashiCorp's Go client on Consul 1.21 and on consul-sim (some minutes)
#   languages  programs in Python, Node.js and Java, on Consul 1.21 and on consul-sim
#   commands  515 commands of Consul's command line, on Consul 1.21 and on consul-sim
#   programs  programs that others have written, with the verdicts of their own tests or with what they see, on Consul 1.21 and on
#             consul-sim: consul-template, py-consul, HAProxy and others (PROGRAMS: their names; Go module proxy, pip, apt-get)
#   random    5,000 sequences of random requests with sound bodies, simulated and on a real Consul (SEQUENCES)
#   walk      4,000 sequences of odd requests without ACLs and 4,000 with them, on consul-sim and on Consul 1.21 (SEQUENCES, from
#             FIRST on)
#   fuzz      10 minutes of random requests, valid and malformed, simulated (FUZZ_SECONDS)
#   locks     20,000 histories of locks under faults (SEEDS)
#   clusters  20,000 histories of clusters under faults (SEEDS), and one of 1,000 nodes (NODES)
#   large     a shard of five million records is repaired, purged and moved (a minute, 4 GB)
#   replication  20,000 histories of replicated shards under faults (SEEDS)
#   data      processes with replicated shards stop, die, stall, are cut off, lose disks, join and leave, on both
#             Consuls (some minutes)
#   histories  10 histories (SEEDS, from SEED on) of 300 s (HISTORY_SECONDS) of single records on processes that are killed,
#             stalled, cut off, have wrong clocks and full disks, lose power and disks; porcupine (Go module proxy)
#             checks them for what docs/data.md promises (HISTORY_CHECK: its options); they stay in target/histories
#   gateway   nginx with 16 workers and 5,000 instances on Consul 1.21, an outage, a reload and a kill (some minutes); the example's
#             gateway under load for a minute
#   openresty  the page, the demo of the gateway and the specs tagged smoke on an OpenResty: `openresty`, or OPENRESTY
#   apisix    APISIX's own discovery by Consul on lua-resty-consul and on the rock in resty/, on Consul 1.21 and on consul-sim;
#             APISIX comes from luarocks, or from the folder APISIX_SOURCE (some minutes)
#   outage    a cluster of nodes through every outage of three real servers, on both versions
#   recipes   the recipes of docs/operating.md, also at a real Consul and those for three servers of it
#   lab       every recipe in one lab of network namespaces: three servers with TLS and ACLs, five nodes as in examples/systemd, a
#             gateway that counts refused writes, Prometheus with the rules and the dashboard (10 minutes; root)
#   flood     2,000 calls between nodes in 30 s, while strangers hold 512 connections and open 200 a second
#   failover  50,000 sequences of endpoint faults, on a manual clock (SEQUENCES)
#   page      the status server's page in Chromium, also looked at by axe-core (npm)
#   prometheus  the numbers and the alert rules, read by promtool (Debian's package prometheus)
#   resty     the tests of lua-resty-consul 0.4 (luarocks, cpan, or the folder LUA_RESTY_CONSUL) on resty.consul, and some 750 calls
#             of both compared, on Consul 1.21 and on consul-sim
#   tools     consul-ha and consul-migrate, installed by cargo and by luarocks
#   migrate   100,000 keys from etcd to Consul under writers and 20 kills; both leaders killed; 5,000 random histories; each verb
#             with each way to log in, on etcd 3.4 to 3.7, and the rights that it needs, on 3.4 to 3.6; then what has a real etcd on 3.5,
#             3.6 and 3.7 (Go module proxy)
#   engines   all Lua specs on Lua 5.3, of which `make test` runs the smoke test
#   annotations  uses and mistakes in Lua, marked by emmylua_check, which cargo installs (ten minutes the first time)
#   lowest    make lint with the lowest Rust of Cargo.toml, as the workflow runs it; rustup installs it
#   release   make release, but for its tests, in a clone that is removed
#   dist      make dist, and each file run where its users run it (an hour)
#   archive   make test in the unpacked source archive, without .git (STEPS="lint rust": these steps of it alone)
#   upgrade   nodes of each release in tests/golden whose tag is in this clone, beside ours in one cluster
#   newcomer  README's demo and first program in a mount namespace with an empty home (some minutes)
#   memory    an engine whose memory is refused at every point while it loads the module
#
# A step that needs something unavailable is skipped and prints why. Exit status: 0 when nothing failed.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

# shellcheck source=scripts/lib.sh
source scripts/lib.sh

all_steps=(api languages commands programs random walk fuzz locks clusters large replication data histories gateway openresty apisix outage recipes lab flood failover page prometheus resty tools migrate engines annotations lowest release dist archive upgrade newcomer memory)
select_steps "$@"
prepare_runs
passed=0 failed=0 skipped=0

# test_with NAME MODULE: one module of a cargo test, without optimisation, so that an integer
# overflow is a failure.
test_with() {
    run cargo test --workspace --test "$1" -- "$2::"
}

# unless_skipped [OTHER]: returns 3 if the run has skipped something. A test program says what it would skip also of the
# tests that were not asked for: lines with OTHER do not count.
unless_skipped() {
    ! grep '^SKIPPED' "$log" | grep -qv "${1:-$^}" || return 3
}

step_api() {
    run crates/consul-sim/tests/simulated/interop/api-suite.sh
}

step_languages() {
    LONG=1 test_with simulated languages || return
    unless_skipped 'Go client\|example of consul-sim'
}

step_commands() {
    COMMANDS=all test_with simulated commands || return
    unless_skipped 'Go client\|example of consul-sim\|a program in'
}

step_programs() {
    run make --no-print-directory consul-sim || return
    # shellcheck disable=SC2086 # a list of names
    run crates/consul-sim/tests/simulated/programs/compare.sh ${PROGRAMS:-}
}

step_random() {
    SEQUENCES=${SEQUENCES:-5000} test_with simulated random || return
    unless_skipped 'Go client\|example of consul-sim\|a program in'
}

step_walk() {
    SEQUENCES=${SEQUENCES:-4000} test_with simulated walk || return
    unless_skipped 'Go client\|example of consul-sim\|a program in\|random requests'
}

step_fuzz() {
    FUZZ_SECONDS=${FUZZ_SECONDS:-600} test_with simulated fuzz
}

step_locks() {
    run make --no-print-directory dst SEEDS="${SEEDS:-20000}" ARGS="--skip cluster --skip nodes --skip repli"
}

step_clusters() {
    run make --no-print-directory dst SEEDS="${SEEDS:-20000}" ARGS=cluster &&
        run make --no-print-directory dst NODES="${NODES:-1000}" ARGS=nodes
}

step_large() {
    run env CARGO_PROFILE_DEV_OPT_LEVEL=2 cargo test --package consul-cluster --test cluster -- --ignored five_million
}

step_replication() {
    run make --no-print-directory dst SEEDS="${SEEDS:-20000}" ARGS=repli
}

step_data() {
    LONG=1 run cargo test --no-default-features --test programs -- replicated:: || return
    unless_skipped chromium
}

step_histories() {
    local checker=tests/programs/replicated/checker kept=target/histories seed first=${SEED:-1} status=0 missing=0
    local cuts=0 within=() files=()
    if ! command -v go >/dev/null; then
        echo "SKIPPED: histories of records: Go is missing" | tee -a "$notes"
        return 3
    fi
    local -x GOFLAGS='' GOWORK=off
    if ! run env -C "$checker" go mod download; then
        echo "SKIPPED: histories of records: the Go module proxy has no porcupine for us" | tee -a "$notes"
        return 3
    fi
    run env -C "$checker" go test ./... && run env -C "$checker" go build -o "$folder/check-histories" . || return
    run make --no-print-directory build-luajit consul-sim || return
    # As in tests/programs/replicated/mod.rs: a network namespace, in which Consul has all addresses.
    # shellcheck disable=SC2016 # the inner shell expands it
    if unshare --net sh -c 'ip link set lo up && ip link add bridge type bridge' 2>/dev/null; then
        cuts=1 within=(unshare --net sh -c 'ip link set lo up && exec "$@"' sh)
    fi
    rm -rf "$kept"
    mkdir -p "$kept"
    for ((seed = first; seed < first + ${SEEDS:-10}; seed++)); do
        echo "seed $seed"
        files+=("$kept/$seed.jsonl")
        SEED=$seed CUTS=$cuts CLUSTER_KEY="the secret of the nodes" \
            CONSUL_BIN=$(realpath "${CARGO_TARGET_DIR:-target}/debug/consul-sim") \
            LUA_PATH="./lua/?.lua;;" LUA_CPATH="./target/lua/luajit/?.so;;" run "${within[@]}" \
            scripts/with-consul.sh --config tests/programs/replicated/all_addresses.hcl 1.21 \
            luajit tests/programs/replicated/histories.lua "$kept/$seed.jsonl" || status=1
        unless_skipped || missing=3
    done
    # shellcheck disable=SC2086 # a list of options
    run "$folder/check-histories" -again ${HISTORY_CHECK:-} "${files[@]}" || status=1
    [ "$status" -eq 0 ] || return 1
    return "$missing"
}

step_gateway() {
    run make --no-print-directory build-luajit || return
    LONG=1 run cargo test --no-default-features --test programs -- \
        a_machine_of_16_workers --nocapture || return
    LONG=1 run cargo test --no-default-features --test programs -- \
        a_gateway_loses_no_request_while --nocapture || return
    unless_skipped chromium
}

step_openresty() {
    local nginx luajit
    nginx=$(realpath "$(command -v "${OPENRESTY:-openresty}")" 2>/dev/null || true)
    if [ -z "$nginx" ]; then
        echo "SKIPPED: OpenResty: there is no ${OPENRESTY:-openresty} (OPENRESTY is the path of another one)" | tee -a "$notes"
        return 3
    fi
    local -x OPENRESTY=$nginx
    run make --no-print-directory build-luajit || return
    run make --no-print-directory demo-gateway QUICK= || return
    run cargo test --no-default-features --test programs -- on_openresty || return
    unless_skipped chromium || return
    # Its own LuaJIT, in the folders of an installation.
    luajit=$(dirname "$nginx")/../../luajit/bin/luajit
    if [ ! -x "$luajit" ]; then
        echo "SKIPPED: the specs on the LuaJIT of OpenResty: there is no $luajit" | tee -a "$notes"
        return 3
    fi
    # busted and what it needs are those of the machine's LuaJIT.
    LUA_PATH="./lua/?.lua;./etcd/lua/?.lua;./resty/lua/?.lua;$(luajit -e 'io.write(package.path)')" \
        LUA_CPATH="./target/lua/luajit/?.so;$(luajit -e 'io.write(package.cpath)')" \
        run "$luajit" "$(command -v busted)" --tags=smoke
}

step_apisix() {
    local consul consuls missing=0
    run make --no-print-directory build-luajit consul-sim || return
    consuls=("$(realpath "${CARGO_TARGET_DIR:-target}/debug/consul-sim")")
    if consul=$(scripts/consul.sh 1.21); then
        consuls+=("$consul")
    else
        echo "SKIPPED: APISIX's discovery on Consul 1.21, which is unavailable" | tee -a "$notes"
        missing=3
    fi
    for consul in "${consuls[@]}"; do
        CONSUL_PROGRAM=$consul run tests/programs/nginx/apisix/own.sh || return
    done
    run tests/programs/nginx/apisix/compare.sh "${consuls[@]}" || return
    unless_skipped || return
    return "$missing"
}

step_outage() {
    OUTAGES_ON_ALL=1 test_with outage clusters || return
    unless_skipped
}

step_recipes() {
    run make --no-print-directory build-luajit || return
    LONG=1 run cargo test --package consul-ha --test tools -- recipes || return
    unless_skipped
}

step_lab() {
    local own=(unshare --mount --net --pid --fork --kill-child --mount-proc)
    if ! "${own[@]}" sh -c 'ip link add to type veth peer name from && ip link add lab type bridge' 2>/dev/null; then
        echo "SKIPPED: the recipes in a lab: no network namespaces can be had here" | tee -a "$notes"
        return 3
    fi
    run scripts/install-deps.sh soak || echo "SKIPPED: the alert rules in the lab: Prometheus is missing" | tee -a "$notes"
    # In the namespaces nothing can be downloaded.
    run scripts/consul.sh 1.21 || return
    run make --no-print-directory build-luajit || return
    run cargo test --package consul-ha --test tools --no-run || return
    LAB=1 run "${own[@]}" cargo test --offline --package consul-ha --test tools -- in_a_lab --nocapture || return
    unless_skipped
}

step_flood() {
    FLOOD=1 test_with cluster data_plane::flood
}

step_failover() {
    SEQUENCES=${SEQUENCES:-50000} test_with client failover
}

# install_axe FOLDER: installs axe-core there.
install_axe() {
    command -v npm >/dev/null || cannot "SKIPPED: axe-core: npm is missing"
    npm install --no-audit --no-fund --ignore-scripts --prefix "$1" axe-core@4 >&2 \
        || cannot "SKIPPED: axe-core: npm could not install it"
}

step_page() {
    local unavailable=0 folder_of_axe
    run scripts/install-deps.sh page || return 3
    folder_of_axe=$(cache_once axe-core node_modules/axe-core/axe.min.js install_axe && echo "$cached") || unavailable=$?
    if [ "$unavailable" -eq 0 ]; then
        local -x AXE_CORE=$folder_of_axe/node_modules/axe-core/axe.min.js
    fi
    run make --no-print-directory build-luajit || return
    run cargo test --no-default-features --test programs -- page:: || return
    unless_skipped
    return "$unavailable"
}

step_prometheus() {
    run scripts/install-deps.sh soak || return 3
    if ! command -v promtool >/dev/null; then
        echo "SKIPPED: promtool is missing"
        return 3
    fi
    run cargo test --package consul-cluster --package consul_ffi --test docs --test cluster -- monitoring:: metrics:: ||
        return
    unless_skipped
}

step_resty() {
    if ! scripts/lua-resty-consul.sh >/dev/null 2>"$folder/why"; then
        echo "SKIPPED: the tests of lua-resty-consul: $(tail -n 1 "$folder/why")" | tee -a "$notes"
        return 3
    fi
    run make --no-print-directory build-luajit consul-sim || return
    run tests/programs/resty/suite.sh || return
    run tests/programs/resty/compare.sh
}

# installed FOLDER: whether it has both programs, which know their verbs.
installed() {
    run "$1/consul-ha" --help && grep -q hand-over "$log" &&
        run "$1/consul-migrate" --help && grep -q verify "$log"
}

step_tools() {
    local rock=rockspec/tools/consul_ffi-tools-scm-1.rockspec
    for tool in consul-ha consul-migrate; do
        run cargo install --locked --path "crates/$tool" --root "$folder/cargo" --target-dir target/tools || return
    done
    installed "$folder/cargo/bin" || return
    if ! command -v luarocks >/dev/null; then
        echo "SKIPPED: the rock of the tools: luarocks is missing"
        return 3
    fi
    run luarocks --lua-version=5.1 --tree "$folder/rocks" make "$rock" || return
    installed "$folder/rocks/bin"
}

step_migrate() {
    local version
    LONG=1 run cargo test --package consul-migrate --test migrate || return
    unless_skipped || return
    for version in 3.5 3.6 3.7; do
        ETCD=$version run cargo test --package consul-migrate --test migrate -- 1.21 --skip on_etcd_ || return
        unless_skipped || return
    done
}

step_engines() {
    run scripts/install-deps.sh test || return 3
    run make --no-print-directory spec LUA=lua5.3
}

# install_emmylua FOLDER: installs the language server's checker there.
install_emmylua() {
    cargo install --quiet --locked --root "$1" --target-dir "$1/target" emmylua_check >&2 \
        || cannot "SKIPPED: emmylua_check: cargo could not install it"
    rm -rf "$1/target"
}

step_annotations() {
    local folder_of_checker
    folder_of_checker=$(cache_once emmylua bin/emmylua_check install_emmylua && echo "$cached") || return 3
    PATH=$folder_of_checker/bin:$PATH run scripts/lint-annotations.sh || return
    unless_skipped
}

step_lowest() {
    local rust
    # shellcheck source=rockspec/lib.sh
    rust=$(source rockspec/lib.sh && lowest_rust)
    if ! run rustup toolchain install "$rust" --profile minimal --component clippy,rustfmt --no-self-update; then
        echo "SKIPPED: Rust $rust: rustup could not install it"
        return 3
    fi
    # In a folder of its own, since two releases of Rust would make cargo build all again for each other.
    RUSTUP_TOOLCHAIN=$rust CARGO_TARGET_DIR=target/lowest run make --no-print-directory lint
}

step_release() {
    run scripts/release.sh --dry
}

step_archive() {
    local source=$folder/archive
    mkdir "$source"
    git archive HEAD | tar -x -C "$source" || return
    # Not the build folder of this checkout: cargo would take what was built from one of them for the other's.
    # Its own commands end when they hang; what they print comes late.
    # shellcheck disable=SC2086 # a list of steps
    CARGO_TARGET_DIR=$source/target idle_limit=$((3 * idle_limit)) run "$source/scripts/test.sh" ${STEPS:-}
}

# build_release COMMIT FOLDER: builds the module of a commit there, unless it has been built.
build_release() {
    [ ! -e "$2/target/lua/luajit/consul_ffi.so" ] || return 0
    rm -rf "$2"
    mkdir -p "$2"
    git archive "$1" | tar -x -C "$2" && CARGO_TARGET_DIR=$2/target run make --no-print-directory -C "$2" build-luajit
}

step_upgrade() {
    local golden version commit missing=0
    run make --no-print-directory build-luajit consul-sim || return
    for golden in tests/golden/*/; do
        version=$(basename "$golden")
        if ! commit=$(git rev-parse -q --verify "refs/tags/v$version^{commit}"); then
            echo "SKIPPED: nodes of $version beside ours: there is no tag v$version in this clone" | tee -a "$notes"
            missing=3
            continue
        fi
        local -x OLD_RELEASE=$PWD/target/releases/$commit
        build_release "$commit" "$OLD_RELEASE" || return
        CONSUL_BIN=$(realpath "${CARGO_TARGET_DIR:-target}/debug/consul-sim") \
            LUA_PATH="./lua/?.lua;;" LUA_CPATH="./target/lua/luajit/?.so;;" run scripts/with-consul.sh 1.21 \
            luajit tests/programs/replicated/scenarios.lua upgrades 1 || return
    done
    return "$missing"
}

step_newcomer() {
    run scripts/newcomer.sh
}

step_dist() {
    LONG=1 run cargo test --no-default-features --test programs -- a_program_for_download || return
    run scripts/dist.sh || return
    run scripts/dist-try.sh || return
    unless_skipped 'for musl here'
}

step_memory() {
    run make --no-print-directory build || return
    REFUSE_STRIDE=1 run cargo test --no-default-features --test host -- refused_memory
}

# Most steps need what make test needs, and come before the one that runs it.
run scripts/install-deps.sh test || echo "SKIPPED: the programs of make test could not be installed" | tee -a "$notes"

for step in "${steps[@]}"; do
    echo
    echo "== $step"
    status=0
    "step_$step" || status=$?
    case $status in
        0) passed=$((passed + 1)) ;;
        3) skipped=$((skipped + 1)) ;;
        *)
            echo "FAILED: $step"
            failed=$((failed + 1))
            ;;
    esac
done

echo
print_totals "$passed" "$failed" "$skipped"
