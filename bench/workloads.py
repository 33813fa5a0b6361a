"""What can be measured: KIND SIZE : CONNECTIONS, as in `put4k:64`."""
from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from common.config import hint
from common.errors import BenchFailed

KIB, MIB = 1 << 10, 1 << 20
SIZES = {"4k": 4 * KIB, "1m": MIB, "64m": 64 * MIB}
LIST = "list"
_CONNECTIONS = {"4k": 64, "1m": 8, "64m": 2}                  # when nobody says how many
READ_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One row of the result."""

    verb: str                                # put, get, head, delete, mixed (of 5 requests 4 GETs and a PUT), list
    size_bytes: int                          # 0 for list
    connections: int

    @property
    def name(self) -> str:
        """As it is asked for."""
        word = next((word for word, size in SIZES.items() if size == self.size_bytes), "")
        return f"{self.verb}{word}:{self.connections}"

    @property
    def is_drained(self) -> bool:
        """Few operations in a window: those in flight at its end count, and there is no warm-up."""
        return self.size_bytes >= MIB or self.verb == "delete"


KINDS = (*(f"{verb}{size}" for size in SIZES for verb in ("put", "get", "head", "delete", "mixed")), LIST)
DEFAULT = "put4k:1,put4k:64,get4k:1,get4k:64,head4k:64,mixed4k:16,list:1,list:4,put1m:8,get1m:8,put64m:2,get64m:2,delete4k:64"


def parse_workloads(text: str, connections: Sequence[int] = ()) -> list[Workload]:
    """A comma list of `put4k`, `put4k:64`, `get*`; those without a number take each of `connections`, else the usual ones.

    Raises `BenchFailed` for what there is not.
    """
    usual = [tuple(word.split(":")) for word in DEFAULT.split(",")]
    found: list[Workload] = []
    for word in filter(None, text.replace(" ", "").split(",")):
        pattern, _, number = word.partition(":")
        matching = dict.fromkeys(kind for kind, _ in usual if fnmatch.fnmatchcase(kind, pattern))
        kinds = list(matching) if "*" in pattern else [pattern]
        for kind in kinds:
            if kind not in KINDS:
                raise BenchFailed(reason=f"no such workload {kind!r}{hint(kind, KINDS)}; there are {' '.join(KINDS)}")
            counts = [_parse_count(number)] if number else list(connections) or [int(n) for k, n in usual if k == kind]
            found += [_make(kind, count) for count in counts or [_usual_count(kind)]]
        if not kinds:
            raise BenchFailed(reason=f"no workload matches {pattern!r}; there are {' '.join(KINDS)}")
    return list(dict.fromkeys(found))


def _make(kind: str, connections: int) -> Workload:
    verb = next(verb for verb in ("put", "get", "head", "delete", "mixed", LIST) if kind.startswith(verb))
    return Workload(verb=verb, size_bytes=SIZES.get(kind.removeprefix(verb), 0), connections=connections)


def _usual_count(kind: str) -> int:
    return next(count for size, count in _CONNECTIONS.items() if kind.endswith(size))


def _parse_count(number: str) -> int:
    if not number.isdecimal() or not 1 <= int(number) <= 10_000:
        raise BenchFailed(reason=f"{number!r} is no number of connections (1 to 10000)")
    return int(number)
