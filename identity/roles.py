"""/v3/roles: roles, and which role implies which."""
from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, delete, select

from common.errors import BadRequest, Forbidden
from control.app import Call
from control.db import ensure_row
from control.listing import Listing, link_map, list_rows
from control.routes import Route
from control.schema import ID_OR_NULL, TEXT, name_of, properties, wrapped
from identity.administrators import keep_an_administrator
from identity.base import (
    add_row,
    change_row,
    drop_row,
    find_row,
    free_attributes,
    get_row,
    merged_options,
    missing,
    new_id,
    refuse_immutable,
    same_or_absent,
    self_link,
)
from identity.effective import load_graph
from identity.model import ROOT, role, role_implies
from identity.users import check_domain
from identity.views import show_role

_KNOWN = ("name", "domain_id", "description", "options")
_FIELDS: dict[str, Any] = {"name": name_of(255), "domain_id": ID_OR_NULL, "description": TEXT,
                           "options": properties({"immutable": {"type": ["boolean", "null"]}}, is_closed=True)}
_CREATE, _UPDATE = wrapped("role", properties(_FIELDS, ("name",))), wrapped("role", properties(_FIELDS))
LISTING = Listing(key=role.c.id, filters={"name": role.c.name}, sorts={"name": role.c.name, "id": role.c.id})


def create_role(connection: Connection, call: Call) -> dict[str, Any]:
    """With a domain it is one of that domain, and only stands for what it implies."""
    given = call.body["role"]
    domain_id = given.get("domain_id") or ROOT
    call.enforce(rule="identity:create_domain_role" if domain_id else None)
    if domain_id:
        check_domain(connection, domain_id)
    row = add_row(connection, role, what="role", id=new_id(), domain_id=domain_id, name=given["name"],
                  description=given.get("description"),
                  options=merged_options({}, given.get("options")), extra=free_attributes(given, _KNOWN))
    return {"role": show_role(call, row)}


def list_roles(connection: Connection, call: Call) -> dict[str, Any]:
    """Those of no domain, unless one is asked for."""
    domains = [value for name, value in call.query if name == "domain_id" and value.lower() not in ("", "none", "null")]
    call.enforce({"target.role.domain_id": domains[0]} if domains else None,
                 rule="identity:list_domain_roles" if domains else None)
    statement = select(role).where(role.c.domain_id == (domains[0] if domains else ROOT))
    rows, marker = list_rows(connection, statement, LISTING, call.query)
    return {"roles": [show_role(call, row) for row in rows], "links": link_map(call.url, call.query, marker)}


def _allowed(connection: Connection, call: Call, action: str) -> Row[Any]:
    row = find_row(connection, role, call.params["role_id"])
    is_of_domain = row is not None and row.domain_id != ROOT
    target = {"target.role.domain_id": row.domain_id, "target.role.name": row.name} if row is not None else None
    call.enforce(target, rule=f"identity:{action}_domain_role" if is_of_domain else None)
    if row is None:
        raise missing("role", call.params["role_id"])
    return row


def get_role(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    return {"role": show_role(call, _allowed(connection, call, "get"))}


def update_role(connection: Connection, call: Call) -> dict[str, Any]:
    """Policy goes by names: a new name takes effect with the next request."""
    call.state.hold_changes(connection)
    row, given = _allowed(connection, call, "update"), call.body["role"]
    same_or_absent(given, "domain_id", row.domain_id or None)
    refuse_immutable("role", row.options, given)
    values: dict[str, Any] = {name: given[name] for name in ("name", "description") if name in given}
    if "options" in given:
        values["options"] = merged_options(row.options, given.get("options"))
    if given.keys() - _KNOWN:
        values["extra"] = free_attributes(given, _KNOWN, row.extra)
    call.state.change(connection)
    with keep_an_administrator(connection, is_risk="name" in values):
        changed = change_row(connection, role, row.id, values, what="role")
    return {"role": show_role(call, changed)}


def delete_role(connection: Connection, call: Call) -> None:
    """With every assignment of it."""
    call.state.hold_changes(connection)
    row = _allowed(connection, call, "delete")
    refuse_immutable("role", row.options, None)
    call.state.change(connection)
    with keep_an_administrator(connection):
        drop_row(connection, role, row.id, what="role")


# implied roles

def _pair(connection: Connection, call: Call) -> tuple[Row[Any], Row[Any]]:
    call.enforce()
    return (get_row(connection, role, call.params["role_id"], what="role"),
            get_row(connection, role, call.params["implied_id"], what="role"))


def _mention(call: Call, row: Row[Any]) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, "description": row.description, "links": self_link(call, "roles", row.id)}


def _inference(call: Call, prior: Row[Any], implied: Row[Any]) -> dict[str, Any]:
    return {"role_inference": {"prior_role": _mention(call, prior), "implies": _mention(call, implied)},
            "links": self_link(call, "roles", prior.id, "implies", implied.id)}


def create_implication(connection: Connection, call: Call) -> dict[str, Any]:
    """Whoever has the first has the second. No circles, and nothing implies admin."""
    call.state.hold_changes(connection)
    prior, implied = _pair(connection, call)
    if implied.name.lower() == "admin" and implied.domain_id == ROOT:
        raise Forbidden(reason="The role admin cannot be implied by another.")
    if implied.domain_id != ROOT and prior.domain_id == ROOT:
        raise Forbidden(reason="A role of a domain cannot be implied by one that belongs to none.")
    if prior.id in load_graph(connection).closure([implied.id]):
        raise BadRequest(reason="Roles that imply each other in a circle make no sense.")
    ensure_row(connection, role_implies, {"prior_id": prior.id, "implied_id": implied.id})
    call.state.change(connection)
    return _inference(call, prior, implied)


def _existing(connection: Connection, call: Call) -> tuple[Row[Any], Row[Any]]:
    prior, implied = _pair(connection, call)
    there = connection.execute(select(role_implies).where(role_implies.c.prior_id == prior.id,
                                                          role_implies.c.implied_id == implied.id))
    if there.first() is None:
        raise missing("role inference", f"{prior.id} implies {implied.id}")
    return prior, implied


def get_implication(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    return _inference(call, *_existing(connection, call))


def check_implication(connection: Connection, call: Call) -> None:
    """204 or 404."""
    _existing(connection, call)


def delete_implication(connection: Connection, call: Call) -> None:
    """At once."""
    prior, implied = _existing(connection, call)
    connection.execute(delete(role_implies).where(role_implies.c.prior_id == prior.id, role_implies.c.implied_id == implied.id))
    call.state.change(connection)


def list_implications(connection: Connection, call: Call) -> dict[str, Any]:
    """What one role implies."""
    call.enforce()
    prior = get_row(connection, role, call.params["role_id"], what="role")
    return {"role_inference": _of_prior(connection, call, prior), "links": self_link(call, "roles", prior.id, "implies")}


def _of_prior(connection: Connection, call: Call, prior: Row[Any]) -> dict[str, Any]:
    rows = connection.execute(select(role).join(role_implies, role_implies.c.implied_id == role.c.id)
                              .where(role_implies.c.prior_id == prior.id).order_by(role.c.id)).all()
    return {"prior_role": _mention(call, prior), "implies": [_mention(call, row) for row in rows]}


def list_all_implications(connection: Connection, call: Call) -> dict[str, Any]:
    """Of every role that implies something."""
    call.enforce()
    rows = connection.execute(select(role).where(role.c.id.in_(select(role_implies.c.prior_id))).order_by(role.c.id)).all()
    return {"role_inferences": [_of_prior(connection, call, row) for row in rows], "links": self_link(call, "role_inferences")}


_IMPLIES = "/v3/roles/{role_id}/implies/{implied_id}"
ROUTES = (
    Route("POST", "/v3/roles", create_role, "identity:create_role", 201, _CREATE),
    Route("GET", "/v3/roles", list_roles, "identity:list_roles"),
    Route("GET", "/v3/roles/{role_id}", get_role, "identity:get_role"),
    Route("PATCH", "/v3/roles/{role_id}", update_role, "identity:update_role", 200, _UPDATE),
    Route("DELETE", "/v3/roles/{role_id}", delete_role, "identity:delete_role", 204),
    Route("GET", "/v3/roles/{role_id}/implies", list_implications, "identity:list_implied_roles"),
    Route("PUT", _IMPLIES, create_implication, "identity:create_implied_role", 201),
    Route("GET", _IMPLIES, get_implication, "identity:get_implied_role"),
    Route("HEAD", _IMPLIES, check_implication, "identity:check_implied_role", 204),
    Route("DELETE", _IMPLIES, delete_implication, "identity:delete_implied_role", 204),
    Route("GET", "/v3/role_inferences", list_all_implications, "identity:list_role_inference_rules"),
)
