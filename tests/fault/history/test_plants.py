"""The checker rejects real nodes with one mistake each, by a schedule of faults that brings the mistake to light."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fault.history.check import load_plan, own_node, run_plan

HERE = Path(__file__).parent
PLANTS = HERE / "plants"
SCHEDULES = json.loads((PLANTS / "schedules.json").read_text())
ATTEMPTS = 4                             # what a fault hits is a matter of the moment


def run(name, attempt, environ):
    """The report of one run of a plant's schedule."""
    plan = load_plan(SCHEDULES[name], attempt=attempt)
    with own_node(workers=plan.workers, environ=environ) as state:
        return run_plan(state, plan)


def is_rejected(name):
    """Within a few attempts; each for what the mistake does, a value that cannot be explained."""
    for attempt in range(ATTEMPTS):
        report = run(name, attempt, {"HOLDFAST_PLANT": name, "PYTHONPATH": str(PLANTS)})
        print(report.text)
        assert {violation.what for violation in report.violations} <= {"object", "listing"}
        if any(violation.what == "object" for violation in report.violations):
            return True
    return False


def test_every_plant_has_a_schedule():
    source = (PLANTS / "sitecustomize.py").read_text()
    assert all(f'"{name}"' in source for name in SCHEDULES) and len(SCHEDULES) == 3


@pytest.mark.parametrize("name", ["read-quorum-of-one", "no-write-back"])
def test_a_node_with_a_planted_mistake_is_rejected(name):
    assert is_rejected(name)


@pytest.mark.all_only
def test_a_node_that_forgets_its_promises_is_rejected():
    assert is_rejected("forgotten-promises")


@pytest.mark.all_only
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_same_schedules_find_nothing_without_the_mistake(name):
    report = run(name, 0, {})
    assert report.violations == [], report.text
    assert report.faults > 0 and report.harmed > 0
