"""Somebody can always administrate: what would take the power from the last administrator is refused.

An administrator is whoever a login can make one: enabled, at home in an enabled domain, with a password and what else its rules for
several factors ask for, and with the role admin, directly or by a group, on the system, on an enabled domain, or in an enabled
project that does not confine it. Nothing implies admin (`identity/roles.py`), so assignments alone say it.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, and_, cast, exists, func, or_, select

from common.errors import Forbidden
from identity.model import ROOT, assignment, credential, membership, project, role, user
from identity.scopes import CONFINED

_ADMIN = "admin"                         # as rule admin_required has it


@contextmanager
def keep_an_administrator(connection: Connection, *, is_risk: bool = True) -> Iterator[None]:
    """Around a change that takes something away; is_risk: False for one that does not. Raises `Forbidden` after the last one.

    The counter of authorization changes has to have moved in this transaction: so of two that would each leave the other's
    administrator, one after the other looks. Where there was none before nothing is refused: a policy file may do without the role.
    """
    had = is_risk and has_administrator(connection)
    yield
    if had and not has_administrator(connection):
        raise Forbidden(reason="This would take the power from the last administrator: make another one first.").because(
            "administrator.last")


def has_administrator(connection: Connection) -> bool:
    """Whether somebody could log in as one at this moment."""
    home = project.alias()
    is_admin = assignment.c.role_id.in_(select(role.c.id).where(func.lower(role.c.name) == _ADMIN, role.c.domain_id == ROOT))
    direct = select(assignment.c.actor_id).where(assignment.c.actor_kind == "user", is_admin, _counts())
    by_group = select(membership.c.user_id).where(assignment.c.actor_kind == "group",
                                                  membership.c.group_id == assignment.c.actor_id, is_admin, _counts())
    found = connection.execute(select(user.c.id, user.c.options).where(
        user.c.enabled.is_(True), user.c.password_hash.is_not(None), home.c.id == user.c.domain_id, home.c.enabled.is_(True),
        or_(user.c.id.in_(direct), user.c.id.in_(by_group)))).all()
    return any(_has_factors(connection, row.id, row.options) for row in found)


def _has_factors(connection: Connection, user_id: str, options: Mapping[str, Any]) -> bool:
    """Whether one that has a password meets a rule with what it has, at a first login, for which no token helps."""
    rules = rules_of(options)
    if not rules or any(set(rule) <= {"password"} for rule in rules):
        return True
    seed = select(credential.c.id).where(credential.c.user_id == user_id, credential.c.type == "totp")
    return any(set(rule) <= {"password", "totp"} for rule in rules) and connection.execute(seed).first() is not None


def rules_of(options: Mapping[str, Any]) -> list[list[str]]:
    """Of a user with these options, the rules for several factors of which a login has to meet one; [] if there are none."""
    return list(options.get("multi_factor_auth_rules") or []) if options.get("multi_factor_auth_enabled") is not False else []


def _counts() -> ColumnElement[bool]:
    """Whether an assignment is on a place for which one can log in, with power beyond it."""
    place, above = project.alias(), project.alias()
    kind, target, is_inherited = assignment.c.target_kind, assignment.c.target_id, assignment.c.is_inherited
    on_domain = exists().where(place.c.id == target, place.c.is_domain.is_(True), place.c.enabled.is_(True)).correlate(assignment)
    below = or_(and_(kind == "domain", place.c.domain_id == target), and_(kind == "project", place.c.parent_id == target))
    in_project = exists().where(
        or_(and_(is_inherited.is_(False), place.c.id == target), and_(is_inherited.is_(True), below)),
        place.c.is_domain.is_(False), place.c.enabled.is_(True), ~cast(place.c.options, Text).contains(CONFINED),
        above.c.id == place.c.domain_id, above.c.enabled.is_(True)).correlate(assignment)
    return or_(kind == "system", and_(kind == "domain", is_inherited.is_(False), on_domain),
               and_(or_(kind == "project", is_inherited.is_(True)), in_project))
