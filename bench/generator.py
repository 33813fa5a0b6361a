"""The load generator of this machine: the compiled one if there can be one, else the one in Python, which says so."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.build import build_load
from bench.job import Job, LoadResult, encode_job, parse_result
from common.errors import BenchFailed

AUTO, COMPILED, PYTHON = "auto", "c", "python"
KINDS = (AUTO, COMPILED, PYTHON)
_CLIENT_BOUND = "the load comes from Python, so rates and latencies are client-bound: those of the client, not of the server"
_GRACE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """A program that takes jobs."""

    kind: str                                # COMPILED or PYTHON
    command: tuple[str, ...]
    warning: str | None = None               # what a reader of its figures has to know

    def run(self, job: Job) -> LoadResult:
        """To its end. Raises `BenchFailed` if it has no result."""
        fds = (job.body_fd,) if job.body_fd >= 0 else ()
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONSAFEPATH": "1"}
        try:
            done = subprocess.run(self.command, input=encode_job(job), capture_output=True, text=True, pass_fds=fds, env=environ,
                                  timeout=job.warmup + job.seconds + job.timeout + _GRACE_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchFailed(reason=f"the load generator has no result: {error}") from error
        if done.returncode != 0:
            raise BenchFailed(reason=f"the load generator ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return parse_result(done.stdout)


def make_generator(environ: Mapping[str, str], kind: str = AUTO) -> Generator:
    """The one that was asked for. Raises `BenchFailed` if that is the compiled one and it cannot be made."""
    if kind == PYTHON:
        return _make_python("as asked for")
    built = build_load(environ)
    if isinstance(built, Path):
        return Generator(kind=COMPILED, command=(str(built),))
    if kind == COMPILED:
        raise BenchFailed(reason=built)
    return _make_python(built)


def _make_python(why: str) -> Generator:
    return Generator(kind=PYTHON, command=(sys.executable, "-m", "bench.python_load"), warning=f"{_CLIENT_BOUND} ({why})")
