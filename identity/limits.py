"""Registered limits (a default per service, region and resource) and limits (for one project or domain), in the flat model."""
from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, exists, or_, select

from common.errors import BadRequest, Forbidden
from control.app import Call
from control.listing import Listing, link_map, list_rows
from control.routes import Route
from control.schema import ID, ID_OR_NULL, TEXT, name_of, properties, wrapped
from identity.base import add_row, change_row, drop_row, find_row, get_row, new_id, self_link
from identity.model import project, project_limit, region, registered_limit, service

_NUMBER = {"type": "integer", "minimum": -1, "maximum": 2_147_483_647}
_REGISTERED: dict[str, Any] = {"service_id": ID, "region_id": ID_OR_NULL, "resource_name": name_of(255), "default_limit": _NUMBER,
                               "description": TEXT}
_LIMIT: dict[str, Any] = {"project_id": ID_OR_NULL, "domain_id": ID_OR_NULL, "service_id": ID, "region_id": ID_OR_NULL,
                          "resource_name": name_of(255), "resource_limit": _NUMBER, "description": TEXT}
_MANY = {"type": "array", "minItems": 1, "maxItems": 500}
_MAKE_REGISTERED = wrapped("registered_limits", {**_MANY, "items": properties(
    _REGISTERED, ("service_id", "resource_name", "default_limit"), is_closed=True)})
_SET_REGISTERED = wrapped("registered_limit", properties(_REGISTERED, is_closed=True))
_MAKE_LIMITS = wrapped("limits", {**_MANY, "items": properties(_LIMIT, ("service_id", "resource_name", "resource_limit"),
                                                               is_closed=True)})
_SET_LIMIT = wrapped("limit", properties({"resource_limit": _NUMBER, "description": TEXT}, is_closed=True))
_REGISTERED_LIST = Listing(key=registered_limit.c.id, filters={
    "service_id": registered_limit.c.service_id, "region_id": registered_limit.c.region_id,
    "resource_name": registered_limit.c.resource_name})
_LIMIT_LIST = Listing(key=project_limit.c.id, filters={
    "service_id": registered_limit.c.service_id, "region_id": registered_limit.c.region_id,
    "resource_name": registered_limit.c.resource_name, "project_id": project_limit.c.project_id,
    "domain_id": project_limit.c.domain_id})


# registered limits

def show_registered(call: Call, row: Row[Any]) -> dict[str, Any]:
    """A default."""
    return {"id": row.id, "service_id": row.service_id, "region_id": row.region_id, "resource_name": row.resource_name,
            "default_limit": row.default_limit, "description": row.description, "links": self_link(call,
                                                                                                   "registered_limits", row.id)}


def create_registered(connection: Connection, call: Call) -> dict[str, Any]:
    """All of the list or none."""
    call.enforce()
    rows = []
    for given in call.body["registered_limits"]:
        _check_place(connection, given)
        rows.append(add_row(connection, registered_limit, what="registered limit", id=new_id(), service_id=given["service_id"],
                            region_id=given.get("region_id"), region_key=given.get("region_id") or "",
                            resource_name=given["resource_name"], default_limit=given["default_limit"],
                            description=given.get("description")))
    return {"registered_limits": [show_registered(call, row) for row in rows]}


def _check_place(connection: Connection, given: dict[str, Any]) -> None:
    if "service_id" in given and find_row(connection, service, given["service_id"]) is None:
        raise BadRequest(reason="There is no such service.")
    if given.get("region_id") is not None and find_row(connection, region, given["region_id"]) is None:
        raise BadRequest(reason="There is no such region.")


def list_registered(connection: Connection, call: Call) -> dict[str, Any]:
    """Open to everybody with a token."""
    rows, marker = list_rows(connection, select(registered_limit), _REGISTERED_LIST, call.query)
    return {"registered_limits": [show_registered(call, row) for row in rows], "links": link_map(call.url, call.query, marker)}


def get_registered(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    row = get_row(connection, registered_limit, call.params["limit_id"], what="registered limit")
    return {"registered_limit": show_registered(call, row)}


def update_registered(connection: Connection, call: Call) -> dict[str, Any]:
    """What has limits of projects keeps its place."""
    call.enforce()
    row, given = get_row(connection, registered_limit, call.params["limit_id"],
                         what="registered limit"), call.body["registered_limit"]
    _check_place(connection, given)
    if any(name in given and given[name] != getattr(row, name) for name in ("service_id", "region_id", "resource_name")):
        _refuse_used(connection, row)
    values = dict(given)
    if "region_id" in given:
        values["region_key"] = given["region_id"] or ""
    return {"registered_limit": show_registered(call, change_row(connection, registered_limit, row.id, values,
                                                                 what="registered limit"))}


def _refuse_used(connection: Connection, row: Row[Any]) -> None:
    if connection.execute(select(exists().where(project_limit.c.registered_limit_id == row.id))).scalar():
        raise Forbidden(reason="There are limits of projects that stand on this registered limit.")


def delete_registered(connection: Connection, call: Call) -> None:
    """Not while limits stand on it."""
    call.enforce()
    row = get_row(connection, registered_limit, call.params["limit_id"], what="registered limit")
    _refuse_used(connection, row)
    drop_row(connection, registered_limit, row.id, what="registered limit")


# limits

def _joined() -> Any:
    return select(project_limit, registered_limit.c.service_id, registered_limit.c.region_id,
                  registered_limit.c.resource_name).join(
        registered_limit, registered_limit.c.id == project_limit.c.registered_limit_id)


def show_limit(call: Call, row: Row[Any]) -> dict[str, Any]:
    """What one project or domain has instead of the default."""
    return {"id": row.id, "project_id": row.project_id, "domain_id": row.domain_id, "service_id": row.service_id,
            "region_id": row.region_id, "resource_name": row.resource_name, "resource_limit": row.resource_limit,
            "description": row.description, "links": self_link(call, "limits", row.id)}


def create_limits(connection: Connection, call: Call) -> dict[str, Any]:
    """All of the list or none."""
    call.enforce()
    ids = [_create_limit(connection, given) for given in call.body["limits"]]
    return {"limits": [show_limit(call, _limit(connection, limit_id)) for limit_id in ids]}


def _create_limit(connection: Connection, given: dict[str, Any]) -> str:
    if (given.get("project_id") is None) == (given.get("domain_id") is None):
        raise BadRequest(reason="A limit is of one project or of one domain.")
    _check_place(connection, given)
    owner = given.get("project_id") or given.get("domain_id")
    row = find_row(connection, project, owner)
    if row is None or row.is_domain != (given.get("domain_id") is not None):
        raise BadRequest(reason="There is no such project or domain.")
    found = connection.execute(select(registered_limit.c.id).where(
        registered_limit.c.service_id == given["service_id"], registered_limit.c.region_key == (given.get("region_id") or ""),
        registered_limit.c.resource_name == given["resource_name"])).scalar()
    if found is None:
        raise BadRequest(reason="There is no registered limit for this service, region and resource.")
    return str(add_row(connection, project_limit, what="limit", id=new_id(), registered_limit_id=found,
                       project_id=given.get("project_id"),
                       domain_id=given.get("domain_id"), owner_key=str(owner), resource_limit=given["resource_limit"],
                       description=given.get("description")).id)


def _limit(connection: Connection, limit_id: str) -> Row[Any]:
    get_row(connection, project_limit, limit_id, what="limit")
    row: Row[Any] = connection.execute(_joined().where(project_limit.c.id == limit_id)).one()
    return row


def list_limits(connection: Connection, call: Call) -> dict[str, Any]:
    """Everybody sees those of the own project and domain, administrators all."""
    statement = _joined()
    if not call.may(rule="rule_all_readers"):
        context = call.context
        statement = statement.where(or_(project_limit.c.project_id == (context.project_id or ""),
                                        project_limit.c.domain_id == (context.domain_id or context.project_domain_id or "")))
    rows, marker = list_rows(connection, statement, _LIMIT_LIST, call.query)
    return {"limits": [show_limit(call, row) for row in rows], "links": link_map(call.url, call.query, marker)}


def get_limit(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    row = find_row(connection, project_limit, call.params["limit_id"])
    call.enforce({"target.limit.project_id": row.project_id, "target.limit.domain_id": row.domain_id} if row is not None else None)
    return {"limit": show_limit(call, _limit(connection, call.params["limit_id"]))}


def update_limit(connection: Connection, call: Call) -> dict[str, Any]:
    """Its number and description."""
    call.enforce()
    change_row(connection, project_limit, call.params["limit_id"], call.body["limit"], what="limit")
    return {"limit": show_limit(call, _limit(connection, call.params["limit_id"]))}


def delete_limit(connection: Connection, call: Call) -> None:
    """The default again."""
    call.enforce()
    drop_row(connection, project_limit, call.params["limit_id"], what="limit")


def get_model(connection: Connection, call: Call) -> dict[str, Any]:
    """Limits of projects stand beside each other, whatever tree they are in."""
    return {"model": {"name": "flat",
                      "description": "Limit enforcement and validation does not take project hierarchy into consideration."}}


ROUTES = (
    Route("POST", "/v3/registered_limits", create_registered, "identity:create_registered_limits", 201, _MAKE_REGISTERED),
    Route("GET", "/v3/registered_limits", list_registered),
    Route("GET", "/v3/registered_limits/{limit_id}", get_registered),
    Route("PATCH", "/v3/registered_limits/{limit_id}", update_registered, "identity:update_registered_limit", 200, _SET_REGISTERED),
    Route("DELETE", "/v3/registered_limits/{limit_id}", delete_registered, "identity:delete_registered_limit", 204),
    Route("POST", "/v3/limits", create_limits, "identity:create_limits", 201, _MAKE_LIMITS),
    Route("GET", "/v3/limits", list_limits),
    Route("GET", "/v3/limits/model", get_model),
    Route("GET", "/v3/limits/{limit_id}", get_limit, "identity:get_limit"),
    Route("PATCH", "/v3/limits/{limit_id}", update_limit, "identity:update_limit", 200, _SET_LIMIT),
    Route("DELETE", "/v3/limits/{limit_id}", delete_limit, "identity:delete_limit", 204),
)
