"""What the devices said to one operation when not all was well: which device, asked for what, answered what, after how long.

Made by the first answer that is an error, so that an operation in which all goes well pays nothing.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from common.errors import StorageError

E = TypeVar("E", bound=StorageError)
TOLD_MAX = 24                            # different answers kept: three replicas, some phases, some errors


@dataclass(slots=True)
class _Told:
    error: StorageError
    ms: float                            # of the slowest
    times: int = 1


class Witness:
    """The answers of one operation that were errors; repetitions are counted."""

    __slots__ = ("_told",)

    def __init__(self) -> None:
        self._told: dict[tuple[int, str, str], _Told] = {}

    def note(self, device_id: int, asked: str, error: StorageError, ms: float) -> None:
        """asked: look, prepare, accept, row, page, rows, body. ms: from question to answer."""
        name = (device_id, asked, error.code)
        told = self._told.get(name)
        if told is not None:
            told.times += 1
            told.ms = max(told.ms, ms)
        elif len(self._told) < TOLD_MAX:
            self._told[name] = _Told(error, ms)

    def codes(self) -> dict[str, str]:
        """Device to the code that it answered last: the `answers` of a `QuorumNotMet`."""
        return {str(device_id): code for device_id, _, code in self._told}

    def facts(self) -> list[dict[str, object]]:
        """One record per device, question and kind of answer, in the order in which they came."""
        return [{"device": device_id, "asked": asked, "code": code, "ms": round(told.ms, 1), "times": told.times,
                 **{key: value for key, value in told.error.fields.items() if key not in ("device", "what", "waited_s")}}
                for (device_id, asked, code), told in self._told.items()]


def explain(error: E, rule: str, witness: Witness | None, **facts: object) -> E:
    """The error with a link that has the devices' answers."""
    return error.because(rule, **facts, answers=witness.facts() if witness is not None else [])
