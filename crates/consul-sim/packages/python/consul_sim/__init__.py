"""A simulated Consul agent for tests: `Agent` runs the program consul-sim and moves its clock."""

import json
import os
import re
import shutil
import subprocess
import sysconfig
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Optional, Union

__all__ = ["Agent", "ControlError", "find_program"]


class ControlError(Exception):
    """consul-sim has refused a request, or does not run any more."""


def find_program() -> str:
    """The path of the program: of `CONSUL_SIM`, of this package, or of `PATH`."""
    name = "consul-sim" + (sysconfig.get_config_var("EXE") or "")
    places = [os.environ.get("CONSUL_SIM")]
    for scheme in (None, _user_scheme()):
        folder = sysconfig.get_path("scripts", scheme) if scheme else sysconfig.get_path("scripts")
        places.append(os.path.join(folder, name))
    for place in places:
        if place and os.path.isfile(place):
            return place
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError("consul-sim is neither beside this Python nor on PATH; CONSUL_SIM can name it")
    return found


def _user_scheme() -> str:
    return "nt_user" if os.name == "nt" else "posix_user"


class Agent:
    """A running consul-sim. It ends with `stop()`, or at the end of a `with` block.

    `flags` are those of `consul agent`. Ports are free ones unless a flag says otherwise.
    """

    def __init__(self, *flags: str) -> None:
        ports = [
            f"-{name}=0"
            for name in ("http-port", "sim-port")
            if not any(re.match(f"--?{name}(=|$)", flag) for flag in flags)
        ]
        command = [find_program(), "agent", "-dev", *ports, *flags]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        urls = re.findall(r"https?://\S+", line)
        if len(urls) < 2:
            self._process.kill()
            said = line + (self._process.communicate()[1] or "")
            raise ControlError(f"consul-sim did not start: {said.strip()}")
        #: The URL of the agent's HTTP API.
        self.url: str = urls[0]
        self._control: str = urls[-1]
        parts = urllib.parse.urlsplit(self.url)
        self.host: str = parts.hostname or "127.0.0.1"
        self.port: int = parts.port or 80

    def advance(self, by: Union[str, float]) -> None:
        """Moves the time forward: `"20s"`, or seconds as a number."""
        self._call("POST", "advance", {"by": by})

    def fault(self, **options: Any) -> None:
        """Adds a fault, as `status=500` or `partition=True`. It lasts until `heal()` or `reset()`."""
        self._call("POST", "fault", options)

    def heal(self) -> None:
        """Removes all faults."""
        self._call("DELETE", "fault")

    def restart(self, *, lose_sessions: bool = False, wipe: bool = False) -> None:
        """Closes all connections. It keeps its data, all but its sessions, or nothing."""
        options = {"lose_sessions": lose_sessions, "wipe": wipe}
        self._call("POST", "restart", {name: True for name, is_set in options.items() if is_set} or None)

    def reset(self, seed: Optional[int] = None) -> None:
        """Begins again as at the start, without faults."""
        self._call("POST", "reset", None if seed is None else {"seed": seed})

    def stats(self) -> Any:
        """Its time in seconds, and counts of requests, keys, sessions and waiting requests."""
        return self._call("GET", "stats")

    def stop(self) -> None:
        """Ends it. It may be called again."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.communicate()

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _call(self, method: str, name: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._control}/sim/{name}", data, method=method)
        # The agent is on loopback: a proxy of the environment must not be asked.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            raise ControlError(f"{method} /sim/{name}: {_error_of(text)}") from None
        except OSError as error:
            raise ControlError(f"{method} /sim/{name}: {error}") from error
        return json.loads(text) if text else None


def _error_of(text: str) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text
