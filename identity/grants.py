"""Assignments: a role, to a user or group, on a project, a domain or the system; inherited ones count below only.

Each of the paths is the same operation with other words, so the routes are made from a table.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from common.errors import Forbidden
from control.app import Call
from control.db import ensure_row
from control.listing import link_map
from control.routes import Answer, Route
from identity.administrators import keep_an_administrator
from identity.base import find_row, missing
from identity.effective import SYSTEM
from identity.groups import target_of as target_of_group
from identity.model import ROOT, assignment, group, project, role, user
from identity.privilege import is_privileged_place
from identity.projects import target_of as target_of_project
from identity.users import target_of as target_of_user
from identity.views import show_role


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What one path is about."""

    actor: str                               # user or group
    target: str                              # project, domain or system
    is_inherited: bool

    @property
    def path(self) -> str:
        """Up to the role."""
        head = "/v3/OS-INHERIT" if self.is_inherited else "/v3"
        where = "system" if self.target == "system" else f"{self.target}s/{{{self.target}_id}}"
        return f"{head}/{where}/{self.actor}s/{{{self.actor}_id}}/roles"

    @property
    def tail(self) -> str:
        """After the role."""
        return "/inherited_to_projects" if self.is_inherited else ""


def _resolve(connection: Connection, call: Call, place: Place, *, with_role: bool) -> tuple[str, str, Row[Any] | None]:
    """Ids of actor and target, and the role, if the caller may do this to them. Raises `Forbidden`, `NotFound`."""
    actor_id, target_id = call.params[f"{place.actor}_id"], call.params.get(f"{place.target}_id", SYSTEM)
    actor = find_row(connection, user if place.actor == "user" else group, actor_id)
    where = find_row(connection, project, target_id) if place.target != "system" else None
    if where is not None and where.is_domain != (place.target == "domain"):
        where = None
    found = find_row(connection, role, call.params["role_id"]) if with_role else None
    target: dict[str, object] = {}
    if actor is not None:
        target_of_actor = target_of_user if place.actor == "user" else target_of_group
        target |= target_of_actor(connection, actor, now_us=call.state.clock.now_us())
    if where is not None:
        target |= _target_of_place(connection, where, place)
    if found is not None:
        target |= {"target.role.id": found.id, "target.role.name": found.name, "target.role.domain_id": found.domain_id or None}
    call.enforce(target, rule=_rule(call, place))
    if actor is None:
        raise missing(place.actor, actor_id)
    if place.target != "system" and where is None:
        raise missing(place.target, target_id)
    if with_role and found is None:
        raise missing("role", call.params["role_id"])
    if found is not None and found.domain_id != ROOT:
        home = None if where is None else where.id if where.is_domain else where.domain_id
        if home != found.domain_id and call.method == "PUT":
            raise Forbidden(reason="A role of a domain can be assigned only in that domain.")
    return actor_id, target_id, found


def _target_of_place(connection: Connection, where: Row[Any], place: Place) -> dict[str, object]:
    """A role that is inherited is one in every project below."""
    if place.target == "domain":
        is_privileged = place.is_inherited and is_privileged_place(connection, where.id, with_below=True)
        return {"target.domain.id": where.id, "target.domain.is_privileged": is_privileged}
    target = target_of_project(connection, where)
    if place.is_inherited:
        target["target.project.is_privileged"] = is_privileged_place(connection, where.id, with_below=True)
    return target


def _rule(call: Call, place: Place) -> str | None:
    """Grants on the system have rules of their own."""
    if place.target != "system":
        return None
    action = {"PUT": "create", "DELETE": "revoke"}.get(call.method, "check" if "role_id" in call.params else "list")
    if action == "list":
        return f"identity:list_system_grants_for_{place.actor}"
    return f"identity:{action}_system_grant_for_{place.actor}"


def _keys(place: Place, actor_id: str, target_id: str, role_id: str) -> dict[str, object]:
    return {"actor_kind": place.actor, "actor_id": actor_id, "target_kind": place.target, "target_id": target_id,
            "role_id": role_id,
            "is_inherited": place.is_inherited}


def _grant(place: Place) -> Callable[[Connection, Call], None]:
    def grant(connection: Connection, call: Call) -> None:
        """Once or again."""
        call.state.hold_changes(connection)
        actor_id, target_id, found = _resolve(connection, call, place, with_role=True)
        assert found is not None
        ensure_row(connection, assignment, _keys(place, actor_id, target_id, found.id))
        call.state.change(connection)
    return grant


def _check(place: Place) -> Callable[[Connection, Call], Answer]:
    def check(connection: Connection, call: Call) -> Answer:
        """204 or 404."""
        actor_id, target_id, found = _resolve(connection, call, place, with_role=True)
        assert found is not None
        keys = _keys(place, actor_id, target_id, found.id)
        if connection.execute(select(assignment).where(*(assignment.c[name] == value for name,
                                                         value in keys.items()))).first() is None:
            raise missing("role assignment", found.id)
        return Answer(status=204)
    return check


def _revoke(place: Place) -> Callable[[Connection, Call], None]:
    def revoke(connection: Connection, call: Call) -> None:
        """Tokens lose the role with the next request; the last role ends them."""
        call.state.hold_changes(connection)
        actor_id, target_id, found = _resolve(connection, call, place, with_role=True)
        assert found is not None
        keys = _keys(place, actor_id, target_id, found.id)
        call.state.change(connection)
        with keep_an_administrator(connection):
            gone = connection.execute(delete(assignment).where(*(assignment.c[name] == value for name, value in keys.items())))
        if not gone.rowcount:
            raise missing("role assignment", found.id)
    return revoke


def _list(place: Place) -> Callable[[Connection, Call], dict[str, Any]]:
    def list_roles(connection: Connection, call: Call) -> dict[str, Any]:
        """Roles assigned exactly so."""
        actor_id, target_id, _ = _resolve(connection, call, place, with_role=False)
        rows = connection.execute(select(role).join(assignment, assignment.c.role_id == role.c.id).where(
            assignment.c.actor_kind == place.actor, assignment.c.actor_id == actor_id, assignment.c.target_kind == place.target,
            assignment.c.target_id == target_id, assignment.c.is_inherited.is_(place.is_inherited)).order_by(role.c.id)).all()
        return {"roles": [show_role(call, row) for row in rows], "links": link_map(call.url, call.query, None)}
    return list_roles


def _routes() -> Iterator[Route]:
    for target in ("project", "domain", "system"):
        for actor in ("user", "group"):
            for is_inherited in (False, True):
                if target == "system" and is_inherited:
                    continue
                place = Place(actor=actor, target=target, is_inherited=is_inherited)
                one = place.path + "/{role_id}" + place.tail
                yield Route("PUT", one, _grant(place), "identity:create_grant", 204)
                yield Route("HEAD", one, _check(place), "identity:check_grant", 204)
                yield Route("GET", one, _check(place), "identity:check_grant", 204)
                yield Route("DELETE", one, _revoke(place), "identity:revoke_grant", 204)
                yield Route("GET", place.path + place.tail, _list(place), "identity:list_grants")


ROUTES = tuple(_routes())
