"""A real node, real clients, killed workers and harmed messages: what every client saw can be explained."""
from __future__ import annotations

import pytest

from tests.fault.history.check import Plan, own_node, run_plan
from tests.fault.history.record import save_history

QUICK = Plan(seed=1, operations=1_500, faults=4)
LONG_SEEDS = (2, 3, 5)


def check(plan, tmp_path):
    lines = []
    with own_node(workers=plan.workers) as state:
        report = run_plan(state, plan, say=lines.append)
    print(report.text)
    save_history(report.events, tmp_path / "history.jsonl")      # what a seed hits is a matter of the moment: this is what happened
    assert report.violations == [], "\n".join([*lines, report.text, f"history in {tmp_path}", *map(tell, report.violations)])
    served = {event.gateway for event in report.events if event.status is not None}
    assert served >= set(range(plan.workers)), "clients of every gateway were served"
    assert len(report.events) >= plan.operations and report.faults == plan.faults
    assert report.kills >= plan.faults // 4 and report.harmed > 0
    return report


def tell(violation):
    return f"{violation.what} {violation.key}: {violation.text}"


def test_a_system_under_faults_keeps_its_promises(tmp_path):
    check(QUICK, tmp_path)


@pytest.mark.all_only
@pytest.mark.parametrize("seed", LONG_SEEDS)
def test_a_system_under_many_faults_keeps_its_promises(tmp_path, seed):
    check(Plan(seed=seed, operations=20_000, faults=30), tmp_path)
