#!/usr/bin/env bash
# Prints the folder with lua-resty-consul 0.4, its tests and what runs them; all other output goes to stderr.
# Nothing is installed, and nothing of it is a part of this project.
#
#   scripts/lua-resty-consul.sh
#
# Looks in the cache (${XDG_CACHE_HOME:-$HOME/.cache}/consul_ffi); else luarocks fetches the rocks, cpan Test::Nginx, and
# apt-get the Perl modules that this needs. The folder has:
#
#   lua-resty-consul/{lib,t}        the module and its tests
#   lua-resty-http/lib              what it needs
#   test-nginx/lib                  Test::Nginx; perl/ has what that needs (PERL5LIB)
#
# With LUA_RESTY_CONSUL=FOLDER these are taken from there, each as its own repository has it, in place of the first three.
# Exit status 3, and the reason in one line, when it is unavailable.
set -euo pipefail

# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

packages=(
    libtest-base-perl libspiffy-perl libtest-longstring-perl liblist-moreutils-perl libexporter-tiny-perl
    libhttp-message-perl libhttp-date-perl liblwp-mediatypes-perl libencode-locale-perl libio-html-perl libtimedate-perl
    libclone-perl liburi-perl libtext-diff-perl libalgorithm-diff-perl
)

# perl_modules FOLDER: what Test::Nginx needs.
perl_modules() {
    unpack_packages "$1" "${packages[@]}"
}

# rock FOLDER NAME VERSION…: unpacks the sources of a rock as FOLDER/NAME.
rock() {
    local unpacked
    mkdir "$1/unpacked"
    (cd "$1/unpacked" && luarocks --lua-version=5.1 unpack "${@:2}" >&2) || cannot "luarocks could not fetch $2"
    unpacked=$(find "$1/unpacked" -type d -path "*/lib/resty" -print -quit)
    [ -n "$unpacked" ] || cannot "the rock $2 has no sources"
    mv "${unpacked%/lib/resty}" "$1/$2"
    rm -rf "$1/unpacked"
}

# fetch FOLDER: fetches the three of them.
fetch() {
    command -v luarocks >/dev/null || cannot "lua-resty-consul is a rock, and luarocks is missing"
    command -v cpan >/dev/null || cannot "Test::Nginx comes from CPAN, and cpan is missing"
    rock "$1" lua-resty-consul 0.4
    rock "$1" lua-resty-http 0.17.2
    mkdir "$1/test-nginx" "$1/home"
    # cpan succeeds whatever it has found.
    (cd "$1/test-nginx" && HOME=$1/home PERL_MM_USE_DEFAULT=1 cpan -g Test::Nginx </dev/null >&2) || true
    tar -xzf "$1"/test-nginx/*.tar.gz --strip-components=1 -C "$1/test-nginx" 2>/dev/null ||
        cannot "cpan could not fetch Test::Nginx"
}

# make_folder FOLDER
make_folder() {
    local part
    ln -s "$perl" "$1/perl"
    if [ -z "${LUA_RESTY_CONSUL:-}" ]; then
        fetch "$1"
    else
        for part in lua-resty-consul/lib lua-resty-consul/t lua-resty-http/lib test-nginx/lib; do
            [ -d "$LUA_RESTY_CONSUL/$part" ] || cannot "LUA_RESTY_CONSUL: $LUA_RESTY_CONSUL has no folder $part"
            mkdir -p "$1/$part"
            cp -R "$LUA_RESTY_CONSUL/$part/." "$1/$part"
        done
    fi
    [ -e "$1/lua-resty-consul/t/04-ssl.t" ] || cannot "the sources of lua-resty-consul have no tests"
    grep -q "VERSION *= *'0\.4\.0'" "$1/lua-resty-consul/lib/resty/consul.lua" || cannot "it is not lua-resty-consul 0.4"
    mv "$1/test-nginx" "$1/unpacked"
    mkdir "$1/test-nginx"
    mv "$1/unpacked/lib" "$1/test-nginx/lib"
    rm -rf "$1/unpacked" "${1:?}/home"
}

cache_once lua-resty-consul-perl usr/share/perl5/Test/Base.pm perl_modules
perl=$cached
# A copy of the caller's is made each time; it may change.
if [ -n "${LUA_RESTY_CONSUL:-}" ]; then
    rm -rf "${XDG_CACHE_HOME:-$HOME/.cache}/consul_ffi/lua-resty-consul-given"
    cache_once lua-resty-consul-given lua-resty-consul/lib/resty/consul.lua make_folder
else
    cache_once lua-resty-consul lua-resty-consul/lib/resty/consul.lua make_folder
fi
echo "$cached"
