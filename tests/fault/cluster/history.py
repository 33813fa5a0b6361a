"""Is a history of one name linearizable? Reads, writes and deletes with their times; some outcomes are unknown.

Wing and Gong's search with memory: a state is the set of operations done so far and the value they leave.
Source: Wing and Gong, 1993; Lowe, 2017.
"""
from __future__ import annotations

from dataclasses import dataclass

NEVER_S = float("inf")


@dataclass(frozen=True, slots=True)
class Op:
    """value: written, or read; None: absent. end_s: NEVER_S for an unknown outcome (then it may also never happen)."""

    kind: str                            # "write" (also of a delete: None) or "read"
    value: object
    begin_s: float
    end_s: float


def is_linearizable(ops: list[Op], first: object = None) -> bool:
    """True when some order explains every answer. first: the value before."""
    ops = sorted((op for op in ops if not (op.kind == "read" and op.end_s == NEVER_S)), key=lambda op: op.begin_s)
    known = frozenset(index for index, op in enumerate(ops) if op.end_s != NEVER_S)
    seen = set()
    todo = [(frozenset(), first)]
    while todo:
        done, value = todo.pop()
        if known <= done:
            return True
        if (done, value) in seen:
            continue
        seen.add((done, value))
        bound_s = min(ops[index].end_s for index in known - done)
        for index, op in enumerate(ops):
            if op.begin_s > bound_s:
                break
            if index in done or (op.kind == "read" and op.value != value):
                continue
            todo.append((done | {index}, value if op.kind == "read" else op.value))
    return False
