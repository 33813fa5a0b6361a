"""The checker as a program: clients and faults on a real system, then the verdict.

    python -m tests.fault.history.check --seed 7                     a node of its own, in a directory that goes away
    python -m tests.fault.history.check --data STATE --operations 5000     a node that runs, started with HOLDFAST_FAULTS=1
    python -m tests.fault.history.check --judge history.jsonl        a history that was kept, judged again

Exit code 0: every answer can be explained; 1: one cannot, and it is printed with what was near it; 2: no verdict.
"""
from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.admin import AdminClient
from tests.fault.history.clients import MIX, Client, History, Place
from tests.fault.history.judge import Violation, is_unknown, judge
from tests.fault.history.record import Event, load_history, save_history
from tests.fault.history.register import Undecided
from tests.fault.history.schedule import Fault, Trouble, draw_schedule
from tests.fault.history.script import Script, load_script, run_script

ROOT = Path(__file__).parents[3]
START_S, END_S = 90.0, 120.0
SETTINGS = {"HOLDFAST_FAULTS": "1", "HOLDFAST_OBJECT_REQUEST_TIMEOUT_S": "6", "HOLDFAST_OBJECT_PEER_TIMEOUT_S": "6"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run. mixes: what clients do, by gateway; a gateway without one has no clients, without any all have the usual mix.

    script: in the place of clients and faults.
    """

    seed: int
    operations: int = 1_500
    faults: int | tuple[Fault, ...] = 4  # drawn from the seed, or these
    keys: int = 8
    clients: int = 10
    workers: int = 3
    mixes: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    script: Script | None = None


def load_plan(facts: Mapping[str, Any], *, attempt: int = 0) -> Plan:
    """A plan as a file of schedules has it; each attempt has a seed of its own."""
    faults = tuple(Fault(**{**fault, "rules": tuple(fault["rules"])}) for fault in facts.get("faults", ()))
    mixes = {int(gateway): mix for gateway, mix in facts.get("mixes", {}).items()}
    script = load_script(facts["script"]) if "script" in facts else None
    return Plan(**{**facts, "seed": facts["seed"] + attempt, "faults": faults, "mixes": mixes, "script": script})


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run came to."""

    plan: Plan
    events: Sequence[Event]
    violations: Sequence[Violation]
    faults: int
    kills: int
    harmed: int                          # messages that were dropped or delayed, as far as living workers remember
    took_s: float
    judged_s: float

    @property
    def text(self) -> str:
        """One line for the books."""
        gateways = Counter(str(event.gateway) for event in self.events)
        unknown = sum(is_unknown(event) for event in self.events)
        verdict = f"{len(self.violations)} VIOLATIONS" if self.violations else "linearizable"
        return (f"seed {self.plan.seed}: {len(self.events)} operations on {self.plan.keys} keys over {self.faults} faults "
                f"({self.kills} kills, {self.harmed} messages harmed), {unknown} of unknown outcome, by gateway "
                f"{dict(sorted(gateways.items()))}, {self.took_s:.1f} s, judged in {self.judged_s:.1f} s: {verdict}")


def run_plan(state: Path, plan: Plan, *, say: Callable[[str], None] = lambda line: None) -> Report:
    """Clients and faults on the node of `state`, and the verdict. Raises `register.Undecided`, `TimeoutError`, `OSError`."""
    admin = AdminClient.from_state(state)
    trouble = Trouble(admin, say=say)
    place = _make_place(state, plan, trouble)
    history = History(plan.operations)
    began_s = time.monotonic()
    if plan.script is not None:
        run_script(place, history, plan.script, trouble, seed=plan.seed)
        begun = len(plan.script.kills) + 1
    else:
        begun = _run_clients(place, history, plan, trouble, _faults_of(plan, admin))
    trouble.wait_healthy()
    _look_again(place, history, plan)
    took_s = time.monotonic() - began_s
    events = sorted(history.events, key=lambda event: event.begin_s)
    judging_s = time.monotonic()
    violations = judge(events)
    return Report(plan=plan, events=events, violations=violations, faults=begun, kills=trouble.kill_count, took_s=took_s,
                  harmed=trouble.harmed_count, judged_s=time.monotonic() - judging_s)


def _make_place(state: Path, plan: Plan, trouble: Trouble) -> Place:
    """A container of its own, with the token of the demo user."""
    endpoint = json.loads((state / "endpoint.json").read_text())
    demo = endpoint["demo"]
    fields = _call("GET", endpoint["urls"]["auth"], {"X-Auth-User": demo["user"], "X-Auth-Key": demo["key"]})
    place = Place(url=fields["x-storage-url"], token=fields["x-auth-token"], container=f"history-{plan.seed}-{uuid.uuid4()}",
                  keys=tuple(f"k{number}" for number in range(plan.keys)), pids=_remembered(trouble.pids))
    _call("PUT", f"{place.url}/{place.container}", {"X-Auth-Token": place.token})
    return place


def _remembered(pids: Callable[[], Sequence[int | None]], *, for_s: float = 0.05) -> Callable[[], Sequence[int | None]]:
    """Many clients connect again at one moment; the status is asked once for all of them."""
    lock = threading.Lock()
    known: list[Any] = [0.0, []]

    def ask() -> Sequence[int | None]:
        with lock:
            if time.monotonic() - known[0] > for_s:
                known[:] = [time.monotonic(), pids()]
            return list(known[1])
    return ask


def _call(method: str, url: str, headers: dict[str, str]) -> dict[str, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, method=method, headers=headers), timeout=START_S) as answer:
        return {name.lower(): value for name, value in answer.headers.items()}


def _make_clients(place: Place, history: History, plan: Plan) -> list[Client]:
    gateways = sorted(plan.mixes) or range(plan.workers)
    tags: dict[str, list[str]] = {key: [] for key in place.keys}
    return [Client(place, history, number, gateway=(at := gateways[number % len(gateways)]), seed=plan.seed,
                   mix=dict(plan.mixes.get(at, MIX)), tags=tags) for number in range(plan.clients)]


def _run_clients(place: Place, history: History, plan: Plan, trouble: Trouble, faults: Sequence[Fault]) -> int:
    """Until they have done what was planned; how many faults there were."""
    clients = _make_clients(place, history, plan)
    for client in clients:
        client.start()
    begun = trouble.run(faults, done=lambda: len(history.events), is_over=history.is_over.is_set, seed=plan.seed)
    for client in clients:
        client.join(END_S)
        assert not client.is_alive(), f"{client.name} hangs"
    if history.errors:
        raise history.errors[0]
    return begun


def _faults_of(plan: Plan, admin: AdminClient) -> Sequence[Fault]:
    if not isinstance(plan.faults, int):
        return plan.faults
    devices = [device["name"] for device in admin.get("/status")["devices"]]
    return draw_schedule(random.Random(plan.seed), operations=plan.operations, count=plan.faults, workers=plan.workers,
                         devices=devices)


def _look_again(place: Place, history: History, plan: Plan) -> None:
    """When all is over: every key and the listing, from every gateway."""
    tags: dict[str, list[str]] = {key: [] for key in place.keys}
    for gateway in range(plan.workers):
        client = Client(place, history, plan.clients + gateway, gateway=gateway, seed=plan.seed, mix=MIX, tags=tags)
        for key in place.keys:
            history.add(client.step("get", key))
        history.add(client.step("list", ""))
        client.close()


@contextmanager
def own_node(*, workers: int, environ: Mapping[str, str] | None = None) -> Iterator[Path]:
    """The state directory of a node that lives as long as the context."""
    with tempfile.TemporaryDirectory(prefix="holdfast-history-", ignore_cleanup_errors=True) as directory:
        state = Path(directory) / "state"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        path = os.pathsep.join(filter(None, [(environ or {}).get("PYTHONPATH"), str(ROOT)]))
        full = {**clean, **SETTINGS, **(environ or {}), "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "HOME": directory}
        command = [sys.executable, "-m", "cli", "up", "--data", str(state), "--listen", "127.0.0.1:0", "--admin-listen",
                   "127.0.0.1:0", "--workers", str(workers)]
        with (Path(directory) / "out").open("wb") as out:
            process = subprocess.Popen(command, env=full, cwd=directory, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            deadline_s = time.monotonic() + START_S
            while not (state / "endpoint.json").exists():
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise OSError(f"the node does not start:\n{(Path(directory) / 'out').read_text()[-4000:]}")
                time.sleep(0.05)
            yield state
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault.history.check", description="Is a running system linearizable?")
    parser.add_argument("--data", type=Path, help="state directory of a node that runs; else one is started")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--operations", type=int, default=20_000)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--keys", type=int, default=8)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--workers", type=int, default=3, help="of the node; with --data it is asked")
    parser.add_argument("--keep", type=Path, help="write the history to this file; one that is rejected is kept anyhow")
    parser.add_argument("--judge", type=Path, help="judge this file, run nothing")
    options = parser.parse_args(argv)
    try:
        if options.judge is not None:
            return _tell(judge(load_history(options.judge)))
        seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
        if options.data is not None:
            options.workers = len(AdminClient.from_state(options.data).get("/status")["workers"])
        plan = Plan(seed=seed, operations=options.operations, faults=options.faults, keys=options.keys, clients=options.clients,
                    workers=options.workers)
        if options.data is not None:
            report = run_plan(options.data, plan, say=print)
        else:
            with own_node(workers=plan.workers) as state:
                report = run_plan(state, plan, say=print)
    except Undecided as error:
        print(f"no verdict: {error}", file=sys.stderr)
        return 2
    keep = options.keep
    if report.violations and keep is None:
        keep = Path(tempfile.gettempdir()) / f"history-{seed}-{uuid.uuid4().hex[:8]}.jsonl"
    if keep is not None:
        save_history(report.events, keep)
        print(f"history in {keep}")
    print(report.text)
    return _tell(report.violations)


def _tell(violations: Sequence[Violation]) -> int:
    for violation in violations:
        print(f"{violation.what} {violation.key}: {violation.text}")
    print("rejected" if violations else "accepted")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
