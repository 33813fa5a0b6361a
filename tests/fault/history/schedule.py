"""What is done to the system while clients work: workers are killed, messages of a device are dropped and delayed.

A schedule is drawn from a seed, or read from a file. Its places are counted in requests, not in seconds: so a slow machine meets
the same faults. What a fault hits is a matter of the moment all the same; a seed brings a history of the same kind, not the same.
"""
from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from common.admin import AdminClient
from common.errors import StorageError

KINDS = ("kill", "drop", "delay", "both")
HEALTHY_S = 90.0                         # for a worker that was killed often, which is started after up to 30 s
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """From `begin` to `end` requests of the history. rules: as the fault switch takes them; kill: number of a worker."""

    begin: int
    end: int
    rules: tuple[Mapping[str, Any], ...] = ()
    kill: int | None = None

    @property
    def text(self) -> str:
        parts = [f"kill worker {self.kill}"] if self.kill is not None else []
        for rule in self.rules:
            what = " ".join(f"{key}={value}" for key, value in rule.items() if value and key != "device")
            parts.append(f"device {rule['device']}: {what}")
        return "; ".join(parts)


def draw_schedule(rng: random.Random, *, operations: int, count: int, workers: int, devices: Sequence[str]) -> list[Fault]:
    """`count` faults, one after the other, of all kinds, each in the first half of its share of the requests."""
    share = operations // (count + 1)
    faults = []
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        begin = (index + 1) * share - share // 2
        end = begin + max(rng.randrange(share // 4, share // 2 + 2), 1)
        rules = () if kind == "kill" else tuple(_draw_rules(rng, kind, workers=workers, devices=devices))
        faults.append(Fault(begin=begin, end=end, rules=rules, kill=rng.randrange(workers) if kind in ("kill", "both") else None))
    return faults


def _draw_rules(rng: random.Random, kind: str, *, workers: int, devices: Sequence[str]) -> list[dict[str, Any]]:
    """About one device: for all gateways or for one, for all messages or for some."""
    rule: dict[str, Any] = {"device": rng.choice(devices)}
    if kind in ("drop", "both"):
        rule["drop"] = rng.choice([0.2, 0.5, 1.0])
    if kind in ("delay", "both"):
        rule["delay_s"] = rng.choice([[0.0, 0.02], [0.0, 0.2], [0.1, 0.6]])
    if rng.random() < 0.5:
        rule["workers"] = [rng.randrange(workers)]
    if rng.random() < 0.4:
        rule["ops"] = rng.choice([["accept"], ["look"], ["accept", "put_rows"], ["put_rows"], ["page", "unconfirmed"]])
    if rng.random() < 0.3:
        rule["direction"] = rng.choice(["to", "from"])
    return [rule]


class Trouble:
    """Brings the faults about."""

    def __init__(self, admin: AdminClient, *, say: Callable[[str], None]) -> None:
        self._admin, self._say = admin, say
        self.kill_count = 0
        self.harmed_count = 0            # messages, as far as workers lived to tell

    def run(self, faults: Sequence[Fault], *, done: Callable[[], int], is_over: Callable[[], bool], seed: int) -> int:
        """All of `faults`, as `done` goes on; how many began. In the end there are none."""
        begun = 0
        try:
            for number, fault in enumerate(faults):
                if not _wait(lambda at=fault.begin: done() >= at, is_over):       # type: ignore[misc]
                    break
                begun += 1
                self._say(f"fault {number + 1} at {done()}: {fault.text}")
                with self.rules(fault.rules, seed=seed + number):
                    if fault.kill is not None:
                        self.kill(fault.kill)
                    _wait(lambda at=fault.end: done() >= at, is_over)             # type: ignore[misc]
        finally:
            self._admin.call("DELETE", "/faults")
        return begun

    @contextmanager
    def rules(self, rules: Sequence[Mapping[str, Any]], *, seed: int) -> Iterator[None]:
        """In force for as long as the context lasts."""
        if not rules:
            yield
            return
        before = self._ask_harmed()
        self._admin.post("/faults", {"rules": [dict(rule) for rule in rules], "seed": seed})
        try:
            yield
        finally:                         # a worker that was started again meanwhile counts from 0
            harmed = zip(before, self._ask_harmed(), strict=True)
            self.harmed_count += sum(now - then if now >= then else now for then, now in harmed)
            self._admin.call("DELETE", "/faults")

    def _ask_harmed(self) -> list[int]:
        return [count or 0 for count in self._admin.get("/faults")["harmed"]]

    def kill(self, worker: int) -> None:
        """kill -9, if it runs."""
        pid = self.pids()[worker]
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            self.kill_count += 1

    def pids(self) -> list[int | None]:
        """Of the workers as they are now."""
        return list(self._admin.get("/status")["pids"]["workers"])

    def wait_healthy(self) -> None:
        """Until every worker serves and every device counts. Raises `TimeoutError`."""
        deadline_s = time.monotonic() + HEALTHY_S
        while time.monotonic() < deadline_s:
            try:
                facts = self._admin.get("/status")
            except StorageError:
                facts = {"devices": [], "workers": []}
            if facts["devices"] and all(device["state"] == "ok" for device in facts["devices"]) \
                    and all(worker["is_ready"] for worker in facts["workers"]):
                return
            time.sleep(0.1)
        raise TimeoutError(f"the system does not become healthy in {HEALTHY_S} s")


def _wait(is_so: Callable[[], bool], is_over: Callable[[], bool]) -> bool:
    """True once it is so, False if all is over before."""
    while not is_so():
        if is_over():
            return False
        time.sleep(_POLL_S)
    return True
