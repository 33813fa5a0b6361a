"""Quotas without reservations: what is used grows and shrinks in the transaction that creates and deletes.

Tables per service: `quota_limit` (what an operator set for a project) and `quota_usage`. A limit of -1 is none.
"""
from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import BigInteger, Column, Connection, MetaData, String, Table, case, delete, func, select, update

from control.db import ensure_row
from control.errors import QuotaExceeded

UNLIMITED = -1


class Quotas:
    """The two tables in one metadata, and the defaults of the service's resources."""

    def __init__(self, metadata: MetaData, defaults: Mapping[str, int]) -> None:
        self.defaults = dict(defaults)
        self.limit = Table("quota_limit", metadata, Column("project_id", String(255), primary_key=True),
                           Column("resource", String(64), primary_key=True), Column("maximum", BigInteger, nullable=False))
        self.usage = Table("quota_usage", metadata, Column("project_id", String(255), primary_key=True),
                           Column("resource", String(64), primary_key=True), Column("used", BigInteger, nullable=False))

    def take(self, connection: Connection, project_id: str, amounts: Mapping[str, int]) -> None:
        """Count `amounts` as used, or raise `QuotaExceeded` and leave the transaction to be rolled back."""
        usage, limits = self.usage, self.limits(connection, project_id)
        for resource, amount in sorted(amounts.items()):             # one order for all: two that take never wait for each other
            assert amount >= 0, resource
            ensure_row(connection, usage, {"project_id": project_id, "resource": resource}, {"used": 0})
            fits = [usage.c.used + amount <= limits[resource]] if limits[resource] != UNLIMITED else []
            taken = connection.execute(update(usage).where(usage.c.project_id == project_id, usage.c.resource == resource, *fits)
                                       .values(used=usage.c.used + amount))
            if not taken.rowcount:
                used = self.used(connection, project_id).get(resource, 0)
                raise QuotaExceeded(resource=resource, limit=limits[resource], used=used, wanted=amount, reason=(
                    f"Quota exceeded for {resource}: requested {amount}, but already used {used} of {limits[resource]}."))

    def give_back(self, connection: Connection, project_id: str, amounts: Mapping[str, int]) -> None:
        """In the transaction that ends a delete. What was never counted does not go below zero."""
        usage = self.usage
        for resource, amount in sorted(amounts.items()):
            connection.execute(update(usage).where(usage.c.project_id == project_id, usage.c.resource == resource)
                               .values(used=case((usage.c.used > amount, usage.c.used - amount), else_=0)))

    def limits(self, connection: Connection, project_id: str) -> dict[str, int]:
        """Of every resource: what was set for the project, else the default."""
        rows = connection.execute(select(self.limit.c.resource, self.limit.c.maximum).where(self.limit.c.project_id == project_id))
        return {**self.defaults, **{row.resource: row.maximum for row in rows if row.resource in self.defaults}}

    def used(self, connection: Connection, project_id: str) -> dict[str, int]:
        """Of every resource."""
        rows = connection.execute(select(self.usage.c.resource, self.usage.c.used).where(self.usage.c.project_id == project_id))
        return {**dict.fromkeys(self.defaults, 0), **{row.resource: row.used for row in rows}}

    def set_limits(self, connection: Connection, project_id: str, limits: Mapping[str, int]) -> None:
        """Replace the limits that are named. A limit below what is used only stops what would come on top."""
        for resource, maximum in limits.items():
            keys = {"project_id": project_id, "resource": resource}
            if not ensure_row(connection, self.limit, keys, {"maximum": maximum}):
                connection.execute(update(self.limit).where(*(self.limit.c[name] == value for name, value in keys.items()))
                                   .values(maximum=maximum))

    def reset_limits(self, connection: Connection, project_id: str) -> None:
        """The defaults again."""
        connection.execute(delete(self.limit).where(self.limit.c.project_id == project_id))

    def recount(self, connection: Connection, resource: str, counted: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """Put what was really counted in the place of what is booked; answers project: (booked, counted) where they differed."""
        rows = connection.execute(select(self.usage.c.project_id, func.coalesce(self.usage.c.used, 0).label("used"))
                                  .where(self.usage.c.resource == resource))
        booked = {row.project_id: int(row.used) for row in rows}
        changed = {project: (booked.get(project, 0), counted.get(project, 0)) for project in {*booked, *counted}
                   if booked.get(project, 0) != counted.get(project, 0)}
        for project, (_, used) in changed.items():
            keys = {"project_id": project, "resource": resource}
            if not ensure_row(connection, self.usage, keys, {"used": used}):
                connection.execute(update(self.usage).where(self.usage.c.project_id == project, self.usage.c.resource == resource)
                                   .values(used=used))
        return changed
