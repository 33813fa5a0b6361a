"""Schedules repeat with their seed and are what the fault switch takes; the program answers with the verdict."""
from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import socket
from pathlib import Path

import pytest

from node.faults import parse_spec
from tests.fault.history import check
from tests.fault.history.clients import find_gateway
from tests.fault.history.record import Event, save_history
from tests.fault.history.register import Undecided
from tests.fault.history.schedule import Fault, Trouble, draw_schedule

DEVICES = ("d1", "d2", "d3")
IDS = {name: index for index, name in enumerate(DEVICES)}


def draw(seed, **options):
    return draw_schedule(random.Random(seed), **{"operations": 20_000, "count": 30, "workers": 3, "devices": DEVICES, **options})


def test_a_seed_brings_its_schedule_again_and_another_one_another():
    assert draw(1) == draw(1) != draw(2)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("operations", "count"), [(20_000, 30), (1_500, 4), (40, 7)])
def test_faults_follow_each_other_within_the_run_and_can_be_set(seed, operations, count):
    faults = draw(seed, operations=operations, count=count)
    assert len(faults) == count and faults[0].begin > 0 and faults[-1].begin < operations
    for fault, following in itertools.pairwise(faults):
        assert fault.begin < fault.end <= following.begin or operations < 100
    assert sum(fault.kill is not None for fault in faults) >= count // 2
    for rule in (rule for fault in faults for rule in fault.rules):
        assert parse_spec(rule, IDS, 3).ring_id == IDS[rule["device"]]


def test_over_some_seeds_every_device_worker_and_way_of_harm_has_its_turn():
    rules = [rule for seed in range(20) for fault in draw(seed) for rule in fault.rules]
    assert {rule["device"] for rule in rules} == set(DEVICES)
    assert {worker for rule in rules for worker in rule.get("workers", ())} == {0, 1, 2}
    assert any("drop" in r and "delay_s" not in r for r in rules) and any("delay_s" in r and "drop" not in r for r in rules)


class Admin:
    """An admin API that writes down what it is asked."""

    def __init__(self):
        self.rules, self.calls = [], []

    def get(self, path):
        return {"harmed": [len(self.calls), None]} if path == "/faults" else {"pids": {"workers": [None]}}

    def post(self, path, body):
        self.calls.append(body["rules"])

    def call(self, method, path):
        self.calls.append(method)


def test_faults_begin_when_it_is_their_turn_and_nothing_is_left_of_them():
    admin, count, lines = Admin(), iter(range(10**9)), []
    trouble = Trouble(admin, say=lines.append)
    faults = [Fault(begin=2, end=4, rules=({"device": "d1", "drop": 1.0},)), Fault(begin=6, end=7, kill=0),
              Fault(begin=10**10, end=10**10 + 1)]
    assert trouble.run(faults, done=lambda: next(count), is_over=lambda: next(count) > 50, seed=1) == 2
    assert admin.calls == [[{"device": "d1", "drop": 1.0}], "DELETE", "DELETE"] and len(lines) == 2
    assert trouble.harmed_count == 1 and trouble.kill_count == 0


def test_the_gateway_of_a_connection_is_found():
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = http.client.HTTPConnection(*server.getsockname())
        connection.connect()
        accepted, _ = server.accept()
        with accepted:
            assert find_gateway(connection, [None, os.getppid(), os.getpid()]) == 2
            assert find_gateway(connection, [None, os.getppid()]) is None
        connection.close()


def event(number, verb, begin_s, status, **facts):
    return Event(number=number, client=0, gateway=0, verb=verb, key="k", begin_s=begin_s, end_s=begin_s + 1, status=status, **facts)


@pytest.mark.parametrize(("seen", "code", "word"), [("a", 0, "accepted"), ("b", 1, "rejected")])
def test_a_kept_history_is_judged_again(tmp_path, capsys, seen, code, word):
    events = [event(1, "put", 0, 201, tag="a", size=1, mark="m"), event(2, "get", 2, 200, seen=(seen, "m"), size=1)]
    save_history(events, tmp_path / "h.jsonl")
    assert check.main(["--judge", str(tmp_path / "h.jsonl")]) == code
    assert word in capsys.readouterr().out


def test_no_verdict_is_no_success(tmp_path, monkeypatch):
    save_history([], tmp_path / "h.jsonl")

    def give_up(events):
        raise Undecided("too much")
    monkeypatch.setattr(check, "judge", give_up)
    assert check.main(["--judge", str(tmp_path / "h.jsonl")]) == 2


def test_a_schedule_file_is_a_plan_and_each_attempt_has_its_seed():
    facts = json.loads((Path(__file__).parent / "plants" / "schedules.json").read_text())
    for name in facts:
        first, second = (check.load_plan(facts[name], attempt=attempt) for attempt in (0, 1))
        assert second.seed == first.seed + 1 and (first.script is not None or first.faults)
        rules = [rule for fault in first.faults for rule in fault.rules] if first.script is None else first.script.rules
        assert rules and all(parse_spec(rule, IDS, first.workers) for rule in rules)
