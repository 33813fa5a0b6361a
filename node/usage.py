"""Usage of accounts on disk: STATE/usage/DAY/, one file per worker and run, and their sum.

A file holds all that its worker has counted since it began with this day, and is replaced whole (`node.files.write_private`), so a
sum over all files counts nothing twice: a worker that starts again begins another file. kill -9 loses what came after the last
flush, at most 10 s. Days that are over for two days are merged into one file that names those it replaces. A row:

    account: [reads, writes, lists, deletes, received bytes, sent bytes, stored bytes, objects, containers, seen at (us)]
"""
from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from common.clock import Clock
from common.errors import BadRequest, StorageError
from common.log import Repeats, get_logger
from node.files import write_private
from proxy.usage import Figures, UsageCounter

FORMAT = 1
FLUSH_S = 10.0
RETENTION_DAYS = 400
_MERGE_AFTER_DAYS = 2
_DAY_US = 86_400_000_000
_ASKED_MAX = 20                              # accounts whose figures are asked for per flush
_ASK_S = 2.0
_MERGED = "merged.json"
_DAY_NAME = re.compile(r"\d{4}-\d\d-\d\d")
_NO_FIGURES = Figures(0, 0, 0, 0)
_log = get_logger("node.usage")
AskFigures = Callable[[str], Awaitable[Figures]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One account on one UTC day. seen_us: when `stored_bytes`, `objects` and `containers` were so; 0: never asked."""

    day: str
    account: str
    reads: int = 0
    writes: int = 0
    lists: int = 0
    deletes: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    stored_bytes: int = 0
    objects: int = 0
    containers: int = 0
    seen_us: int = 0

    @property
    def figures(self) -> Figures:
        return Figures(self.stored_bytes, self.objects, self.containers, self.seen_us)

    def add(self, row: list[int]) -> Usage:
        """With the row of another file: counts add up, of the figures the newer ones stay."""
        new = Figures(*row[6:10]) if row[9] > self.seen_us else self.figures
        return replace(self, reads=self.reads + row[0], writes=self.writes + row[1], lists=self.lists + row[2],
                       deletes=self.deletes + row[3], received_bytes=self.received_bytes + row[4],
                       sent_bytes=self.sent_bytes + row[5], **new._asdict())

    def as_fields(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def row(self) -> list[int]:
        """As a file has it."""
        return [self.reads, self.writes, self.lists, self.deletes, self.received_bytes, self.sent_bytes, *self.figures]


def day_of(now_us: int) -> str:
    """The UTC day, as 2026-11-20."""
    return datetime.fromtimestamp(now_us // 1_000_000, UTC).date().isoformat()


class UsageKeeper:
    """One per worker: writes what `counter` counts; `start`, then `close`. ask: figures of an account, from the store."""

    def __init__(self, root: Path, worker: int, counter: UsageCounter, clock: Clock, ask: AskFigures) -> None:
        """root: STATE/usage."""
        self._root, self._worker, self._counter, self._clock, self._ask = root, worker, counter, clock, ask
        self._begin_day()
        self._flushing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._repeats = Repeats(_log, clock=clock)

    def _begin_day(self) -> None:
        self._counter.begin_day()
        self._day = day_of(self._clock.now_us())
        # another name whenever a day begins: a clock that is set back must not replace what was written before
        self._path = self._root / self._day / f"w{self._worker}-{secrets.token_hex(8)}.json"
        self._written: dict[str, list[int]] = {}
        self._moved: set[str] = set()            # accounts that changed and whose figures have not been asked for since

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="usage")

    async def close(self) -> None:
        """Write the rest."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()

    async def _run(self) -> None:
        await self._tidy()
        while True:
            until_midnight_s = (_DAY_US - self._clock.now_us() % _DAY_US) / 1e6
            await asyncio.sleep(min(FLUSH_S, until_midnight_s + 0.001))
            await self.flush(asks=True)

    async def flush(self, *, asks: bool = False) -> None:
        """Write what was counted since the last time; at the end of a day begin the next one. asks: figures as well."""
        async with self._flushing:
            counter, is_over = self._counter, day_of(self._clock.now_us()) != self._day
            rows, figures = counter.rows, counter.figures
            if is_over:
                path, written, moved = self._path, self._written, self._moved
                self._begin_day()                # before the first wait: what is counted from now on is of the new day
                await self._write(path, rows, figures, written, moved)
                await self._tidy()
                return
            await self._write(self._path, rows, figures, self._written, self._moved)
            if asks and self._moved:
                await self._ask_figures()
                await self._write(self._path, rows, figures, self._written, set())

    async def _write(self, path: Path, rows: Mapping[str, list[int]], figures: Mapping[str, Figures],
                     written: dict[str, list[int]], moved: set[str]) -> None:
        """In a thread: the loop counts on meanwhile, and what it counts is in the next one."""
        try:
            moved |= await asyncio.to_thread(_save, path, rows, figures, written)
        except OSError as error:
            self._repeats.error("usage not written", about=str(path.parent), error=str(error))

    async def _ask_figures(self) -> None:
        """Of some of the accounts that have changed; what cannot be had now stays to be asked for."""
        asked = [self._moved.pop() for _ in range(min(_ASKED_MAX, len(self._moved)))]
        figures = self._counter.figures
        answers = await asyncio.gather(*(self._ask_one(account) for account in asked))
        for account, found in zip(asked, answers, strict=True):
            if found is not None:
                figures[account] = found

    async def _ask_one(self, account: str) -> Figures | None:
        try:
            async with asyncio.timeout(_ASK_S):
                return await self._ask(account)
        except (StorageError, TimeoutError):
            return None                          # deleted, or too few replicas: asked again after its next request

    async def _tidy(self) -> None:
        if self._worker:
            return                               # one of them is enough
        try:
            await asyncio.to_thread(tidy, self._root, self._day)
        except OSError as error:
            self._repeats.warning("old usage not merged", error=str(error))


def _save(path: Path, rows: Mapping[str, list[int]], figures: Mapping[str, Figures], written: dict[str, list[int]]) -> set[str]:
    """Write all rows if one is not as it was written; returns the accounts whose counts are others. Raises `OSError`."""
    fresh = {account: [*row, *figures.get(account, _NO_FIGURES)] for account, row in list(rows.items())}
    changed = [account for account, row in fresh.items() if written.get(account) != row]
    if not changed:
        return set()
    moved = {account for account in changed if account not in written or written[account][:6] != fresh[account][:6]}
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, encode_usage(fresh))
    written.update((account, fresh[account]) for account in changed)
    return moved


def encode_usage(rows: Mapping[str, list[int]], replaces: Iterable[str] = ()) -> bytes:
    """The bytes of a file."""
    return json.dumps({"format": FORMAT, "replaces": sorted(replaces), "accounts": rows}).encode()


def _load(path: Path) -> tuple[dict[str, list[int]], set[str]]:
    """Rows, and the names of files that this one replaces. Raises `OSError`, `ValueError`."""
    try:
        fields: Any = json.loads(path.read_bytes())
        if fields["format"] != FORMAT:
            raise ValueError(f"has format {fields['format']}, of another version")
        rows: dict[str, list[int]] = fields["accounts"]
        if any(len(row) != 10 or not all(isinstance(value, int) for value in row) for row in rows.values()):
            raise ValueError("a row is not ten integers")
        return rows, set(fields["replaces"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"is no usage file: {error!r}") from error


def _read_day(directory: Path) -> tuple[dict[str, Usage], list[Path], list[str]]:
    """By account the sum of all files of a day; the files that are in it or replaced; what could not be read."""
    found: dict[str, Usage] = {}
    problems: list[str] = []
    paths = sorted(path for path in directory.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    replaced: set[str] = set()
    used: list[Path] = []
    for path in sorted(paths, key=lambda path: path.name != _MERGED):        # it says which of the others count
        if path.name not in replaced:
            try:
                rows, gone = _load(path)
            except (OSError, ValueError) as error:
                problems.append(f"{path}: {error}")
                continue
            replaced |= gone
            for account, row in rows.items():
                found[account] = found.get(account, Usage(day=directory.name, account=account)).add(row)
        used.append(path)
    return found, used, problems


def read_usage(root: Path, first: str, last: str, account: str | None = None) -> tuple[list[Usage], list[str]]:
    """Days `first` to `last`, by day and account, and what could not be read. root: STATE/usage.

    What an account held on a day without a request of its own is what it held on the last one before.
    """
    out: list[Usage] = []
    problems: list[str] = []
    held: dict[str, Figures] = {}
    for day in _days(root):
        if day > last:
            break
        found, _, broken = _read_day(root / day)
        problems += broken
        for name, usage in sorted(found.items()):
            if not usage.seen_us and name in held:
                usage = replace(usage, **held[name]._asdict())
            held[name] = usage.figures
            if day >= first and account in (None, name):
                out.append(usage)
    return out, problems


def _days(root: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(root) if _DAY_NAME.fullmatch(name))
    except FileNotFoundError:
        return []


def tidy(root: Path, today: str) -> None:
    """Merge the files of days that are over, forget days after the retention. Raises `OSError`."""
    now = date.fromisoformat(today)
    for day in _days(root):
        directory = root / day
        age_days = (now - date.fromisoformat(day)).days
        if age_days > RETENTION_DAYS:
            shutil.rmtree(directory)
        elif age_days >= _MERGE_AFTER_DAYS and sum(1 for _ in directory.iterdir()) > 1:
            _merge(directory)


def _merge(directory: Path) -> None:
    """One file for all that can be read. It names what it replaces, so a crash between the two steps counts nothing twice."""
    found, used, _ = _read_day(directory)
    others = [path for path in used if path.name != _MERGED]
    if others:
        write_private(directory / _MERGED, encode_usage({name: usage.row() for name, usage in found.items()},
                                                        [path.name for path in others]))
        for path in others:
            path.unlink(missing_ok=True)


def parse_days(query: Mapping[str, str], today: str) -> tuple[str, str]:
    """First and last day that `day`, or `from` and `to`, ask for; today without. Raises `BadRequest`."""
    first = query.get("day") or query.get("from") or query.get("to") or today
    last = query.get("day") or query.get("to") or max(today, first)
    for text in (first, last):
        try:
            is_date = bool(_DAY_NAME.fullmatch(text)) and bool(date.fromisoformat(text))
        except ValueError:
            is_date = False
        if not is_date:
            raise BadRequest(reason=f"{text!r} is no day: write it as {today}")
    if first > last:
        raise BadRequest(reason=f"{first} is after {last}")
    return first, last
