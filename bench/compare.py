"""Two systems measured alternately, A B, B A, A B ..., so that what else the machine does falls on both; the ratio of each pair."""
from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.build import cache_dir
from bench.generator import Generator
from bench.ratios import find_ratios, find_spread
from bench.report import Compared
from bench.session import Measured, Session
from bench.target import Target
from bench.trees import HERE, find_commit, make_tree
from bench.workloads import Workload
from common.errors import BenchFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What to compare, and how."""

    commits: tuple[str, str]
    workloads: tuple[Workload, ...]
    pairs: int
    seconds: float                           # of one window
    names: int = 10_000                      # as for `Session`
    objects: int = 2000
    seed: int = 1
    place: str | None = None                 # folder for trees and stores; the cache


def compare_commits(comparison: Comparison, generator: Generator, environ: Mapping[str, str], *,
                    say: Callable[[str], None]) -> tuple[list[Compared], list[str]]:
    """Both systems are started, measured and removed. What was compared, and what went wrong besides. Raises `BenchFailed`."""
    for commit in comparison.commits:
        if commit != HERE:
            find_commit(commit)
    cache = cache_dir(environ)
    place = Path(tempfile.mkdtemp(prefix="compare-", dir=comparison.place or cache))
    problems: list[str] = []
    compared: list[Compared] = []
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        try:
            sessions = [_open(comparison, commit, place / side, cache, generator, stack, problems, say)
                        for side, commit in zip("ab", comparison.commits, strict=True)]
            for workload in comparison.workloads:
                compared.append(_compare(sessions, workload, comparison.pairs, say))
        except BenchFailed as error:
            problems.append(str(error.fields["reason"]))
    return compared, problems


def summarize(workload: str, pairs: list[tuple[Measured, Measured]]) -> Compared:
    """Medians of both sides, and the ratios of the pairs."""
    rates_a, rates_b = ([pair[side].rate for pair in pairs] for side in (0, 1))
    cpu_a, cpu_b = ([pair[side].cpu_us_per_op for pair in pairs] for side in (0, 1))
    return Compared(workload=workload, rates=(_median(rates_a) or 0.0, _median(rates_b) or 0.0),
                    cpu_us_per_op=(_median(cpu_a), _median(cpu_b)), rate=find_spread(find_ratios(rates_a, rates_b)),
                    cpu=find_spread(find_ratios(cpu_a, cpu_b)), pairs=tuple(pairs))


def _open(comparison: Comparison, commit: str, folder: Path, cache: Path, generator: Generator, stack: ExitStack,
          problems: list[str], say: Callable[[str], None]) -> Session:
    """Start one side; the stack ends it."""
    tree = make_tree(commit, folder, cache, say=say)
    say(f"starting {tree.commit[:16]}")
    login = tree.start()
    stack.callback(tree.stop, login)
    session = Session(Target(login), generator, seconds=comparison.seconds, seed=comparison.seed, names=comparison.names,
                      objects=comparison.objects, say=say)
    stack.callback(lambda: problems.extend(f"{tree.commit[:16]}: {problem}" for problem in session.close()))
    return session


def _compare(sessions: list[Session], workload: Workload, pair_count: int, say: Callable[[str], None]) -> Compared:
    pairs: list[tuple[Measured, Measured]] = []
    for session in sessions:
        session.prepare(workload)
    for number in range(pair_count):
        order = (0, 1) if number % 2 == 0 else (1, 0)             # neither side always runs on what the other one left behind
        measured = {side: sessions[side].measure(workload) for side in order}
        pairs.append((measured[0], measured[1]))
        say(f"{workload.name} pair {number + 1}: {measured[0].rate:.0f} and {measured[1].rate:.0f} per s, "
            f"CPU {measured[0].cpu_us_per_op or 0:.1f} and {measured[1].cpu_us_per_op or 0:.1f} us/op")
    return summarize(workload.name, pairs)


def _median(values: Sequence[float | None]) -> float | None:
    spread = find_spread([value for value in values if value is not None])
    return None if spread is None else spread.median
