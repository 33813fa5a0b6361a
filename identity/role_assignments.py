"""GET /v3/role_assignments: who has which role where, as assigned or, `effective`, as it counts."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, and_, or_, select

from common.errors import BadRequest
from control.app import Call
from control.listing import link_map
from control.routes import Route
from identity.base import link_to
from identity.effective import SYSTEM, RoleGraph, ancestors_of, groups_of, load_graph
from identity.model import assignment, group, membership, project, role, user
from identity.projects import subtree_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One assignment, and how it came about: group_id, prior_id, source: (kind, id) it was inherited from."""

    actor_kind: str
    actor_id: str
    target_kind: str
    target_id: str
    role_id: str
    is_inherited: bool
    group_id: str | None = None
    prior_id: str | None = None
    source: tuple[str, str] | None = None


def list_assignments(connection: Connection, call: Call) -> dict[str, Any]:
    """Filters: user.id, group.id, role.id, scope.project.id, scope.domain.id, scope.system, scope.OS-INHERIT:inherited_to."""
    given = dict(call.query)
    is_tree = _flag(given, "include_subtree")
    project_id, domain_id = given.get("scope.project.id"), given.get("scope.domain.id")
    if is_tree and project_id is None:
        raise BadRequest(reason="include_subtree goes with scope.project.id.")
    is_own_domain = bool(call.context.domain_id) and not call.may(rule="rule_all_readers")
    call.enforce({"target.domain_id": call.context.domain_id} if is_own_domain else {"target.project.id": project_id},
                 rule="identity:list_role_assignments_for_tree" if is_tree else None)
    if (given.get("user.id") and given.get("group.id")) or sum(name.startswith("scope.") and "INHERIT" not in name
                                                             for name in given) > 1:
        raise BadRequest(reason="Filters name at most one actor and one target.")
    is_effective = _flag(given, "effective")
    if is_effective and given.get("group.id"):
        raise BadRequest(reason="What is effective belongs to users: a group cannot be asked for.")
    trees = [project_id, *(row.id for row in subtree_of(connection, project_id))] if is_tree and project_id is not None else None
    entries = [entry for entry in _entries(connection, given, is_effective=is_effective, trees=trees)
               if _fits(entry, given, is_effective=is_effective, trees=trees)]
    if is_own_domain:
        entries = _of_domain(connection, entries, str(call.context.domain_id))
    entries.sort(key=lambda entry: (entry.actor_kind, entry.actor_id, entry.target_kind, entry.target_id, entry.role_id))
    names = _Names(connection, entries) if _flag(given, "include_names") else None
    assert domain_id is None or isinstance(domain_id, str)
    return {"role_assignments": [_show(call, entry, names) for entry in entries], "links": link_map(call.url, call.query, None)}


def _flag(given: dict[str, str], name: str) -> bool:
    """Present without a value is true, and so is any value but 0 and false."""
    return name in given and given[name].lower() not in ("0", "false", "no")


def _entries(connection: Connection, given: dict[str, str], *, is_effective: bool, trees: list[str] | None) -> Iterator[Entry]:
    """Rows that may matter, narrowed in the database where that is possible, and expanded."""
    statement = select(assignment)
    if user_id := given.get("user.id"):
        own = and_(assignment.c.actor_kind == "user", assignment.c.actor_id == user_id)
        groups = groups_of(connection, user_id) if is_effective else []
        statement = statement.where(or_(own, and_(assignment.c.actor_kind == "group", assignment.c.actor_id.in_(groups))))
    if group_id := given.get("group.id"):
        statement = statement.where(assignment.c.actor_kind == "group", assignment.c.actor_id == group_id)
    for kind in ("project", "domain"):
        if (target_id := given.get(f"scope.{kind}.id")) and trees is None:
            places = [(kind, target_id)]
            if is_effective and kind == "project":
                above, home = ancestors_of(connection, target_id)
                places += [("domain", home), *(("project", one) for one in above)]
            statement = statement.where(or_(*(and_(assignment.c.target_kind == a, assignment.c.target_id == b) for a, b in places)))
    if "scope.system" in given:
        statement = statement.where(assignment.c.target_kind == "system", assignment.c.target_id == SYSTEM)
    rows = [_entry(row) for row in connection.execute(statement)]
    return iter(rows) if not is_effective else _expand(connection, rows, load_graph(connection))


def _entry(row: Row[Any]) -> Entry:
    return Entry(actor_kind=row.actor_kind, actor_id=row.actor_id, target_kind=row.target_kind, target_id=row.target_id,
                 role_id=row.role_id, is_inherited=row.is_inherited)


def _expand(connection: Connection, rows: Iterable[Entry], graph: RoleGraph) -> Iterator[Entry]:
    """Groups become their users, inherited assignments those of the projects below, roles what they imply."""
    for entry in rows:
        for placed in _inherit(connection, entry):
            for one in _members(connection, placed):
                for role_id in sorted(graph.closure([one.role_id])):
                    if not graph.domains.get(role_id):
                        yield one if role_id == one.role_id else replace(one, role_id=role_id, prior_id=one.role_id)


def _inherit(connection: Connection, entry: Entry) -> list[Entry]:
    if not entry.is_inherited:
        return [entry]
    if entry.target_kind == "domain":
        below = list(connection.execute(select(project.c.id).where(project.c.domain_id == entry.target_id)).scalars())
    else:
        below = [row.id for row in subtree_of(connection, entry.target_id)]
    return [replace(entry, target_kind="project", target_id=one, is_inherited=False, source=(entry.target_kind, entry.target_id))
            for one in below]


def _members(connection: Connection, entry: Entry) -> list[Entry]:
    if entry.actor_kind == "user":
        return [entry]
    users = connection.execute(select(membership.c.user_id).where(membership.c.group_id == entry.actor_id)).scalars()
    return [replace(entry, actor_kind="user", actor_id=one, group_id=entry.actor_id) for one in users]


def _fits(entry: Entry, given: dict[str, str], *, is_effective: bool, trees: list[str] | None) -> bool:
    if given.get("role.id") not in (None, entry.role_id):
        return False
    if given.get("user.id") is not None and (entry.actor_kind, entry.actor_id) != ("user", given["user.id"]):
        return False
    if trees is not None:
        return entry.target_kind == "project" and entry.target_id in trees
    for kind in ("project", "domain"):
        wanted = given.get(f"scope.{kind}.id")
        if wanted is not None and (entry.target_kind, entry.target_id) != (kind, wanted):
            return False
    if "scope.OS-INHERIT:inherited_to" in given:
        if given["scope.OS-INHERIT:inherited_to"] != "projects":
            raise BadRequest(reason="Roles are inherited to projects, to nothing else.")
        return entry.source is not None if is_effective else entry.is_inherited
    return True


def _of_domain(connection: Connection, entries: list[Entry], domain_id: str) -> list[Entry]:
    inside = set(connection.execute(select(project.c.id).where(project.c.domain_id == domain_id)).scalars()) | {domain_id}
    return [entry for entry in entries if entry.target_kind != "system" and entry.target_id in inside]


class _Names:
    """Of everybody and everything in a list, read in a few statements."""

    def __init__(self, connection: Connection, entries: list[Entry]) -> None:
        self.rows: dict[str, Row[Any]] = {}
        for table, ids in ((user, {entry.actor_id for entry in entries if entry.actor_kind == "user"}),
                           (group, {entry.actor_id for entry in entries if entry.actor_kind == "group"}),
                           (role, {entry.role_id for entry in entries}),
                           (project, {entry.target_id for entry in entries if entry.target_kind != "system"})):
            self._read(connection, table, ids)
        self._read(connection, project, {str(row.domain_id) for row in self.rows.values() if row.domain_id})

    def _read(self, connection: Connection, table: Any, ids: set[str]) -> None:
        ordered = sorted(ids)
        for begin in range(0, len(ordered), 500):
            for row in connection.execute(select(table).where(table.c.id.in_(ordered[begin:begin + 500]))):
                self.rows[row.id] = row

    def mention(self, row_id: str) -> dict[str, Any]:
        row = self.rows.get(row_id)
        if row is None:
            return {"id": row_id}
        home = self.rows.get(row.domain_id) if row.domain_id else None
        return {"id": row.id, "name": row.name, **({"domain": {"id": home.id, "name": home.name}} if home is not None else {})}


def _show(call: Call, entry: Entry, names: _Names | None) -> dict[str, Any]:
    def mention(row_id: str) -> dict[str, Any]:
        return {"id": row_id} if names is None else names.mention(row_id)

    kind, target_id = entry.source or (entry.target_kind, entry.target_id)
    actor_kind, actor_id = ("group", entry.group_id) if entry.group_id else (entry.actor_kind, entry.actor_id)
    role_id = entry.prior_id or entry.role_id
    inherited = entry.is_inherited or entry.source is not None
    where = ("system",) if kind == "system" else (f"{kind}s", target_id)
    path = (*where, f"{actor_kind}s", actor_id, "roles", role_id)
    links = {"assignment": link_to(call, *(("OS-INHERIT", *path, "inherited_to_projects") if inherited else path))}
    if entry.group_id:
        links["membership"] = link_to(call, "groups", entry.group_id, "users", entry.actor_id)
    if entry.prior_id:
        links["prior_role"] = link_to(call, "prior_role", entry.prior_id, "implies", entry.role_id)
    scope: dict[str,
                Any] = {"system": {"all": True}} if entry.target_kind == "system" else {entry.target_kind: mention(entry.target_id)}
    if inherited:
        scope["OS-INHERIT:inherited_to"] = "projects"
    return {entry.actor_kind: mention(entry.actor_id), "role": mention(entry.role_id), "scope": scope, "links": links}


ROUTES = (Route("GET", "/v3/role_assignments", list_assignments, "identity:list_role_assignments"),)
