"""What a load generator is told and what it answers; bench/load.c and bench/python_load.py speak both forms.

The job goes to standard input as lines `name value`; `op METHOD SHARE next|random FIRST COUNT PREFIX` and `page BYTES PATH` may
repeat. The answer is one JSON object with the fields of `LoadResult`. The token is in the job, so in no process list.
"""
from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from common.errors import BenchFailed

NEXT, RANDOM = "next", "random"
_TEXT = {"address": str, "port": int, "host": str, "token": str, "connections": int, "seconds": float, "warmup": float,
         "timeout": float, "is_drained": int, "seed": int, "body_fd": int, "body_bytes": int, "variant_count": int,
         "variant_step": int, "check_every": int}


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One kind of request; keys are `prefix` and ten digits."""

    method: str                              # PUT, GET, HEAD, DELETE
    prefix: str = ""
    share: float = 1.0                       # of the requests, when a job has two
    order: str = NEXT                        # or RANDOM
    first: int = 0
    count: int = 0                           # keys first .. first+count-1; 0 with NEXT: no end


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of a load generator."""

    address: str                             # numeric
    port: int
    host: str                                # the Host field
    token: str
    ops: tuple[Op, ...]                      # one or two
    pages: tuple[tuple[int, str], ...] = ()  # (bytes expected, path) in turn, instead of keys
    connections: int = 1
    seconds: float = 8.0                     # the window, after `warmup`
    warmup: float = 0.0
    timeout: float = 60.0
    is_drained: int = 0                      # 1: what is in flight at the end counts, and the window ends with the last answer
    seed: int = 1
    body_fd: int = -1                        # memory file; the body of key n begins at n % variant_count * variant_step
    body_bytes: int = 0                      # of a PUT, and expected of a GET and a HEAD
    variant_count: int = 1
    variant_step: int = 0
    check_every: int = 0                     # of so many GETs one is compared byte by byte; 0: none


@dataclass(frozen=True, slots=True, kw_only=True)
class OpResult:
    """What became of one kind; count, bytes, rate and latencies are of the successful ones inside the window."""

    method: str
    issued: int
    count: int
    errors: int
    bytes: int
    rate: float
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What became of a job; all but the ops and elapsed_s counts warm-up and what came too late as well."""

    elapsed_s: float                         # of the window
    total_s: float
    ok: int
    failed: int                              # any answer but 2xx, and what the next four count
    bytes: int
    broken: int
    timeouts: int
    wrong_length: int
    wrong_body: int
    checked: int                             # GETs compared byte by byte
    client_cpu_s: float
    statuses: dict[str, int]
    ops: tuple[OpResult, ...]

    def describe_errors(self) -> str:
        """For a person: what kinds of errors there were; empty without any."""
        found = [f"{count} answers {status}" for status, count in self.statuses.items() if not status.startswith("2")]
        found += [f"{count} {what}" for what, count in (
            ("broken connections", self.broken), ("timeouts", self.timeouts), ("wrong lengths", self.wrong_length),
            ("wrong bodies", self.wrong_body)) if count]
        return ", ".join(found)


def encode_job(job: Job) -> str:
    """The lines."""
    out = [f"{name} {getattr(job, name)}" for name in _TEXT]
    out += [f"op {op.method} {op.share} {op.order} {op.first} {op.count} {op.prefix}" for op in job.ops]
    out += [f"page {size} {path}" for size, path in job.pages]
    assert not any("\n" in line for line in out), "a line break in a job"
    return "\n".join(out) + "\n"


def parse_job(text: str) -> Job:
    """The opposite of `encode_job`, for lines that it made."""
    fields: dict[str, Any] = {}
    ops, pages = [], []
    for line in text.splitlines():
        name, value = line.split(" ", 1)
        if name == "op":
            method, share, order, first, count, prefix = value.split(" ", 5)
            ops.append(Op(method=method, share=float(share), order=order, first=int(first), count=int(count), prefix=prefix))
        elif name == "page":
            size, path = value.split(" ", 1)
            pages.append((int(size), path))
        else:
            fields[name] = _TEXT[name](value)
    return Job(ops=tuple(ops), pages=tuple(pages), **fields)


def encode_result(result: LoadResult) -> str:
    """One JSON object."""
    return json.dumps(dataclasses.asdict(result))


def parse_result(text: str) -> LoadResult:
    """Raises `BenchFailed` for what no generator of ours prints."""
    try:
        fields = json.loads(text)
        ops = tuple(OpResult(**op) for op in fields.pop("ops"))
        return LoadResult(ops=ops, **fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BenchFailed(reason=f"the load generator answered {text[:200]!r}") from error
