"""A fresh Consul for each test of py-consul."""

import collections
import os
import subprocess

import pytest
import requests

ROOT = os.environ["ROOT"]
ConsulInstance = collections.namedtuple("ConsulInstance", ["container", "port", "version"])


def server(*options):
    """The Consul of this process's PATH, until the test ends: its address and its token."""
    command = [
        f"{ROOT}/scripts/with-consul.sh",
        *options,
        "--config",
        f"{ROOT}/crates/consul-sim/tests/simulated/programs/node.json",
        "1.21",
        "sh",
        "-c",
        "echo $CONSUL_HTTP_ADDR $CONSUL_HTTP_TOKEN; exec sleep 3600",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        address, *token = process.stdout.readline().split()
        headers = {"X-Consul-Token": token[0]} if token else {}
        said = requests.get(f"http://{address}/v1/agent/self", headers=headers, timeout=60).json()
        yield ConsulInstance(None, int(address.split(":")[1]), said["Config"]["Version"]), *token
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def consul_instance():
    for (instance,) in server():
        yield instance


@pytest.fixture
def acl_consul_instance():
    yield from server("--acl", "allow")


@pytest.fixture
def consul_port(consul_instance):
    return consul_instance.port, consul_instance.version
