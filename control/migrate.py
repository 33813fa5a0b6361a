"""Alembic, without its command line: a service's migrations are a folder of its package, one linear history each.

`upgrade` brings a database to the newest revision, in one transaction per call; `differences` says where the tables of the
code and those of the database part, which a test holds to nothing.
"""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData

from common.errors import ConfigError


def upgrade(connection: Connection, folder: Path, *, service: str, target: str = "heads") -> None:
    """Run what is missing. Raises `ConfigError` for a database that a newer Holdfast wrote."""
    scripts = ScriptDirectory(str(folder))

    def steps(revision: Any, _: object) -> Any:
        return scripts._upgrade_revs(target, revision)

    context = _context(connection, service, fn=steps)
    known = {script.revision for script in scripts.walk_revisions()}
    current = current_revision(connection, service=service)
    if current is not None and current not in known:
        raise ConfigError(where=f"database of {service}", reason=f"it is at revision {current}, which this version does not know: "
                                                                 "it was written by a newer Holdfast")
    with Operations.context(context):
        context.run_migrations()


def current_revision(connection: Connection, *, service: str) -> str | None:
    """None for a database that has no tables of this service yet."""
    return _context(connection, service).get_current_revision()


def differences(connection: Connection, metadata: MetaData, *, service: str, beside: Iterable[str] = ()) -> list[Any]:
    """Operations that would bring the database to what the code says; empty if nothing is missing.

    beside: tables in the same database that have a history of their own.
    """
    found: list[Any] = compare_metadata(_context(connection, service, beside), metadata)
    return found


def _context(connection: Connection, service: str, beside: Iterable[str] = (), **options: Any) -> MigrationContext:
    names = {f"{service}_revision", *beside}
    return MigrationContext.configure(connection, opts={
        "version_table": f"{service}_revision", "render_as_batch": connection.dialect.name == "sqlite", "compare_type": True,
        "include_object": lambda _, name, kind, __, ___: not (kind == "table" and name in names), **options})
