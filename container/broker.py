"""One row database: SQLite, keyed by name WITHOUT ROWID, no triggers; derived from the journal until a checkpoint.

    rows(name, version, stamp, is_live, instance, size_bytes, object_count, etag, content_type, created_us,
         stat_us, change)
    info(key, value): path, format, applied (journal sequence), change, confirmed per peer, figures

Names compare as UTF-8 bytes (BINARY). `change` numbers the changes of this database; a peer's confirmed number says up
to which of them it is known to hold. Budget: 6 us per row in batches of 256, 0.5 ms per page of 1000.
All methods block and belong to the one thread that opened the broker.
"""
from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from common.timestamp import ZERO, unpack_stamp
from container.listing import Bounds, list_page, page_bounds, successor
from container.wire import UNCONFIRMED_ROWS, Figures, ListEntry, PageAnswer, PageRequest, Row

FORMAT = 1
_COLUMNS = "name, version, stamp, is_live, instance, size_bytes, object_count, etag, content_type, created_us, stat_us"
_SHOWN = "name, size_bytes, object_count, etag, content_type, created_us"       # the fields of a ListEntry
_SCHEMA = """
CREATE TABLE IF NOT EXISTS info (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows (name TEXT NOT NULL, version TEXT NOT NULL, stamp BLOB NOT NULL, is_live INTEGER NOT NULL,
    instance INTEGER NOT NULL, size_bytes INTEGER NOT NULL, object_count INTEGER NOT NULL, etag TEXT NOT NULL,
    content_type TEXT NOT NULL,
    created_us INTEGER NOT NULL, stat_us INTEGER NOT NULL, change INTEGER NOT NULL,
    PRIMARY KEY (name, version)) WITHOUT ROWID;
"""
KNOWN_AT_ONCE = 256                      # names in one query
UNCONFIRMED_MAX = 10_000                 # names per peer in memory; beyond it the page's range is scanned instead


class _Known(NamedTuple):
    """What a database has of a name, as far as merging looks at it."""

    stamp: bytes
    is_live: int
    instance: int
    size_bytes: int
    object_count: int
    stat_us: int
    created_us: int


class Broker:
    """See the module. peers: ids of the other devices that hold this database."""

    def __init__(self, path: str, name: str, peers: Iterable[str]) -> None:
        """name: "/account/container". Raises `sqlite3.DatabaseError` for a damaged file."""
        self.path = path
        self._changed: list[tuple[object, ...]] = []             # rows of the present transaction that are not written yet
        has_log = os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal") > 0     # of a process that was killed
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
        os.chmod(path, 0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA wal_autocheckpoint=0")          # a checkpoint is ours to make, and to sync
        self._db.execute("PRAGMA cache_size=-1024")
        self._db.executescript(_SCHEMA)
        info = dict(self._db.execute("SELECT key, value FROM info"))
        if info.get("format", FORMAT) > FORMAT:
            raise sqlite3.DatabaseError(f"written by a newer Holdfast: format {info['format']}, this program knows {FORMAT}")
        # whoever opens it to read after a start knows no name; without one figures would find no account, nor rows their instance
        self.name: str = name or info.get("path", "")
        self._is_container = self.name.count("/") == 2
        self.applied: int = info.get("applied", 0)
        self.instance: int = info.get("instance", 0)
        self.newest_us: int = info.get("newest_us", 0)           # of any row seen: how recent the figures are
        self._change: int = info.get("change", 0)
        self._figures = [info.get("count", 0), info.get("size", 0), info.get("objects", 0)]
        self._confirmed = {peer: info.get(f"confirmed {peer}", 0) for peer in peers}
        self._unconfirmed: dict[str, dict[str, tuple[bytes, int]] | None] = {}
        for peer in self._confirmed:
            self._unconfirmed[peer] = self._load_unconfirmed(peer)
        self.wal_bytes = 0
        self.is_dirty = has_log          # something is not in a synced checkpoint: that log may be in the page cache alone
        if not info:
            self._db.execute("INSERT OR REPLACE INTO info VALUES ('path', ?), ('format', ?)", (name, FORMAT))

    @property
    def figures(self) -> Figures:
        """Of the newest instance that rows were seen of."""
        return Figures(*self._figures)

    # --- writing -------------------------------------------------------------------------------------------------

    def apply(self, rows: Sequence[tuple[Row, str | None]], *, sequence: int) -> None:
        """Merge rows in one transaction and remember that the journal is applied up to `sequence`.

        rows: with the peer that sent each and therefore holds it, or None. A row with stamp ZERO brings figures only,
        for a container that is listed already.
        """
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            known = self._known({row.name for row, _ in rows})
            for row, now_held_by in rows:
                self._merge(row, now_held_by, known)
            self._write_changed()
            self.applied = max(self.applied, sequence)
            self._save_info()
            db.execute("COMMIT")
        except BaseException:
            self._changed.clear()
            if db.in_transaction:        # a full disk has ended it already
                db.execute("ROLLBACK")
            self._forget_unsaved()
            raise
        self.is_dirty = True

    def _known(self, names: Collection[str]) -> dict[tuple[str, str], _Known]:
        """What the database has of these names, by name and version; one query for some hundred names."""
        known: dict[tuple[str, str], _Known] = {}
        todo = list(names)
        while todo:
            part, todo = todo[:KNOWN_AT_ONCE], todo[KNOWN_AT_ONCE:]
            for name, version, *fields in self._db.execute(
                    "SELECT name, version, stamp, is_live, instance, size_bytes, object_count, stat_us, created_us FROM rows "
                    f"WHERE name IN ({','.join('?' * len(part))})", part):
                known[name, version] = _Known(*fields)
        return known

    def _write_changed(self) -> None:
        changed, self._changed = self._changed, []
        self._db.executemany(f"INSERT OR REPLACE INTO rows ({_COLUMNS}, change) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", changed)

    def _forget_unsaved(self) -> None:
        """Counters and confirmations as the file has them, after a transaction that did not happen."""
        info = dict(self._db.execute("SELECT key, value FROM info"))
        self.applied, self.instance = info.get("applied", 0), info.get("instance", 0)
        self.newest_us, self._change = info.get("newest_us", 0), info.get("change", 0)
        self._figures = [info.get("count", 0), info.get("size", 0), info.get("objects", 0)]
        for peer in self._confirmed:
            self._confirmed[peer] = info.get(f"confirmed {peer}", 0)
            self._unconfirmed[peer] = self._load_unconfirmed(peer)

    def _merge(self, row: Row, now_held_by: str | None, known: dict[tuple[str, str], _Known]) -> None:
        name, version, stamp, is_live, instance, size_bytes, object_count, etag, content_type, created_us, stat_us = row
        self.newest_us = max(self.newest_us, stamp[0])
        if instance > self.instance and version == "" and self._is_container:
            self._begin_instance(instance)
            for key in [key for key, old in known.items() if old.instance < instance]:
                del known[key]
        packed = stamp.pack()
        old = known.get((name, version))
        if old is not None:
            if stamp == ZERO:
                if instance == old.instance and stat_us > old.stat_us:
                    self._set_figures(row, old)
                    known[name, version] = old._replace(size_bytes=size_bytes, object_count=object_count, stat_us=stat_us)
                return
            if packed < old.stamp or (packed == old.stamp and stat_us <= old.stat_us):
                if packed == old.stamp and now_held_by is not None:
                    self.confirm(now_held_by, ((name, packed),))
                return
            if packed == old.stamp:
                created_us = old.created_us                      # figures of the same state
            elif instance == old.instance and stat_us < old.stat_us:
                size_bytes, object_count, stat_us = old.size_bytes, old.object_count, old.stat_us
            if old.is_live and self._counts(version, old.instance):
                self._add(-1, -old.size_bytes, -old.object_count)
        elif stamp == ZERO:
            return
        if is_live and self._counts(version, instance):
            self._add(1, size_bytes, object_count)
        self._change += 1
        self._changed.append((name, version, packed, is_live, instance, size_bytes, object_count, etag, content_type, created_us,
                              stat_us, self._change))
        known[name, version] = _Known(packed, is_live, instance, size_bytes, object_count, stat_us, created_us)
        self._note_unconfirmed(name, packed, now_held_by)

    def _set_figures(self, row: Row, old: _Known) -> None:
        """New figures of a container in an account; its state is not touched."""
        self._write_changed()            # perhaps this very row
        if old.is_live:
            self._add(0, row.size_bytes - old.size_bytes, row.object_count - old.object_count)
        self._change += 1
        self._db.execute("UPDATE rows SET size_bytes=?, object_count=?, stat_us=?, change=? WHERE name=? AND version=?",
                         (row.size_bytes, row.object_count, row.stat_us, self._change, row.name, row.version))
        self._note_unconfirmed(row.name, old.stamp, None)

    def _counts(self, version: str, instance: int) -> bool:
        return version == "" and (instance == self.instance or not self._is_container)

    def _add(self, count: int, size: int, objects: int) -> None:
        figures = self._figures
        figures[0] += count
        figures[1] += size
        figures[2] += objects

    def _begin_instance(self, instance: int) -> None:
        """The container was deleted and made again: rows of older instances mean nothing any more."""
        self._write_changed()
        self._db.execute("DELETE FROM rows WHERE instance < ?", (instance,))
        self.instance = instance
        self._figures = [0, 0, 0]
        for row_size, row_count in self._db.execute("SELECT size_bytes, object_count FROM rows WHERE is_live AND version=''"):
            self._add(1, row_size, row_count)

    def _save_info(self) -> None:
        values = [("applied", self.applied), ("instance", self.instance), ("newest_us", self.newest_us), ("change", self._change),
                  ("count", self._figures[0]), ("size", self._figures[1]), ("objects", self._figures[2])]
        values += [(f"confirmed {peer}", number) for peer, number in self._confirmed.items()]
        self._db.executemany("INSERT OR REPLACE INTO info VALUES (?, ?)", values)

    # --- which rows a peer holds ---------------------------------------------------------------------------------

    def confirm(self, peer: str, rows: Iterable[tuple[str, bytes]]) -> None:
        """`peer` holds these (name, packed stamp)."""
        names = self._unconfirmed.get(peer)
        if not names:
            return
        for name, stamp in rows:
            entry = names.get(name)
            if entry is not None and entry[0] <= stamp:
                del names[name]
        # once for all of them: looking for the first entry walks over those that were deleted before it
        first = next(iter(names.values()), None)                 # insertion order is the order of changes
        self._confirmed[peer] = first[1] - 1 if first is not None else self._change

    def _note_unconfirmed(self, name: str, stamp: bytes, now_held_by: str | None) -> None:
        for peer, names in self._unconfirmed.items():
            if names is None:
                continue
            names.pop(name, None)
            if peer == now_held_by:
                if not names:
                    self._confirmed[peer] = self._change
                continue
            names[name] = (stamp, self._change)
            if len(names) > UNCONFIRMED_MAX:
                self._unconfirmed[peer] = None                   # too far behind to be listed name by name

    def _load_unconfirmed(self, peer: str) -> dict[str, tuple[bytes, int]] | None:
        names: dict[str, tuple[bytes, int]] = {}
        if self._confirmed[peer] >= self._change:
            return names
        found = self._db.execute("SELECT name, stamp, change FROM rows WHERE change > ? ORDER BY change LIMIT ?",
                                 (self._confirmed[peer], UNCONFIRMED_MAX + 1)).fetchall()
        if len(found) > UNCONFIRMED_MAX:
            return None
        return {name: (stamp, change) for name, stamp, change in found}

    def unconfirmed(self, peer: str, page: PageRequest, *, limit: int, last: str | None = None) -> list[Row]:
        """Rows (tombstones too) in the page's range that `peer` is not known to hold, at most `limit`.

        last: where the page ends in its direction, None: at its bound.
        """
        bounds = _up_to(page_bounds(page), last, reverse=page.reverse)
        names = self._unconfirmed.get(peer)
        if names is None:
            where, values = _where(bounds)
            found = self._db.execute(f"SELECT {_COLUMNS} FROM rows WHERE {where} AND change > ? LIMIT ?",
                                     (*values, self._confirmed.get(peer, 0), limit)).fetchall()
            return [_row(fields) for fields in found]
        rows: list[Row] = []
        for name in [n for n in names if bounds.holds(n)][:limit]:
            rows.extend(self.versions(name))
        return rows

    # --- reading -------------------------------------------------------------------------------------------------

    def versions(self, name: str) -> list[Row]:
        """All rows of a name."""
        return [_row(f) for f in self._db.execute(f"SELECT {_COLUMNS} FROM rows WHERE name=?", (name,))]

    def live_rows(self, instance: int, *, after: str, limit: int) -> list[Row]:
        """Live rows of this instance (or a later one), by name."""
        return [_row(fields) for fields in self._db.execute(
            f"SELECT {_COLUMNS} FROM rows WHERE name > ? AND is_live AND instance >= ? ORDER BY name LIMIT ?",
            (after, instance, limit))]

    def page(self, page: PageRequest, *, instance: int, peer: str | None) -> PageAnswer:
        """Live current rows of `instance` (0: any), and what `peer` may not hold of the page's range."""
        order = "DESC" if page.reverse else "ASC"

        def seek(bounds: Bounds, limit: int) -> list[ListEntry]:
            where, values = _where(bounds)
            found: list[ListEntry] = self._db.execute(
                f"SELECT {_SHOWN} FROM rows WHERE {where} AND version='' AND is_live AND instance >= ? "
                f"ORDER BY name {order} LIMIT ?", (*values, instance, limit)).fetchall()
            return found

        entries, last = list_page(seek, page)
        limit = max(page.limit, UNCONFIRMED_ROWS)
        unconfirmed = self.unconfirmed(peer, page, limit=limit, last=last) if peer is not None else []
        return PageAnswer(entries, unconfirmed, self.figures)

    # --- durability ----------------------------------------------------------------------------------------------

    def checkpoint(self) -> int:
        """Move the WAL into the database and sync both; the journal sequence up to which the file now stands for itself.

        Raises `sqlite3.OperationalError` while somebody else reads the file, `OSError`.
        """
        is_busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise sqlite3.OperationalError(f"another process reads {self.path}")
        handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        self.is_dirty = False
        return self.applied

    def close(self) -> None:
        self._db.close()


def _row(fields: tuple[object, ...]) -> Row:
    name, version, stamp, is_live, *rest = fields
    return Row(name, version, unpack_stamp(stamp), bool(is_live), *rest)  # type: ignore[arg-type]


def _where(bounds: Bounds) -> tuple[str, list[object]]:
    """SQL for a range of names."""
    where, values = f"name {'>=' if bounds.has_low else '>'} ?", [bounds.low]
    if bounds.high is not None:
        return where + " AND name < ?", [*values, bounds.high]
    return where, list(values)


def _up_to(bounds: Bounds, last: str | None, *, reverse: bool) -> Bounds:
    """The bounds of a page that ended at `last` (a rolled-up name stands for all below it)."""
    if last is None:
        return bounds
    if reverse:
        return Bounds(last, True, bounds.high)
    return Bounds(bounds.low, bounds.has_low, successor(last))
