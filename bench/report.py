"""What `holdfast bench` prints: a table for people, JSON for programs."""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bench.job import OpResult
from bench.procfs import describe_machine
from bench.ratios import Spread
from bench.session import Measured
from common.version import VERSION

FORMAT = 1
_HEAD = ("workload", "per s", "MB/s", "p50 ms", "p99 ms", "max ms", "errors", "checks", "CPU us/op", "cores", "RSS MB", "PSS MB",
         "others")
_HEAD_COMPARE = ("workload", "A per s", "B per s", "rate B/A", "quartiles", "A us/op", "B us/op", "CPU B/A", "quartiles", "pairs",
                 "errors")
_OTHERS_MUCH = 0.2                              # cores


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One workload of a comparison; ratios are B / A, pair by pair."""

    workload: str
    rates: tuple[float, float]                  # medians of A and B
    cpu_us_per_op: tuple[float | None, float | None]
    rate: Spread | None
    cpu: Spread | None
    pairs: tuple[tuple[Measured, Measured], ...]

    @property
    def is_good(self) -> bool:
        """No error and no failed check on either side."""
        return all(measured.is_good for pair in self.pairs for measured in pair)


def make_document(results: Sequence[Measured], *, generator: str, warning: str | None, options: Mapping[str, object],
                  problems: Sequence[str]) -> dict[str, Any]:
    """Everything that is known about a run."""
    return {"format": FORMAT, "holdfast": VERSION, "machine": describe_machine(), "generator": generator,
            "is_client_bound": warning is not None, "options": dict(options), "problems": list(problems),
            "is_good": not problems and all(result.is_good for result in results),
            "results": [dataclasses.asdict(result) | {"is_good": result.is_good} for result in results]}


def make_compare_document(compared: Sequence[Compared], *, commits: tuple[str, str], generator: str, warning: str | None,
                          options: Mapping[str, object], problems: Sequence[str]) -> dict[str, Any]:
    """Everything that is known about a comparison, each window of each pair included."""
    return {"format": FORMAT, "holdfast": VERSION, "machine": describe_machine(), "generator": generator,
            "is_client_bound": warning is not None, "options": dict(options), "problems": list(problems), "commits": list(commits),
            "is_good": not problems and all(row.is_good for row in compared),
            "results": [dataclasses.asdict(row) | {"is_good": row.is_good} for row in compared]}


def format_results(results: Sequence[Measured]) -> str:
    """A row per workload; a mix has one more for each of its methods."""
    rows: list[tuple[str, ...]] = [_HEAD]
    for result in results:
        checks = f"{result.checks}" if not result.failed_checks else f"{len(result.failed_checks)} FAILED"
        rows.append((result.workload, _figure(result.rate), _figure(result.mb_per_s), f"{result.p50_ms:.2f}",
                     f"{result.p99_ms:.2f}", f"{result.max_ms:.1f}", f"{result.errors}", checks, _figure(result.cpu_us_per_op),
                     _figure(result.server_cores, 2), _megabytes(result.rss_bytes_max), _megabytes(result.pss_bytes),
                     _figure(result.other_cores, 2)))
        if len(result.ops) > 1:
            rows += [_format_op(op, result.elapsed_s) for op in result.ops]
    return format_table(rows)


def format_notes(results: Sequence[Measured], problems: Sequence[str], warning: str | None) -> str:
    """What a reader of the table has to know; empty if there is nothing."""
    out = [f"note: {warning}"] if warning else []
    for result in results:
        if result.errors:
            out.append(f"error: {result.workload}: {result.errors} of {result.errors + sum(op.count for op in result.ops)} "
                       f"failed: {result.error_text}")
        out += [f"failed check: {result.workload}: {text}" for text in result.failed_checks[:5]]
        if len(result.failed_checks) > 5:
            out.append(f"failed check: {result.workload}: and {len(result.failed_checks) - 5} more")
    out += [f"error: {problem}" for problem in problems]
    disturbed = [result.workload for result in results if (result.other_cores or 0) > _OTHERS_MUCH]
    if disturbed:
        out.append(f"note: other programs took more than {_OTHERS_MUCH} cores during {', '.join(disturbed)}: "
                   "there trust CPU per operation more than rates")
    return "".join(f"{line}\n" for line in out)


def format_comparison(compared: Sequence[Compared]) -> str:
    """A row per workload."""
    rows: list[tuple[str, ...]] = [_HEAD_COMPARE]
    for row in compared:
        errors = sum(measured.errors + len(measured.failed_checks) for pair in row.pairs for measured in pair)
        rows.append((row.workload, _figure(row.rates[0]), _figure(row.rates[1]), *_format_spread(row.rate),
                     _figure(row.cpu_us_per_op[0]), _figure(row.cpu_us_per_op[1]), *_format_spread(row.cpu),
                     f"{len(row.pairs)}", f"{errors}"))
    return format_table(rows)


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, figures to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "".join("  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                             for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() + "\n" for row in rows)


def _format_op(op: OpResult, elapsed_s: float) -> tuple[str, ...]:
    return (f"  {op.method}", _figure(op.rate), _figure(op.bytes / elapsed_s / 1e6), f"{op.p50_ms:.2f}", f"{op.p99_ms:.2f}",
            f"{op.max_ms:.1f}", f"{op.errors}", *[""] * 6)


def _format_spread(spread: Spread | None) -> tuple[str, str]:
    if spread is None:
        return "-", "-"
    return f"{spread.median:.3f}{'' if spread.is_clear else ' ~'}", f"{spread.low:.3f} {spread.high:.3f}"


def _figure(value: float | None, digits: int | None = None) -> str:
    """Three digits that count, unless told."""
    if value is None:
        return "-"
    if digits is None:
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}"


def _megabytes(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 1e6:.0f}"
