"""Tables of the job engine, in the database of each service that has jobs, and one job as code sees it.

They have a history of migrations of their own (`control/migrations`), beside that of the service. Times are microseconds since
1970. A job is live until it is done or failed; a live job whose lease has run out, or that has none, waits for a worker.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
)

from control.migrate import make_or_upgrade

MIGRATIONS = Path(__file__).parent / "migrations"
HISTORY = "jobs"
TABLES = ("job", "job_step", "jobs_revision")    # beside those of the service
LIVE, DONE, FAILED = "live", "done", "failed"
UNDONE, LEFT = "undone", "left"                  # of steps; DONE as well
metadata = MetaData(naming_convention={"ix": "ix_%(column_0_label)s", "ck": "ck_%(table_name)s_%(constraint_name)s",
                                       "fk": "fk_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"})

# args: what the steps need, no secrets. origin: who asked for it, for `holdfast explain`. was: status of the resource before.
# attempt: how often it was claimed, which fences: whoever claimed it before writes nothing any more. tries: beginnings of `step`.
job = Table(
    "job", metadata, Column("id", String(32), primary_key=True), Column("kind", String(64), nullable=False),
    Column("resource_type", String(64), nullable=False), Column("resource_id", String(255), nullable=False),
    Column("project_id", String(255)), Column("target", String(255), nullable=False), Column("request_id", String(64)),
    Column("origin", JSON, nullable=False), Column("args", JSON, nullable=False), Column("was", String(64)),
    Column("state", String(8), nullable=False), Column("is_undoing", Boolean(create_constraint=False), nullable=False),
    Column("step", String(64), nullable=False), Column("attempt", Integer, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("run_after_us", BigInteger, nullable=False), Column("lease_owner", String(255)),
    Column("lease_until_us", BigInteger, nullable=False), Column("error", JSON(none_as_null=True)),
    Column("created_us", BigInteger, nullable=False), Column("changed_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger), CheckConstraint("state IN ('live', 'done', 'failed')", name="state"),
    Index("ix_job_due", "state", "run_after_us"), Index("ix_job_request", "request_id"),
    Index("ix_job_resource", "resource_type", "resource_id"), Index("ix_job_ended", "ended_us"))
job_step = Table(
    "job_step", metadata, Column("job_id", String(32), ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(64), primary_key=True), Column("number", Integer, nullable=False),
    Column("state", String(8), nullable=False), Column("result", JSON, nullable=False), Column("attempt", Integer, nullable=False),
    Column("owner", String(255)), Column("ended_us", BigInteger, nullable=False),
    CheckConstraint("state IN ('done', 'undone', 'left')", name="state"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of `job`."""

    id: str
    kind: str
    resource_type: str
    resource_id: str
    project_id: str | None
    target: str
    request_id: str | None
    origin: Mapping[str, Any]
    args: Mapping[str, Any]
    was: str | None
    state: str
    is_undoing: bool
    step: str
    attempt: int
    tries: int
    run_after_us: int
    lease_owner: str | None
    lease_until_us: int
    error: Mapping[str, Any] | None
    created_us: int
    changed_us: int
    ended_us: int | None

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """From a row of the table."""
        return cls(**row._mapping)

    @property
    def is_live(self) -> bool:
        """Neither done nor failed."""
        return self.state == LIVE


def upgrade_jobs(connection: Connection) -> None:
    """Make or bring up to date the tables of jobs in the database of a service. Raises `ConfigError`."""
    make_or_upgrade(connection, MIGRATIONS, metadata, service=HISTORY)
