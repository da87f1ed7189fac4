"""A lock ends with its session, and the test does not sleep."""
import json
import re
import subprocess
import urllib.request

COMMAND = ["consul-sim", "agent", "-dev", "-http-port=0", "-sim-port=0"]


def call(method, url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True) as sim:
    try:
        agent, control = re.findall(r"http://\S+", sim.stdout.readline())
        session = call("PUT", f"{agent}/v1/session/create", {"TTL": "10s"})["ID"]
        assert call("PUT", f"{agent}/v1/kv/leader?acquire={session}", "me") is True
        call("POST", f"{control}/sim/advance", {"by": "20s"})
        [key] = call("GET", f"{agent}/v1/kv/leader")
        assert "Session" not in key, key
        print("the lock is free")
    finally:
        sim.terminate()
