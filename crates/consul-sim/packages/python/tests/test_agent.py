"""The installed wheel: a user's tests with the fixture, and the module alone. Run in an environment that has it."""

import json
import subprocess
import urllib.error
import urllib.request

import consul_sim
import pytest


def call(agent, method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{agent.url}/v1/{path}", data, method=method)
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def test_a_lock_ends_with_its_session(consul):
    session = call(consul, "PUT", "session/create", {"TTL": "10s"})["ID"]
    assert call(consul, "PUT", f"kv/leader?acquire={session}", "me") is True
    consul.advance("20s")
    [key] = call(consul, "GET", "kv/leader")
    assert "Session" not in key


def test_it_has_nothing_of_the_test_before(consul):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        call(consul, "GET", "kv/leader")
    assert consul.stats()["keys"] == 0


def test_faults_begin_and_end(consul):
    consul.fault(status=503)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        call(consul, "GET", "status/leader")
    consul.heal()
    assert call(consul, "GET", "status/leader")


@pytest.mark.parametrize("options, kept", [({}, 1), ({"lose_sessions": True}, 1), ({"wipe": True}, 0)])
def test_a_restart_keeps_what_it_is_told_to(consul, options, kept):
    call(consul, "PUT", "kv/key", "value")
    consul.restart(**options)
    assert consul.stats()["keys"] == kept


def test_a_refused_option_is_an_error_that_names_it(consul):
    with pytest.raises(consul_sim.ControlError, match="statsu"):
        consul.fault(statsu=500)


def test_an_agent_has_flags_and_an_end():
    with consul_sim.Agent("-datacenter=east") as agent:
        assert call(agent, "GET", "agent/self")["Config"]["Datacenter"] == "east"
        assert f"http://{agent.host}:{agent.port}" == agent.url
    agent.stop()
    with pytest.raises(consul_sim.ControlError):
        agent.stats()


def test_a_wrong_flag_is_an_error_that_names_it():
    with pytest.raises(consul_sim.ControlError, match="no-such-flag"):
        consul_sim.Agent("-no-such-flag")


def test_a_program_that_is_missing_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(consul_sim.sysconfig, "get_path", lambda *_: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CONSUL_SIM", raising=False)
    with pytest.raises(FileNotFoundError, match="CONSUL_SIM"):
        consul_sim.find_program()


def test_the_program_is_in_the_wheel():
    assert "consul-sim" in subprocess.run([consul_sim.find_program(), "--help"], capture_output=True, text=True).stdout
