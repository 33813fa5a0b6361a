"""The fault switch: what a rule may say, whom it reaches, and that a plain node has none."""
from __future__ import annotations

import random
from pathlib import Path

import pytest

from common.admin import AdminRequest
from common.errors import BadRequest
from common.faultnet import Direction, FaultRules
from node.faults import OPS, FaultSwitch, apply_faults, parse_spec, switch_routes
from node.plan import DeviceSlot

IDS = {"d1": 0, "d2": 1}
SLOTS = [DeviceSlot(ring_id=i, uuid=f"u{i}", name=f"d{i + 1}", path=Path("/x"), worker=i) for i in range(2)]


class Workers:
    """Two workers that remember what they were told; the second is away."""

    def __init__(self):
        self.faults = None
        self.rules = FaultRules()

    async def ask_all(self, op, **fields):
        assert op == "faults"
        if "set" in fields:
            apply_faults(self.rules, fields["set"], worker=0)
        return [self.rules.harmed_count, None]


def passed(rules, device, op="look", direction=Direction.TO):
    """Whether a message gets through at once."""
    seen = []
    rules.pass_on(direction, "p", OPS[op], (), lambda: seen.append(1), about=device)
    return bool(seen)


def applied(*raws, worker=0):
    rules = FaultRules()
    specs = [parse_spec(raw, IDS, 2) for raw in raws]
    names = ("device", "ring_id", "drop", "delay_s", "ops", "direction", "workers")
    apply_faults(rules, {"seed": 1, "specs": [{n: getattr(s, n) for n in names} for s in specs]}, worker=worker)
    return rules


def test_a_node_without_the_variable_has_no_switch():
    assert switch_routes(SLOTS, 2, lambda: None, {}) == ()
    assert switch_routes(SLOTS, 2, lambda: None, {"HOLDFAST_FAULTS": "0"}) == ()
    assert len(switch_routes(SLOTS, 2, lambda: None, {"HOLDFAST_FAULTS": "1"})) == 3


def test_a_rule_harms_the_messages_of_its_device_alone_both_ways():
    rules = applied({"device": "d2", "drop": 1})
    assert passed(rules, 0) and passed(rules, None)
    assert not passed(rules, 1) and not passed(rules, 1, direction=Direction.FROM) and not passed(rules, 1, "put_rows")
    assert rules.harmed_count == 3


def test_op_direction_and_worker_narrow_a_rule():
    rules = applied({"device": "d1", "drop": 1, "ops": ["accept"], "direction": "to"})
    assert passed(rules, 0, "look") and passed(rules, 0, "accept", Direction.FROM) and not passed(rules, 0, "accept")
    assert passed(applied({"device": "d1", "drop": 1, "workers": [1]}), 0)
    assert not passed(applied({"device": "d1", "drop": 1, "workers": [1]}, worker=1), 0)


def test_a_chance_is_kept_and_repeats_with_its_seed():
    def draw():
        rules = applied({"device": "d1", "drop": 0.3})
        return [passed(rules, 0) for _ in range(2000)]
    assert draw() == draw() and 1200 < sum(draw()) < 1600


async def test_delays_lie_within_their_bounds():
    late = []

    class Loop:
        def call_later(self, delay_s, go):
            late.append(delay_s)
    rules = applied({"device": "d1", "delay_s": [0.1, 0.2]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.faultnet.asyncio.get_running_loop", Loop)
        assert not any(passed(rules, 0) for _ in range(100))
    assert len(late) == 100 and 0.1 <= min(late) < max(late) <= 0.2


async def test_set_show_and_clear_reach_workers_that_run_and_those_that_start_later():
    workers = Workers()
    routes = {route.method: route.handler for route in FaultSwitch(SLOTS, 2, lambda: workers).routes}
    told = await routes["POST"](AdminRequest(params={}, query={}, body={"rules": [{"device": "d1", "drop": 1}]}))
    assert told["harmed"] == [0, None] and told["rules"][0]["device"] == "d1"
    late = FaultRules()
    apply_faults(late, workers.faults, worker=1)
    assert not passed(workers.rules, 0) and not passed(late, 0)
    assert (await routes["GET"](AdminRequest(params={}, query={}, body={})))["harmed"] == [1, None]
    assert (await routes["DELETE"](AdminRequest(params={}, query={}, body={})))["rules"] == []
    assert workers.faults is None and passed(workers.rules, 0)
    apply_faults(late, workers.faults, worker=1)
    assert passed(late, 0)


@pytest.mark.parametrize("raw", [
    [], {}, {"device": "d9"}, {"device": "d1", "dorp": 1}, {"device": "d1", "drop": 2}, {"device": "d1", "drop": "much"},
    {"device": "d1", "delay_s": 1}, {"device": "d1", "delay_s": [0.2, 0.1]}, {"device": "d1", "delay_s": [0, 1e9]},
    {"device": "d1", "ops": ["bark"]}, {"device": "d1", "ops": "look"}, {"device": "d1", "direction": "up"},
    {"device": "d1", "workers": [2]}, {"device": "d1", "workers": ["0"]},
])
def test_a_rule_that_says_nothing_sensible_is_refused(raw):
    with pytest.raises(BadRequest):
        parse_spec(raw, IDS, 2)


@pytest.mark.parametrize("body", [{}, {"rules": {}}, {"rules": [{"device": "d1"}] * 101}, {"rules": [], "seed": "x"}])
async def test_a_request_that_is_none_is_refused_and_changes_nothing(body):
    workers = Workers()
    post = FaultSwitch(SLOTS, 2, lambda: workers).routes[1]
    with pytest.raises(BadRequest):
        await post.handler(AdminRequest(params={}, query={}, body=body))
    assert workers.faults is None


def test_without_a_seed_rules_still_have_a_source_of_chance():
    assert isinstance(FaultRules().rng, random.Random)
