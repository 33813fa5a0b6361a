"""Alembic, without its command line: a service's migrations are a folder of its package, one linear history each.

`upgrade` brings a database to the newest revision, in one transaction per call; `differences` says where the tables of the
code and those of the database part, which a test holds to nothing. An empty database gets the tables of the code at once.
Alembic is loaded when there is something to migrate: it is a sixth of the memory of the control API, and of its start.
"""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, column, inspect, select, table

from common.errors import ConfigError

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext


def make_or_upgrade(connection: Connection, folder: Path, metadata: MetaData, *, service: str) -> None:
    """Make the tables, or run what is missing. Raises `ConfigError` for a database that a newer Holdfast wrote."""
    there = set(inspect(connection).get_table_names())
    name = f"{service}_revision"
    if name in there or not there.isdisjoint(metadata.tables):
        upgrade(connection, folder, service=service)
        return
    metadata.create_all(connection)
    revision = Table(name, MetaData(), Column("version_num", String(32), nullable=False),
                     PrimaryKeyConstraint("version_num", name=f"{name}_pkc"))            # as Alembic makes it
    revision.create(connection)
    connection.execute(revision.insert().values(version_num=newest_revision(folder)))


def upgrade(connection: Connection, folder: Path, *, service: str, target: str = "heads") -> None:
    """Run what is missing. Raises `ConfigError` for a database that a newer Holdfast wrote."""
    current = current_revision(connection, service=service)
    if target == "heads" and current == newest_revision(folder):
        return
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(folder))

    def steps(revision: Any, _: object) -> Any:
        return scripts._upgrade_revs(target, revision)

    context = _context(connection, service, fn=steps)
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise ConfigError(where=f"database of {service}", reason=f"it is at revision {current}, which this version does not know: "
                                                                 "it was written by a newer Holdfast")
    with Operations.context(context):
        context.run_migrations()


def current_revision(connection: Connection, *, service: str) -> str | None:
    """None for a database that has no tables of this service yet."""
    name = f"{service}_revision"
    if not inspect(connection).has_table(name):
        return None
    return connection.execute(select(column("version_num")).select_from(table(name))).scalar_one_or_none()


def newest_revision(folder: Path) -> str:
    """By the names of the files: v0002.py is revision 0002, after 0001."""
    return max(path.stem for path in (folder / "versions").glob("v*.py")).removeprefix("v")


def differences(connection: Connection, metadata: MetaData, *, service: str, beside: Iterable[str] = ()) -> list[Any]:
    """Operations that would bring the database to what the code says; empty if nothing is missing.

    beside: tables in the same database that have a history of their own.
    """
    from alembic.autogenerate import compare_metadata

    found: list[Any] = compare_metadata(_context(connection, service, beside), metadata)
    return found


def _context(connection: Connection, service: str, beside: Iterable[str] = (), **options: Any) -> MigrationContext:
    from alembic.runtime.migration import MigrationContext

    names = {f"{service}_revision", *beside}
    return MigrationContext.configure(connection, opts={
        "version_table": f"{service}_revision", "render_as_batch": connection.dialect.name == "sqlite", "compare_type": True,
        "include_object": lambda _, name, kind, __, ___: not (kind == "table" and name in names), **options})
