"""A new configuration: all parts run it, or none; and one that starts meanwhile is not forgotten."""
from __future__ import annotations

from dataclasses import replace

import pytest

from common.address import Address
from common.clock import ManualClock
from common.errors import ConfigError, DeadlineExceeded, TransportLost
from node.channel import unpack_config
from node.config import HoldfastConfig
from node.control import ControlChild
from node.reload import reload_all

OLD = HoldfastConfig()
NEW = replace(OLD, log=replace(OLD.log, level="debug"))


class Part:
    def __init__(self, refuses=()):
        self.runs, self.refuses = OLD, refuses

    async def reload(self, config):
        if config in self.refuses:
            raise ConfigError(where="x", reason="refused")
        self.runs = config


@pytest.mark.parametrize("who", ["nobody", "workers", "control"])
async def test_a_configuration_is_run_by_all_or_by_none(who):
    workers, control = Part((NEW,) if who == "workers" else ()), Part((NEW,) if who == "control" else ())
    if who == "nobody":
        await reload_all(NEW, old=OLD, workers=workers, control=control)
        assert workers.runs is control.runs is NEW
        return
    with pytest.raises(ConfigError):
        await reload_all(NEW, old=OLD, workers=workers, control=control)
    assert workers.runs is control.runs is OLD


async def test_workers_that_cannot_go_back_are_told_of(capfd):
    with pytest.raises(ConfigError):
        await reload_all(NEW, old=OLD, workers=Part((OLD,)), control=Part((NEW,)))
    assert "workers run the new configuration, identity the old one" in capfd.readouterr().err


class Line:
    """The channel of a process that answers a reload as it is told to."""

    def __init__(self, *answers):
        self.answers, self.took = list(answers), []

    async def call(self, op, *, timeout_s, **fields):
        assert op == "reload"
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        self.took.append(unpack_config(fields["config"]))


@pytest.fixture
def child():
    child = ControlChild(None, OLD, Address("127.0.0.1", 0), object_address=Address("127.0.0.1", 1), clock=ManualClock())
    child._channel = Line()
    yield child
    for sock in child._listeners:
        sock.close()


async def test_a_reload_while_the_control_api_starts_is_taken_when_it_serves(child):
    await child.reload(NEW)
    assert child._channel.took == []
    child._take_event("ready", {})
    await child._catching_up
    assert child._channel.took == [NEW] and child.facts()["stale"] == ""


async def test_a_reload_that_is_refused_then_is_told_of(child):
    child._channel = Line(ConfigError(where="x", reason="no such file"))
    await child.reload(NEW)
    child._take_event("ready", {})
    await child._catching_up
    assert "no such file" in child.facts()["stale"]


async def test_a_refused_reload_leaves_the_old_configuration_for_the_next_start(child):
    child._take_event("ready", {})
    child._channel = Line(ConfigError(where="x", reason="refused"))
    with pytest.raises(ConfigError):
        await child.reload(NEW)
    assert child._config is OLD and child._catching_up is None
    await child.reload(NEW)
    assert child._config is NEW


async def test_one_that_ends_meanwhile_did_not_take_it_and_that_is_said(child):
    child._take_event("ready", {})
    child._channel = Line(TransportLost(peer="x", reason="ended"))
    workers = Part()
    with pytest.raises(TransportLost, match=r"the control API.*ended while it took the new configuration"):
        await reload_all(NEW, old=OLD, workers=workers, control=child)
    assert child._config is workers.runs is OLD          # and so its next process starts with what the workers run


async def test_one_that_does_not_answer_in_time_is_brought_back_to_what_all_others_run(child):
    child._take_event("ready", {})
    child._channel = Line(DeadlineExceeded(op="reload"))
    with pytest.raises(DeadlineExceeded):
        await child.reload(NEW)
    await child._catching_up
    assert child._channel.took == [OLD] and child._config is OLD
