"""What a manager of a domain has no power over, although it is at home in the domain.

A role is out of a manager's reach if it, or one that it implies, is none of those that managers give away: admin, service, roles
that an operator made, roles of a domain. Whoever has such a role somewhere, or any role on the system, is privileged. So is a
project in which somebody was given one, and whoever has any role in such a project: taking over the user would be a way in. A role
that is inherited from the domain makes no project privileged, or an administrator of the domain would leave its manager nothing.

A user or group with any role in another domain is out of reach in another way: a manager may give it roles at home, but a new
password, or a new member, would be a way into the other domain.
"""
from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import CTE, Connection, Select, and_, exists, or_, select, tuple_

from identity.effective import load_graph
from identity.model import assignment, project, trust, trust_role
from identity.wire import RoleGraph

_GIVEN_BY_MANAGERS = frozenset({"manager", "member", "reader"})   # as identity/rules.py has it for grants


def is_privileged_actor(connection: Connection, actors: list[tuple[str, str]], *, now_us: int) -> bool:
    """Whether one of these has power beyond the domain. actors: (kind, id), a user with its groups.

    What a user was trusted with counts while the trust lives. Application credentials need no look: they are worth no more than
    what their user has at the moment.
    """
    graph = load_graph(connection)
    mine = tuple_(assignment.c.actor_kind, assignment.c.actor_id).in_(actors)
    given = connection.execute(select(assignment.c.role_id, assignment.c.target_kind, assignment.c.target_id,
                                      assignment.c.is_inherited).where(mine)).all()
    if any(row.target_kind == "system" for row in given) or _is_beyond(graph, (row.role_id for row in given)):
        return True
    trusts = _living_trusts(actors, now_us=now_us)
    trusted = connection.execute(select(trust_role.c.role_id).where(trust_role.c.trust_id.in_(trusts))).scalars()
    if _is_beyond(graph, trusted):
        return True
    for ids in (select(assignment.c.target_id).where(mine, assignment.c.target_kind == "project"),
                select(trust.c.project_id).where(trust.c.id.in_(trusts))):
        if _is_beyond(graph, _roles_in(connection, ids)):
            return True
    return any(is_privileged_place(connection, one, with_below=True) for one in sorted({row.target_id for row in given
                                                                                        if row.is_inherited}))


def has_roles_elsewhere(connection: Connection, actors: list[tuple[str, str]], *, domain_id: str, now_us: int) -> bool:
    """Whether one of these has some role outside of a domain: on another one, in a project of it, on the system. As above."""
    mine = tuple_(assignment.c.actor_kind, assignment.c.actor_id).in_(actors)
    elsewhere = select(project.c.id).where(project.c.domain_id != domain_id, project.c.is_domain.is_(False))
    given = exists().where(mine, or_(
        assignment.c.target_kind == "system", and_(assignment.c.target_kind == "domain", assignment.c.target_id != domain_id),
        and_(assignment.c.target_kind == "project", assignment.c.target_id.in_(elsewhere))))
    trusted = exists().where(trust.c.id.in_(_living_trusts(actors, now_us=now_us)), trust.c.project_id.in_(elsewhere))
    return bool(connection.execute(select(or_(given, trusted))).scalar())


def _living_trusts(actors: list[tuple[str, str]], *, now_us: int) -> Select[tuple[str]]:
    """Ids of the trusts that one of these could use."""
    return select(trust.c.id).where(
        trust.c.trustee_user_id.in_([one for kind, one in actors if kind == "user"]), trust.c.deleted_us.is_(None),
        or_(trust.c.expires_us.is_(None), trust.c.expires_us > now_us),
        or_(trust.c.remaining_uses.is_(None), trust.c.remaining_uses > 0))


def is_privileged_place(connection: Connection, place_id: str, *, with_below: bool = False) -> bool:
    """Whether somebody was given a role out of a manager's reach in a project. with_below: or below it; takes domains as well."""
    ids = select(_below(place_id).c.id) if with_below else select(project.c.id).where(project.c.id == place_id)
    return _is_beyond(load_graph(connection), _roles_in(connection, ids))


def _roles_in(connection: Connection, project_ids: Select[tuple[str]]) -> set[str]:
    """Ids of the roles that anybody was given in these projects."""
    return set(connection.execute(select(assignment.c.role_id).distinct().where(
        assignment.c.target_kind == "project", assignment.c.target_id.in_(project_ids))).scalars())


def _below(place_id: str) -> CTE:
    """Ids of a project, or of a domain, and of all that is below."""
    top = select(project.c.id).where(project.c.id == place_id).cte(recursive=True)
    return top.union(select(project.c.id).join(top, project.c.parent_id == top.c.id))


def _is_beyond(graph: RoleGraph, role_ids: Iterable[str]) -> bool:
    """Whether one of these roles, with what they imply, is none that a manager of a domain may give away."""
    return any(graph.names.get(one, "").lower() not in _GIVEN_BY_MANAGERS or graph.domains[one] for one in graph.closure(role_ids))
