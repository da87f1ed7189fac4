#!/usr/bin/env bash
# Makes the files that a release offers for download, for other machines than this one, into target/dist.
#
#   scripts/dist.sh [TARGET…]     by default all targets below
#   scripts/dist.sh macos-check   makes nothing: compiles everything for macOS, without linking it
#
# For each target: consul_ffi-VERSION-ENGINE-PLATFORM.tar.gz with the module, the guard's program and the Lua files, for
# each engine; and consul-sim, consul-ha and consul-migrate, with musl as static programs, which run with any C library.
# Each has an SBOM and the licences of its crates, and its .sha256 beside it. The rocks of the same modules are in
# target/rocks (scripts/rocks.sh). ONLY="luajit consul-sim" makes these alone, and QUICK=1 does not optimise them.
#
# zig, from PyPI, compiles C and links; rustup installs the standard libraries. Status 3, with SKIPPED and why: one of them
# cannot be had here.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

# shellcheck source=scripts/lib.sh
source scripts/lib.sh
# shellcheck source=rockspec/lib.sh
source rockspec/lib.sh

# With the oldest glibc that the modules need.
all_targets=(
    x86_64-unknown-linux-gnu.2.17 aarch64-unknown-linux-gnu.2.17
    x86_64-unknown-linux-musl aarch64-unknown-linux-musl
)
engines=(luajit 5.1 5.3 5.4)
programs=(consul-sim consul-ha consul-migrate)
read -ra only <<<"${ONLY-${engines[*]} ${programs[*]}}"
profile=release guard_profile=guard
[ -z "${QUICK:-}" ] || profile=quick guard_profile=quick

cannot() {
    echo "SKIPPED: $*"
    exit 3
}

# wanted NAME: whether it is one of those to make.
wanted() {
    [[ " ${only[*]} " == *" $1 "* ]]
}

[ $# -gt 0 ] || set -- "${all_targets[@]}"
[ "$*" != macos-check ] || set -- aarch64-apple-darwin x86_64-apple-darwin
for target; do
    [[ $target != *-apple-darwin ]] || continue
    [[ " ${all_targets[*]} " == *" $target "* ]] || fail "there is no target $target: the targets are ${all_targets[*]}"
done
for name in "${only[@]}"; do
    [[ " ${engines[*]} ${programs[*]} " == *" $name "* ]] || fail "there is no $name: there are ${engines[*]} ${programs[*]}"
done
check_rust "the files of a release"

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
out=$PWD/target/dist
# Relative to this folder for what runs in another one, too.
builds=${CARGO_TARGET_DIR:-$PWD/target}/dist-builds
mkdir -p "$out" "$builds"
check_machine "the files of a release" "$builds" 3000
# The same source has the same bytes: the time of a commit, or that of an unpacked archive.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.toml)}
export SOURCE_DATE_EPOCH

# shellcheck disable=SC2317 # cache_once calls it
install_zig() {
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: \
        --require-hashes --requirement scripts/dist-zig.txt --target "$1" >&2 || cannot "pip does not get zig from PyPI"
}
cache_once "zig-$(sha256sum <scripts/dist-zig.txt | cut -c 1-16)" bin/cargo-zigbuild install_zig
# shellcheck disable=SC2154 # cache_once sets it
zig=$cached
export CARGO_ZIGBUILD_ZIG_PATH=$zig/ziglang/zig CARGO_ZIGBUILD_CACHE_DIR=$builds/zigbuild

# stand_in TARGET: makes a libgcc_s.so.1 for the linker, and prints its path.
stand_in() {
    local folder=$builds/$1
    mkdir -p "$folder"
    grep -o '_Unwind_[A-Za-z_]*' scripts/dist-libgcc_s.map | sed 's/.*/void &(void) {}/' >"$folder/stand-in.c"
    "$CARGO_ZIGBUILD_ZIG_PATH" cc -target "${1/-unknown/}" -shared -nostdlib -Wl,-soname,libgcc_s.so.1 \
        -Wl,--version-script=scripts/dist-libgcc_s.map -o "$folder/libgcc_s.so.1" "$folder/stand-in.c"
    echo "$folder/libgcc_s.so.1"
}

# build TARGET FLAGS OPTION…: cargo build with these; prints cargo's messages. FLAGS are in TOML, for rustc. All share one
# folder, so that what runs while building is built once.
build() {
    # shellcheck disable=SC2154 # rockspec/lib.sh sets them
    CARGO_TARGET_DIR=$builds/cargo "$zig/bin/cargo-zigbuild" zigbuild "${without_home[@]}" --config "target.'cfg(unix)'.rustflags=[$2]" \
        --locked "$as_messages" --target "$1" "${@:3}"
}

# examine FILE LINKED: refuses a file that would not run everywhere. One that is static needs no library. Another needs no
# newer glibc than 2.17, and has no unwinder: a module takes that of the process (scripts/dist-libgcc_s.map).
examine() {
    local newest needs unwinder
    needs=$(readelf -dW "$1" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | paste -sd ' ')
    newest=$(readelf -VW "$1" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1) || newest=
    [ "$(printf '%s\n' GLIBC_2.17 "${newest:-GLIBC_2}" | sort -V | tail -n 1)" = GLIBC_2.17 ] || fail "$1 needs $newest"
    if [ "$2" = static ]; then
        [ -z "$needs" ] || fail "$1 needs $needs"
    else
        unwinder=$(readelf --dyn-syms --syms -W "$1" | grep ' _Unwind_') || unwinder=
        [[ $1 != *.so || $unwinder == *' UND _Unwind_RaiseException'* ]] || fail "$1 has an unwinder of its own"
        ! grep -qv ' UND ' <<<"$unwinder" || [ -z "$unwinder" ] || fail "$1 has a second unwinder: $unwinder"
        ! grep -q 'libunwind: ' "$1" || fail "$1 has the unwinder of LLVM"
    fi
    echo "$(basename "$1"): ${newest:-no glibc}, needs ${needs:-nothing}"
}

# pack NAME PACKAGE FEATURES TARGET FILE…: an archive of the files, with the notices of the package. A FILE is PATH=NAME.
pack() {
    local name=$1 file linked=dynamic folder=$builds/pack/$1 libraries=$zig/ziglang/lib zig_version others
    [[ $4 != *-musl ]] || [ "$2" = consul_ffi ] || linked=static
    rm -rf "$folder"
    mkdir -p "$folder"
    for file in "${@:5}"; do
        examine "${file%=*}" "$linked"
        install -D -m 755 "${file%=*}" "$folder/${file##*=}"
    done
    [ "$2" != consul_ffi ] || cp -r lua "$folder"
    cp LICENSE-APACHE LICENSE-MIT "$folder"
    others=("rust-std@$(rustc --version | cut -d ' ' -f 2)@MIT OR Apache-2.0@")
    zig_version=$(sed -n 's/^ziglang==\([^ ]*\) .*/of-zig-\1/p' scripts/dist-zig.txt)
    [ $linked = dynamic ] || others+=(
        "musl@$zig_version@MIT@$libraries/libc/musl/COPYRIGHT"
        "libunwind@$zig_version@Apache-2.0 WITH LLVM-exception@$libraries/libunwind/LICENSE.TXT"
    )
    cargo run --quiet --locked --package xtask -- notices "$2" "$3" "${4%.2.*}" "$folder" "${others[@]}"
    (cd "$builds/pack" && tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        --mode=u=rwX,go=rX -cf - "$name") | gzip -9n >"$out/$name.tar.gz"
    (cd "$out" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
    rm -rf "$folder"
    echo "target/dist/$name.tar.gz: $(($(stat -c %s "$out/$name.tar.gz") / 1000)) kB"
}

# make_modules TARGET PLATFORM FLAGS: the module for each engine, with the guard.
make_modules() {
    local engine feature messages module guard made=()
    for engine in "${engines[@]}"; do
        wanted "$engine" || continue
        feature=lua${engine/./}
        [ "$engine" != luajit ] || feature=luajit
        messages=$(build "$1" "$3" --profile "$profile" --package consul_ffi --lib --no-default-features --features "$feature")
        module=$(built libconsul_ffi.so "$messages")
        messages=$(build "$1" "$3" --profile "$guard_profile" --package consul-guard --bin consul-guard)
        guard=$(built consul-guard "$messages")
        pack "consul_ffi-$version-$engine-$2" consul_ffi "$feature" "$1" "$module=consul_ffi.so" "$guard=consul-guard"
        install -D -m 755 "$module" "target/rock/$2/$engine/consul_ffi.so"
        install -m 755 "$guard" "target/rock/$2/$engine/consul-guard"
        made+=("$engine")
    done
    [ ${#made[@]} -eq 0 ] || BUILT=target/rock/$2 PLATFORM=$2 scripts/rocks.sh "${made[@]}"
}

# make_programs TARGET PLATFORM FLAGS: the programs.
make_programs() {
    local program messages
    for program in "${programs[@]}"; do
        wanted "$program" || continue
        messages=$(build "$1" "$3" --profile "$profile" --package "$program" --bin "$program")
        pack "$program-$version-$2" "$program" "" "$1" "$(built "$program" "$messages")=$program"
    done
}

for target; do
    triple=${target%.2.*}
    rustup target add "$triple" >&2 || cannot "rustup does not get the standard library for $triple"
    platform=linux-${target%%-*}
    case $target in
        *-apple-darwin)
            CARGO_TARGET_DIR=$builds/cargo "$zig/bin/cargo-zigbuild" check --quiet --locked --workspace --all-targets \
                --no-default-features --features consul_ffi/luajit --target "$target"
            echo "$target: everything compiles"
            ;;
        *-musl)
            # A static program has no unwinder but its own.
            make_programs "$target" "$platform-musl" ""
            make_modules "$target" "$platform-musl" "\"-Clink-arg=$(stand_in "$target")\",\"-Ctarget-feature=-crt-static\""
            ;;
        *)
            flags="\"-Clink-arg=$(stand_in "$target")\""
            make_programs "$target" "$platform" "$flags"
            make_modules "$target" "$platform" "$flags"
            ;;
    esac
done
