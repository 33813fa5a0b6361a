"""`ring-builder SCENARIO.json analyze`: how a ring behaves over rounds of changes, in the form of swift-ring-builder-analyzer.

    {"part_power": 12, "replicas": 3, "overload": 0.1, "random_seed": 7, "rounds": [
        [["add", "r1z1-10.0.0.1:6200/sda", 100], ["add", "r1z2-10.0.0.2:6200/sda", 100]],
        [["set_weight", 0, 150], ["remove", 1]],
        [["save", "after.builder"]]]}

Each round makes its changes, then rebalances until nothing more is to be gained, with all the time in between that partitions
need. Nothing is written but what "save" names.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import RingError
from ring.builder import RingBuilder
from ring.builderfile import save_builder
from ring.search import parse_new_device

PASSES_MAX = 20                          # of one round; more than a few mean that it goes round in circles
_GAIN_MIN = 1.0                          # percent of balance that make another pass worth it, as in Swift


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One rebalance. round and number count from 1; removed: devices that left with it."""

    round: int
    number: int
    moved: int
    balance: float
    dispersion: float
    removed: int


def analyze(scenario: object) -> list[Pass]:
    """All passes of all rounds. Raises `RingError`, and `ValueError` for what is no scenario."""
    if not isinstance(scenario, Mapping):
        raise ValueError("it has to be a JSON object")
    try:
        builder = RingBuilder(int(scenario["part_power"]), float(scenario["replicas"]), 0)
        builder.set_overload(float(scenario.get("overload", 0)))
        seed, rounds = int(scenario.get("random_seed", 0)), scenario["rounds"]
        return [step for number, commands in enumerate(rounds, 1) for step in _run_round(builder, number, commands, seed)]
    except KeyError as error:
        raise ValueError(f"{error} is missing") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def _run_round(builder: RingBuilder, number: int, commands: Sequence[Sequence[Any]], seed: int) -> list[Pass]:
    for command in commands:
        _apply(builder, command)
    passes: list[Pass] = []
    while len(passes) < PASSES_MAX:
        removed = len(builder.state.removed)
        plan = builder.rebalance(seed=seed, now_s=0)
        builder.pretend_min_part_hours_passed()
        passes.append(Pass(round=number, number=len(passes) + 1, moved=plan.moved_replicas, balance=plan.balance_after,
                           dispersion=plan.dispersion_after, removed=removed))
        if plan.moved_replicas == 0 or plan.balance_after < _GAIN_MIN or plan.balance_before - plan.balance_after < _GAIN_MIN:
            break
    return passes


def _apply(builder: RingBuilder, command: Sequence[Any]) -> None:
    verb, *arguments = command
    if verb == "add" and len(arguments) == 2:
        builder.add_dev(parse_new_device(str(arguments[0]), float(arguments[1])))
    elif verb == "remove" and len(arguments) == 1:
        builder.remove_dev(int(arguments[0]))
    elif verb == "set_weight" and len(arguments) == 2:
        builder.set_dev_weight(int(arguments[0]), float(arguments[1]))
    elif verb == "save" and len(arguments) == 1:
        save_builder(builder, Path(str(arguments[0])))
    else:
        raise RingError(reason=f"no command {list(command)!r}; there are: add DEVICE WEIGHT, remove ID, set_weight ID WEIGHT, "
                               "save FILE")
