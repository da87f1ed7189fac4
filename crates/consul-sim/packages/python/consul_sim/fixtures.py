"""The fixtures of pytest: `consul_agent` for the whole run, and `consul`, which is as at its start in each test."""

from typing import Iterator

import pytest

from . import Agent


@pytest.fixture(scope="session")
def consul_agent() -> Iterator[Agent]:
    """One agent for all tests of the run."""
    with Agent() as agent:
        yield agent


@pytest.fixture
def consul(consul_agent: Agent) -> Agent:
    """The agent of the run, reset."""
    consul_agent.reset()
    return consul_agent
