"""A run that is written down instead of drawn: the same few requests on every key, each at its time, and a kill among them.

For what random clients meet once in thousands of requests: a promise that is given, a restart, and a write that comes between.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.fault.history.clients import Client, History, Place
from tests.fault.history.schedule import Trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """rules: of the fault switch, all the time. requests: (seconds, gateway, kind), on each key. kills: (seconds, worker)."""

    rules: tuple[Mapping[str, Any], ...]
    requests: tuple[tuple[float, int, str], ...]
    kills: tuple[tuple[float, int], ...]

    @property
    def request_count(self) -> int:
        """Per key."""
        return len(self.requests)


def run_script(place: Place, history: History, script: Script, trouble: Trouble, *, seed: int) -> None:
    """All of it, once; every client has connected before the first second begins. Raises what a client could not go on for."""
    tags: dict[str, list[str]] = {key: [] for key in place.keys}
    begins = threading.Barrier(len(place.keys) * len(script.requests) + 1)
    threads = [threading.Thread(target=_act, args=(_make_client(place, history, number, gateway, seed, tags), history, begins, at_s,
                                                   kind, key), daemon=True)
               for number, (at_s, gateway, kind, key) in enumerate(
                   (at_s, gateway, kind, key) for at_s, gateway, kind in script.requests for key in place.keys)]
    for thread in threads:
        thread.start()
    with trouble.rules(script.rules, seed=seed):
        begins.wait()
        began_s = time.monotonic()
        for at_s, worker in sorted(script.kills):
            _sleep_until(began_s + at_s)
            trouble.kill(worker)
        for thread in threads:
            thread.join()
    if history.errors:
        raise history.errors[0]


def _make_client(place: Place, history: History, number: int, gateway: int, seed: int, tags: dict[str, list[str]]) -> Client:
    return Client(place, history, number, gateway=gateway, seed=seed, mix={"get": 1}, tags=tags)


def _act(client: Client, history: History, begins: threading.Barrier, at_s: float, kind: str, key: str) -> None:
    try:
        client.connect()
        begins.wait()
        _sleep_until(time.monotonic() + at_s)
        history.add(client.step(kind, key))
    except Exception as error:           # a thread's exception is seen by nobody else
        history.errors.append(error)
        begins.abort()
    finally:
        client.close()


def _sleep_until(at_s: float) -> None:
    time.sleep(max(at_s - time.monotonic(), 0))


def load_script(facts: Mapping[str, Sequence[Any]]) -> Script:
    """As a file of schedules has it."""
    return Script(rules=tuple(facts["rules"]), requests=tuple((at_s, gateway, kind) for at_s, gateway, kind in facts["requests"]),
                  kills=tuple((at_s, worker) for at_s, worker in facts["kills"]))
