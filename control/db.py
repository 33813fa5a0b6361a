"""The database of a service: SQLAlchemy Core, one plain function per transaction, run in a small thread pool.

`await db.run(fn, *args)` calls fn(connection, *args) in one write transaction, `await db.read(...)` in a read transaction.
The function may be called again when the database asks for it (a serialization failure), so it has no effects beside its
connection; what has to happen once, after the commit, is handed to `after_commit`.

SQLite (the default): a file with a write-ahead log, one thread that writes (BEGIN IMMEDIATE), a few that read. PostgreSQL by its
URL, through psycopg: every thread has a connection, and a server that vanished or a statement that waits for ever gives it back. A
transaction is never held across an await.
"""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.pool import QueuePool

from common.errors import BadRequest, Overloaded
from common.log import get_logger
from control.errors import BadReference, Duplicate

P = ParamSpec("P")
T = TypeVar("T")
_READERS = 3
_WAITING_MAX = 512                       # transactions that wait for a thread; more would only time out
_TRIES = 4
_RETRY_STATES = frozenset({"40001", "40P01"})          # serialization failure, deadlock: the database says try again
# of PostgreSQL, unless the URL says otherwise: a server that is gone is noticed within a minute, whatever was under way
_CONNECT: Mapping[str, int] = {"connect_timeout": 10, "keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10,
                               "keepalives_count": 3, "tcp_user_timeout": 60_000}
STATEMENT_MS_MAX = 60_000                # of one statement, with its wait for locks; migrations and backups have none
_AFTER = "holdfast.after_commit"
_log = get_logger("control.db")


class Database:
    """One database and the threads that use it."""

    def __init__(self, url: str, *, readers: int = _READERS) -> None:
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._writer = _sqlite_engine(url, size=1, begin="BEGIN IMMEDIATE")
            self._reader = _sqlite_engine(url, size=readers, begin="BEGIN", pragmas=("query_only = ON",))
            self._write_pool = ThreadPoolExecutor(1, thread_name_prefix="db-write")
        else:
            self._writer = self._reader = _postgres_engine(parsed, size=2 * readers)
            self._write_pool = ThreadPoolExecutor(readers, thread_name_prefix="db-write")
        self._read_pool = ThreadPoolExecutor(readers, thread_name_prefix="db-read")
        self._waiting = 0

    @property
    def engine(self) -> Engine:
        """For tests and tools; writes."""
        return self._writer

    @contextmanager
    def upgrading(self) -> Iterator[Connection]:
        """One transaction for migrations, with all the time it takes: before the threads have work."""
        with self._writer.begin() as connection:
            if not self.is_sqlite:
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            yield connection

    async def run(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`fn(connection, ...)` as one transaction that may write. Raises what fn does, `Duplicate`, `BadReference`,
        `Overloaded`, `BadRequest` for a value that the database cannot hold.
        """
        result, callbacks = await self._submit(self._write_pool, partial(self.run_here, fn, *args, **kwargs))
        for callback in callbacks:
            callback()
        return result

    async def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`fn(connection, ...)` as one transaction that only reads, beside writers."""
        return await self._submit(self._read_pool, partial(self._read_here, fn, *args, **kwargs))

    def run_here(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args,
                 **kwargs: P.kwargs) -> tuple[T, list[Callable[[], None]]]:
        """As `run`, in this thread: for starts and tests. Returns what is to be called after the commit as well."""
        for left in range(_TRIES - 1, -1, -1):
            try:
                with self._writer.connect() as connection:
                    callbacks: list[Callable[[], None]] = []
                    connection.info[_AFTER] = callbacks
                    with connection.begin():
                        result = fn(connection, *args, **kwargs)
                return result, callbacks
            except IntegrityError as error:
                raise translate_integrity(error) from error
            except DataError as error:
                raise _unstorable() from error
            except DBAPIError as error:
                if not left or getattr(error.orig, "sqlstate", None) not in _RETRY_STATES:
                    raise
        raise AssertionError("unreachable")

    def _read_here(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._reader.connect() as connection, connection.begin():
            if not self.is_sqlite:
                connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            try:
                return fn(connection, *args, **kwargs)
            except DataError as error:
                raise _unstorable() from error

    async def _submit(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        if self._waiting >= _WAITING_MAX:
            raise Overloaded(what="database", reason="The service is busy; try again.", retry_after_s=1)
        self._waiting += 1
        try:
            # shielded: a client that goes away does not leave its transaction without whoever hears of its end
            return await asyncio.shield(asyncio.get_running_loop().run_in_executor(pool, work))
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """After the transactions that run."""
        self._write_pool.shutdown()
        self._read_pool.shutdown()
        self._writer.dispose()
        self._reader.dispose()


def _unstorable() -> BadRequest:
    """A value that no column could hold, such as a NUL character in a query: PostgreSQL says so, SQLite finds no such row."""
    return BadRequest(reason="A value in the request is none that could be stored.")


def after_commit(connection: Connection, callback: Callable[[], None]) -> None:
    """Have `callback` called in the event loop once this transaction is committed; not if it is not."""
    connection.info[_AFTER].append(callback)


def sqlite_url(path: Path) -> str:
    """The URL of a database file."""
    return f"sqlite:///{path}"


def ensure_row(connection: Connection, table: Table, keys: Mapping[str, object],
               values: Mapping[str, object] | None = None) -> bool:
    """Insert a row unless one is in its way; True if it was made. Two that race make one, and neither fails."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table).values(**keys, **(values or {})).on_conflict_do_nothing()
    return connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount > 0


def _sqlite_engine(url: str, *, size: int, begin: str, pragmas: tuple[str, ...] = ()) -> Engine:
    engine = create_engine(url, poolclass=QueuePool, pool_size=size, max_overflow=0,
                           connect_args={"check_same_thread": False, "timeout": 5.0})

    @event.listens_for(engine, "connect")
    def prepare(raw: Any, _: object) -> None:
        raw.isolation_level = None           # we say BEGIN ourselves
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 5000",
                       "cache_size = -8000", "case_sensitive_like = ON", *pragmas):
            raw.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _postgres_engine(url: URL, *, size: int) -> Engine:
    connect = {name: value for name, value in _CONNECT.items() if name not in url.query}
    engine = create_engine(url.set(drivername="postgresql+psycopg"), pool_size=size, max_overflow=0, pool_pre_ping=True,
                           connect_args=connect)
    if "statement_timeout" not in str(url.query.get("options", "")):

        @event.listens_for(engine, "connect")
        def prepare(raw: Any, _: object) -> None:
            raw.autocommit = True                # a SET in a transaction would go with its rollback
            raw.execute(f"SET statement_timeout = {STATEMENT_MS_MAX}")     # not in `options`: PgBouncer refuses those
            raw.autocommit = False

    return engine


def translate_integrity(error: IntegrityError) -> Duplicate | BadReference:
    """Which promise of the tables was broken. Other integrity errors are bugs and go on as they are."""
    state, text = getattr(error.orig, "sqlstate", None), str(error.orig)
    if state == "23505" or "UNIQUE constraint failed" in text:
        table = getattr(getattr(error.orig, "diag", None), "table_name", None) or text.rpartition(": ")[2].partition(".")[0]
        return Duplicate(table=table, reason="Conflict occurred: it exists already.")
    if state == "23503" or "FOREIGN KEY constraint failed" in text:
        return BadReference(reason="Conflict occurred: something that this refers to, or that refers to this, is in the way.")
    raise error


def rows_to_dicts(rows: Iterable[Any]) -> list[dict[str, Any]]:
    """Rows of a result as plain mappings, which outlive their connection."""
    return [dict(row._mapping) for row in rows]
