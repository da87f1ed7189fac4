#!/usr/bin/env bash
# Runs the tests of lua-resty-consul 0.4 on resty.consul, in Debian's nginx. They never ask a Consul.
#
#   tests/programs/resty/suite.sh
#
# The last line is "N of 24 tests pass". Exit status 0 if all do, 3, and the reason in one line, if something is unavailable.
# The tests of TLS get new certificates, since their own end in 2026. They trust what nginx's lua_ssl_trusted_certificate
# names, which Lua cannot read: nginx passes CONSUL_CACERT on, as docs/migrating-from-lua-resty-consul.md says.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/../../.."

# The number of tests in lua-resty-consul 0.4.
all=24

root=$PWD
nginx=$(scripts/nginx.sh)
suite=$(scripts/lua-resty-consul.sh)
for program in prove openssl; do
    command -v "$program" >/dev/null || { echo "SKIPPED: lua-resty-consul's tests: $program is missing"; exit 3; }
done
folder=$(mktemp -d "${TMPDIR:-/tmp}/resty-suite.XXXXXX")
trap 'rm -rf "$folder"' EXIT
cp -R "$suite/lua-resty-consul/t" "$folder/t"

# An authority, and a certificate of it for example.com.
(
    cd "$folder/t/cert"
    openssl req -x509 -newkey rsa:2048 -nodes -keyout test-ca-key.pem -out test-ca.pem -subj /CN=authority
    openssl req -newkey rsa:2048 -nodes -keyout test-key.pem -out request.pem -subj /CN=example.com
    echo subjectAltName=DNS:example.com >names
    openssl x509 -req -in request.pem -CA test-ca.pem -CAkey test-ca-key.pem -set_serial 1 -extfile names -out test.pem
) 2>"$folder/certificates" || { cat "$folder/certificates"; exit 1; }

# The program that Test::Nginx starts.
modules=$nginx/usr/lib/nginx/modules
cat >"$folder/nginx" <<END
#!/bin/sh
export LD_LIBRARY_PATH='$nginx/libraries'
exec '$nginx/usr/sbin/nginx' "\$@" -g 'load_module $modules/ndk_http_module.so; \
    load_module $modules/ngx_http_lua_module.so; env CONSUL_CACERT=$folder/t/cert/test-ca.pem;'
END
chmod +x "$folder/nginx"

# free_port: prints a port that nothing listens on. The tests set the bits of 1984 in it.
free_port() {
    local port
    for port in $(seq 12224 2048 30656 | shuf); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
    echo "no port is free" >&2
    exit 1
}
port=$(free_port)

status=0
perl=$suite/perl/usr/share/perl5
for part in "$suite"/perl/usr/lib/*/perl5/*; do
    perl+=:$part
done
# Not the folder lib of its own, which the tests add to the path: it is not there.
(
    cd "$folder"
    PERL5LIB=$perl:$suite/test-nginx/lib TEST_NGINX_BINARY=$folder/nginx TEST_NGINX_PORT=$port TEST_NGINX_SERVER_PORT=$port \
        TEST_NGINX_NO_SHUFFLE=1 TEST_NGINX_TIMEOUT=60 \
        LUA_PATH="$nginx/usr/share/lua/5.1/?.lua;$root/lua/?.lua;$root/resty/lua/?.lua;;" \
        LUA_CPATH="$root/target/lua/luajit/?.so;;" prove --verbose --merge t
) >"$folder/log" 2>&1 || status=$?

# A test is a line "=== TITLE" of a file, and each of its checks a line "ok N - FILE TITLE - WHAT". It passes if all of them do.
passed=$(cd "$folder" && awk '
    FILENAME != "log" {
        if (sub(/^=== /, "")) tests[FILENAME " " $0]
        next
    }
    match($0, /^(not )?ok [0-9]+ - /) {
        check = substr($0, RLENGTH + 1)
        of = ""
        for (test in tests) if (index(check, test " - ") == 1 && length(test) > length(of)) of = test
        checks[of]++
        if (/^not /) failed[of]
    }
    END {
        for (test in tests) {
            if (test in checks && !(test in failed)) passed++
            else print "FAILED: " test >"/dev/stderr"
        }
        print passed + 0
    }' t/*.t log)
if [ "$passed" -ne "$all" ] || [ "$status" -ne 0 ]; then
    grep -v '^ok ' "$folder/log" | tail -n 60
    status=1
fi
echo "$passed of $all tests pass"
exit "$status"
