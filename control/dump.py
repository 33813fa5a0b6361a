"""One database of the control plane as files, as it was at one moment, and back.

SQLite: the online backup of its library, beside a node that writes. PostgreSQL: one REPEATABLE READ transaction whose snapshot is
handed to pg_dump (custom format); without that tool, or if it is older than the server, COPY of each table in that transaction.
"""
from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import NullPool, create_engine, inspect, make_url

from common.errors import Conflict, Corruption, StorageError
from control.migrate import upgrade

SQLITE, PG_DUMP, PG_COPY = "sqlite", "pg_dump", "pg_copy"
_TOOL_S, _BUSY_S = 3_600, 30.0
Say = Callable[[str], None]
History = tuple[str, Path]                       # name and folder of migrations


class BackupFailed(StorageError):
    """what, reason."""

    code = "backup_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """What was written. tables: rows of each, at that moment; revisions: by history; columns: of each table, for COPY."""

    kind: str
    tables: Mapping[str, int]
    revisions: Mapping[str, str]
    columns: Mapping[str, list[str]] = field(default_factory=dict)
    note: str = ""


def dump_sqlite(source: Path, target: Path) -> Dump:
    """Into a file of its own, whole and checked. Raises `BackupFailed`, `Corruption`."""
    try:
        with closing(sqlite3.connect(source, timeout=_BUSY_S)) as theirs, closing(sqlite3.connect(target)) as mine:
            theirs.backup(mine)                      # all pages in one read transaction
            mine.execute("PRAGMA journal_mode = DELETE")
        target.chmod(0o600)
    except sqlite3.Error as error:
        raise BackupFailed(what=str(source), reason=f"{source} cannot be copied: {error}") from error
    return check_sqlite(target)


def check_sqlite(path: Path) -> Dump:
    """What is in a database file that nobody has open. Raises `Corruption`."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
            verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if verdict != "ok":
                raise Corruption(what=path.name, reason=f"{path.name}: {verdict}")
            names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
            rows = {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}
            revisions = {name: str(connection.execute(f'SELECT version_num FROM "{name}"').fetchone()[0])
                         for name in names if name.endswith("_revision") and rows[name]}
    except sqlite3.Error as error:
        raise Corruption(what=path.name, reason=f"{path.name} is no usable database: {error}") from error
    return Dump(kind=SQLITE, tables=rows, revisions=_by_history(revisions))


def dump_postgres(url: str, directory: Path, say: Say) -> Dump:
    """Into `directory`: one file `dump`, or one per table. Raises `BackupFailed`."""
    conninfo, pg_dump = _conninfo(url), find_tool("pg_dump")
    note = "pg_dump is not installed"
    try:
        with psycopg.connect(conninfo) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            names, columns = _tables(connection)
            rows = {name: _count(connection, name) for name in names}
            revisions = {name: _first(connection, name) for name in names if name.endswith("_revision") and rows[name]}
            if pg_dump is not None:
                moment = connection.execute("SELECT pg_export_snapshot()").fetchone()
                assert moment is not None
                complaint = _run_tool(pg_dump, conninfo, "--format=custom", "--no-owner", "--no-privileges",
                                      f"--snapshot={moment[0]}", f"--file={directory / 'dump'}")
                if complaint is None:
                    (directory / "dump").chmod(0o600)
                    return Dump(kind=PG_DUMP, tables=rows, revisions=_by_history(revisions))
                note = f"pg_dump refused: {complaint}"
                (directory / "dump").unlink(missing_ok=True)
            say(f"{note}; tables are copied one by one")
            for name in names:
                statement = _copy(name, columns[name], "TO STDOUT")
                with (directory / name).open("wb") as file, connection.cursor().copy(statement) as copy:
                    for piece in copy:
                        file.write(piece)
            return Dump(kind=PG_COPY, tables=rows, revisions=_by_history(revisions), columns=columns, note=note)
    except psycopg.Error as error:
        raise BackupFailed(what="database", reason=f"PostgreSQL: {str(error).strip()}") from error


def check_empty(url: str) -> None:
    """Raises `Conflict` for a PostgreSQL database that has tables, `BackupFailed` for one that cannot be asked."""
    try:
        with psycopg.connect(_conninfo(url)) as connection:
            names, _ = _tables(connection)
    except psycopg.Error as error:
        raise BackupFailed(what="database", reason=f"PostgreSQL: {str(error).strip()}") from error
    if names:
        raise Conflict(what="database", reason=f"the PostgreSQL database has tables already ({names[0]}, ...): name an empty one "
                                               "in the configuration, or say --replace")


def load_postgres(url: str, directory: Path, dump: Dump, histories: Iterable[History], *, replaces: bool) -> None:
    """What `dump_postgres` wrote, in one transaction. replaces: tables that are there are dropped. Raises `BackupFailed`."""
    conninfo, pg_restore = _conninfo(url), find_tool("pg_restore")
    if dump.kind == PG_DUMP:
        if pg_restore is None:
            raise BackupFailed(what="database", reason="this archive needs pg_restore: install the PostgreSQL client")
        clean = ("--clean", "--if-exists") if replaces else ()
        complaint = _run_tool(pg_restore, conninfo, "--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges",
                              *clean, str(directory / "dump"))
        if complaint is not None:
            raise BackupFailed(what="database", reason=f"pg_restore refused: {complaint}")
        return
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    try:
        with engine.begin() as connection:
            if replaces:
                connection.exec_driver_sql("DROP SCHEMA public CASCADE")
                connection.exec_driver_sql("CREATE SCHEMA public")
            for name, folder in histories:
                if name in dump.revisions:
                    upgrade(connection, folder, service=name, target=dump.revisions[name])
            raw: psycopg.Connection[Any] = connection.connection.driver_connection      # type: ignore[assignment]
            ordered = [name for name, _ in inspect(connection).get_sorted_table_and_fkc_names() if name in dump.tables]
            for table in ordered:
                if table is None or table.endswith("_revision"):
                    continue
                statement = _copy(table, dump.columns[table], "FROM STDIN")
                with raw.cursor().copy(statement) as copy, (directory / table).open("rb") as file:
                    while piece := file.read(1 << 16):
                        copy.write(piece)
    except (psycopg.Error, OSError, KeyError) as error:
        raise BackupFailed(what="database", reason=f"PostgreSQL: {str(error).strip()}") from error
    finally:
        engine.dispose()


def find_tool(name: str) -> str | None:
    """Of the PostgreSQL client, if it is installed."""
    return shutil.which(name)


def _conninfo(url: str) -> str:
    return make_conninfo(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))


def _run_tool(tool: str, conninfo: str, *arguments: str) -> str | None:
    """What it complained of, None if it did its work. The password is in its environment, not among its arguments."""
    fields = {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value is not None}
    password = fields.pop("password", None)
    where = make_conninfo("", **fields)
    environ = {**os.environ, **({"PGPASSWORD": password} if password is not None else {})}
    try:
        done = subprocess.run([tool, f"--dbname={where}", "--no-password", *arguments], env=environ, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=_TOOL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    return None if done.returncode == 0 else " ".join(done.stderr.split())[:400] or f"exit code {done.returncode}"


def _tables(connection: psycopg.Connection[Any]) -> tuple[list[str], dict[str, list[str]]]:
    rows = connection.execute(
        "SELECT c.table_name, c.column_name FROM information_schema.columns c JOIN information_schema.tables t "
        "USING (table_schema, table_name) WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE' "
        "ORDER BY c.table_name, c.ordinal_position").fetchall()
    columns: dict[str, list[str]] = {}
    for table, column in rows:
        columns.setdefault(table, []).append(column)
    return list(columns), columns


def _count(connection: psycopg.Connection[Any], name: str) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))).fetchone()
    return int(row[0]) if row is not None else 0


def _first(connection: psycopg.Connection[Any], name: str) -> str:
    row = connection.execute(sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(name))).fetchone()
    return str(row[0]) if row is not None else ""


def _copy(name: str, columns: list[str], rest: str) -> sql.Composed:
    return sql.SQL("COPY {} ({}) " + rest).format(sql.Identifier(name), sql.SQL(", ").join(map(sql.Identifier, columns)))


def _by_history(revisions: Mapping[str, str]) -> dict[str, str]:
    return {name.removesuffix("_revision"): revision for name, revision in revisions.items()}
