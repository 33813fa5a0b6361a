"""/v3/groups: groups and their members."""
from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, delete, select

from control.app import Call
from control.db import ensure_row
from control.listing import Listing, link_map, list_rows
from control.routes import Route
from control.schema import ID_OR_NULL, TEXT, name_of, properties, wrapped
from identity.administrators import keep_an_administrator
from identity.base import add_row, change_row, drop_row, find_row, free_attributes, get_allowed, missing, new_id, same_or_absent
from identity.model import assignment, group, membership, user
from identity.privilege import has_roles_elsewhere, is_privileged_actor
from identity.users import check_domain, home_domain
from identity.users import target_of as target_of_user
from identity.views import show_group, show_user

_KNOWN = ("name", "domain_id", "description")
_FIELDS: dict[str, Any] = {"name": name_of(64), "domain_id": ID_OR_NULL, "description": TEXT}
_CREATE, _UPDATE = wrapped("group", properties(_FIELDS, ("name",))), wrapped("group", properties(_FIELDS))
LISTING = Listing(key=group.c.id, filters={"name": group.c.name, "domain_id": group.c.domain_id},
                  sorts={"name": group.c.name, "id": group.c.id})
_MEMBERS = Listing(key=user.c.id, filters={"name": user.c.name, "enabled": user.c.enabled}, booleans=frozenset({"enabled"}))


def target_of(connection: Connection, row: Row[Any] | None, *, now_us: int) -> dict[str, object]:
    """What rules may ask of a group."""
    if row is None:
        return {}
    actors = [("group", row.id)]
    return {"target.group.id": row.id, "target.group.domain_id": row.domain_id,
            "target.group.has_roles_elsewhere": has_roles_elsewhere(connection, actors, domain_id=row.domain_id, now_us=now_us),
            "target.group.is_privileged": is_privileged_actor(connection, actors, now_us=now_us)}


def _allowed(connection: Connection, call: Call) -> Row[Any]:
    return get_allowed(connection, call, group, call.params["group_id"], what="group",
                       target=lambda row: target_of(connection, row, now_us=call.state.clock.now_us()))


def create_group(connection: Connection, call: Call) -> dict[str, Any]:
    """In a domain."""
    given = call.body["group"]
    domain_id = given.get("domain_id") or home_domain(call)
    call.enforce({"target.group.domain_id": domain_id, "target.group.is_privileged": False,
                  "target.group.has_roles_elsewhere": False})
    check_domain(connection, domain_id)
    row = add_row(connection, group, what="group", id=new_id(), domain_id=domain_id, name=given["name"],
                  description=given.get("description"), extra=free_attributes(given, _KNOWN))
    return {"group": show_group(call, row)}


def list_groups(connection: Connection, call: Call) -> dict[str, Any]:
    """Of the caller's domain, unless it may see all."""
    statement = select(group)
    if call.context.domain_id and not call.may(rule="rule_all_readers"):
        call.enforce({"target.domain_id": call.context.domain_id})
        statement = statement.where(group.c.domain_id == call.context.domain_id)
    else:
        call.enforce()
    rows, marker = list_rows(connection, statement, LISTING, call.query)
    return {"groups": [show_group(call, row) for row in rows], "links": link_map(call.url, call.query, marker)}


def get_group(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    return {"group": show_group(call, _allowed(connection, call))}


def update_group(connection: Connection, call: Call) -> dict[str, Any]:
    """Name, description."""
    call.state.hold_changes(connection)
    row, given = _allowed(connection, call), call.body["group"]
    same_or_absent(given, "domain_id", row.domain_id)
    values: dict[str, Any] = {name: given[name] for name in ("name", "description") if name in given}
    if given.keys() - _KNOWN:
        values["extra"] = free_attributes(given, _KNOWN, row.extra)
    return {"group": show_group(call, change_row(connection, group, row.id, values, what="group"))}


def delete_group(connection: Connection, call: Call) -> None:
    """Its members lose what it gave them."""
    call.state.hold_changes(connection)
    row = _allowed(connection, call)
    call.state.change(connection)
    with keep_an_administrator(connection):
        connection.execute(delete(assignment).where(assignment.c.actor_kind == "group", assignment.c.actor_id == row.id))
        drop_row(connection, group, row.id, what="group")


def list_members(connection: Connection, call: Call) -> dict[str, Any]:
    """Users of a group."""
    row = _allowed(connection, call)
    statement = select(user).join(membership, membership.c.user_id == user.c.id).where(membership.c.group_id == row.id)
    rows, marker = list_rows(connection, statement, _MEMBERS, call.query)
    return {"users": [show_user(call, one) for one in rows], "links": link_map(call.url, call.query, marker)}


def _both(connection: Connection, call: Call) -> tuple[str, str]:
    """Group and user, if the caller may join them. Raises `NotFound`, `Forbidden`."""
    row, member = find_row(connection, group, call.params["group_id"]), find_row(connection, user, call.params["user_id"])
    now_us = call.state.clock.now_us()
    call.enforce({**target_of(connection, row, now_us=now_us), **target_of_user(connection, member, now_us=now_us)}
                 if row is not None and member is not None else None)
    if row is None:
        raise missing("group", call.params["group_id"])
    if member is None:
        raise missing("user", call.params["user_id"])
    return row.id, member.id


def add_member(connection: Connection, call: Call) -> None:
    """Once or again."""
    call.state.hold_changes(connection)
    group_id, user_id = _both(connection, call)
    ensure_row(connection, membership, {"group_id": group_id, "user_id": user_id})
    call.state.change(connection)


def check_member(connection: Connection, call: Call) -> None:
    """204 or 404."""
    group_id, user_id = _both(connection, call)
    found = connection.execute(select(membership).where(membership.c.group_id == group_id, membership.c.user_id == user_id)).first()
    if found is None:
        raise missing("user in group", user_id)


def remove_member(connection: Connection, call: Call) -> None:
    """What the group gave is gone at once."""
    call.state.hold_changes(connection)
    group_id, user_id = _both(connection, call)
    call.state.change(connection)
    with keep_an_administrator(connection):
        gone = connection.execute(delete(membership).where(membership.c.group_id == group_id, membership.c.user_id == user_id))
    if not gone.rowcount:
        raise missing("user in group", user_id)


ROUTES = (
    Route("POST", "/v3/groups", create_group, "identity:create_group", 201, _CREATE),
    Route("GET", "/v3/groups", list_groups, "identity:list_groups"),
    Route("GET", "/v3/groups/{group_id}", get_group, "identity:get_group"),
    Route("PATCH", "/v3/groups/{group_id}", update_group, "identity:update_group", 200, _UPDATE),
    Route("DELETE", "/v3/groups/{group_id}", delete_group, "identity:delete_group", 204),
    Route("GET", "/v3/groups/{group_id}/users", list_members, "identity:list_users_in_group"),
    Route("PUT", "/v3/groups/{group_id}/users/{user_id}", add_member, "identity:add_user_to_group", 204),
    Route("HEAD", "/v3/groups/{group_id}/users/{user_id}", check_member, "identity:check_user_in_group", 204),
    Route("GET", "/v3/groups/{group_id}/users/{user_id}", check_member, "identity:check_user_in_group", 204),
    Route("DELETE", "/v3/groups/{group_id}/users/{user_id}", remove_member, "identity:remove_user_from_group", 204),
)
