"""Which roles somebody really has: direct ones, those of groups, inherited ones, implied ones.

A role assigned "inherited" on a domain counts in all its projects, on a project in all projects below it, never on the domain or
project itself. Roles imply others, transitively. A role of a domain stands for what it implies and is itself in no token.
"""
from __future__ import annotations

from sqlalchemy import Connection, and_, or_, select, tuple_

from identity.model import assignment, membership, project, role, role_implies
from identity.wire import RoleGraph

SYSTEM = "all"
__all__ = ["SYSTEM", "RoleGraph", "ancestors_of", "assigned_roles", "effective_roles", "groups_of", "load_graph", "reachable"]
_DEPTH_MAX = 64                          # of project trees; creation allows far less


def load_graph(connection: Connection) -> RoleGraph:
    """Two small tables."""
    rows = connection.execute(select(role.c.id, role.c.name, role.c.domain_id)).all()
    implied: dict[str, set[str]] = {}
    for prior, other in connection.execute(select(role_implies.c.prior_id, role_implies.c.implied_id)):
        implied.setdefault(prior, set()).add(other)
    return RoleGraph(names={row.id: row.name for row in rows}, domains={row.id: row.domain_id for row in rows},
                     implied={prior: frozenset(others) for prior, others in implied.items()})


def groups_of(connection: Connection, user_id: str) -> list[str]:
    """Ids of a user's groups."""
    return list(connection.execute(select(membership.c.group_id).where(membership.c.user_id == user_id)).scalars())


def ancestors_of(connection: Connection, project_id: str) -> tuple[list[str], str]:
    """Ids of the projects above, nearest first (the domain is none of them), and the id of the domain."""
    out: list[str] = []
    row = connection.execute(select(project.c.parent_id, project.c.domain_id).where(project.c.id == project_id)).first()
    if row is None:
        return [], ""
    domain_id, parent = row.domain_id, row.parent_id
    while parent is not None and parent != domain_id and len(out) < _DEPTH_MAX:
        out.append(parent)
        parent = connection.execute(select(project.c.parent_id).where(project.c.id == parent)).scalar()
    return out, domain_id


def assigned_roles(connection: Connection, user_id: str, kind: str, target_id: str) -> set[str]:
    """Ids of the roles that a user was given on a target, by whatever way, before implication."""
    actors = [("user", user_id), *(("group", one) for one in groups_of(connection, user_id))]
    here = and_(assignment.c.target_kind == kind, assignment.c.target_id == target_id, assignment.c.is_inherited.is_(False))
    places = [here]
    if kind == "project":
        above, domain_id = ancestors_of(connection, target_id)
        places.append(and_(assignment.c.is_inherited.is_(True), or_(
            and_(assignment.c.target_kind == "domain", assignment.c.target_id == domain_id),
            and_(assignment.c.target_kind == "project", assignment.c.target_id.in_(above)))))
    actor = tuple_(assignment.c.actor_kind, assignment.c.actor_id)
    return set(connection.execute(select(assignment.c.role_id).where(actor.in_(actors), or_(*places))).scalars())


def effective_roles(connection: Connection, user_id: str, kind: str, target_id: str, *, graph: RoleGraph | None = None) -> dict[str,
    str]:
    """Id to name of the roles that a token for this scope has."""
    direct = assigned_roles(connection, user_id, kind, target_id)
    return (graph or load_graph(connection)).effective(direct) if direct else {}


def reachable(connection: Connection, user_id: str) -> tuple[set[str], set[str], bool]:
    """(projects, domains, system): where a user has some role. Projects and domains may be disabled."""
    actors = [("user", user_id), *(("group", one) for one in groups_of(connection, user_id))]
    actor = tuple_(assignment.c.actor_kind, assignment.c.actor_id)
    rows = connection.execute(select(assignment.c.target_kind, assignment.c.target_id, assignment.c.is_inherited)
                              .where(actor.in_(actors)).distinct()).all()
    projects = {row.target_id for row in rows if row.target_kind == "project" and not row.is_inherited}
    domains = {row.target_id for row in rows if row.target_kind == "domain" and not row.is_inherited}
    above = {row.target_id for row in rows if row.target_kind == "domain" and row.is_inherited}
    if above:
        projects |= set(connection.execute(select(project.c.id).where(project.c.domain_id.in_(above))).scalars())
    level = {row.target_id for row in rows if row.target_kind == "project" and row.is_inherited}
    for _ in range(_DEPTH_MAX):
        level = set(connection.execute(select(project.c.id).where(project.c.parent_id.in_(level))).scalars()) if level else set()
        if not level - projects:
            break
        projects |= level
    return projects, domains, any(row.target_kind == "system" for row in rows)
