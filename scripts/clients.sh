#!/usr/bin/env bash
# Prints the folder of a Consul client of another language and of what it needs, which is installed once and cached:
#
#   scripts/clients.sh python       py-consul, for PYTHONPATH
#   scripts/clients.sh node         consul, for NODE_PATH
#   scripts/clients.sh java         org.kiwiproject:consul-client, for CLASSPATH
#
# Exit status 3, and the reason in one line, when it is unavailable.
set -euo pipefail
CDPATH='' cd "$(dirname "$0")/.."

# shellcheck source=scripts/lib.sh
source scripts/lib.sh

# needs PROGRAM…
needs() {
    local program
    for program; do
        command -v "$program" >/dev/null || cannot "$program is missing"
    done
}

install_python() {
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --target "$1" py-consul==1.8.0 >&2 \
        || cannot "pip could not install py-consul"
}

install_node() {
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$1" consul@2.0.1 >&2 \
        || cannot "npm could not install consul"
}

install_java() {
    mvn --quiet --batch-mode -f crates/consul-sim/tests/simulated/languages/pom.xml dependency:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$1" >&2 || cannot "mvn could not install consul-client"
}

case ${1:-} in
    python)
        needs python3
        cache_once "client-python-$(python3 -c 'import sys; print(sys.version_info[1])')" consul/__init__.py install_python
        echo "$cached"
        ;;
    node)
        needs node npm
        cache_once client-node node_modules/consul/package.json install_node
        echo "$cached/node_modules"
        ;;
    java)
        needs java mvn
        cache_once client-java consul-client-1.4.5.jar install_java
        echo "$cached/*"
        ;;
    *)
        echo "usage: scripts/clients.sh python|node|java" >&2
        exit 2
        ;;
esac
