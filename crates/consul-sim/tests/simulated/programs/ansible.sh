#!/usr/bin/env bash
# Ansible's modules for Consul (community.general), each with what changes something, again with what changes nothing, and with what is
# wrong: whether a task is ok, has changed something or fails. The server has ACLs.
# shellcheck disable=SC2034,SC2154 # compare.sh reads and sets them
version=10.7.0 least=40 installed=collections/ansible_collections/community/general/MANIFEST.json options="--acl deny"

install() {
    python_packages "$1/packages" ansible-core==2.17.14 py-consul==1.8.0 requests
    (cd "$1" && python3 -m pip download --quiet --disable-pip-version-check --no-deps "ansible==$version" >&2) \
        || cannot "pip could not download ansible"
    mkdir "$1/unpacked"
    (cd "$1/unpacked" && python3 -c '
import glob, zipfile
wheel = zipfile.ZipFile(glob.glob("../ansible-*.whl")[0])
wheel.extractall(members=[name for name in wheel.namelist() if name.startswith("ansible_collections/community/general/")])')
    rm "$1"/ansible-*.whl
    mv "$1/unpacked" "$1/collections"
}

results() {
    CONSUL_PORT=${CONSUL_HTTP_ADDR#*:} PYTHONPATH=$1/packages ANSIBLE_COLLECTIONS_PATH=$1/collections ANSIBLE_HOME=$TMPDIR \
        ANSIBLE_LOCALHOST_WARNING=False ANSIBLE_NOCOLOR=1 ANSIBLE_PYTHON_INTERPRETER=$(command -v python3) LC_ALL=C.UTF-8 \
        python3 -m ansible playbook -c local -i localhost, "$here/ansible.yml" </dev/null | tee /dev/stderr | awk '
            /^TASK \[/ { sub(/^TASK \[/, ""); sub(/\] \**$/, ""); task = $0; item = "" }
            /^(ok|changed|skipping): / { sub(/: .*/, ""); print task "\t" $0; task = "" }
            /^fatal: / { seen = "failed"; if (match($0, /"msg": "[^"]*"/)) seen = seen " " substr($0, RSTART, RLENGTH)
                print task "\t" seen }'
}
