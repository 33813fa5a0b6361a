"""/v3/policies: documents that identity keeps for others and never reads itself."""
from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Row, select

from control.app import Call
from control.listing import Listing, link_map, list_rows
from control.routes import Route
from control.schema import properties, wrapped
from identity.base import add_row, change_row, drop_row, free_attributes, get_row, new_id, same_or_absent, self_link
from identity.model import policy

_FIELDS: dict[str, Any] = {"type": {"type": "string", "minLength": 1, "maxLength": 255},
                           "blob": {"type": ["string", "object"], "maxLength": 65_536}}
_CREATE, _UPDATE = wrapped("policy", properties(_FIELDS, ("type", "blob"))), wrapped("policy", properties(_FIELDS))
LISTING = Listing(key=policy.c.id, filters={"type": policy.c.type})


def show(call: Call, row: Row[Any]) -> dict[str, Any]:
    """A policy."""
    return {**row.extra, "id": row.id, "type": row.type, "blob": json.loads(row.blob),
            "links": self_link(call, "policies", row.id)}


def create(connection: Connection, call: Call) -> dict[str, Any]:
    """Whatever it says."""
    call.enforce()
    given = call.body["policy"]
    row = add_row(connection, policy, what="policy", id=new_id(), type=given["type"], blob=json.dumps(given["blob"]),
                  extra=free_attributes(given, _FIELDS))
    return {"policy": show(call, row)}


def list_all(connection: Connection, call: Call) -> dict[str, Any]:
    """All."""
    call.enforce()
    rows, marker = list_rows(connection, select(policy), LISTING, call.query)
    return {"policies": [show(call, row) for row in rows], "links": link_map(call.url, call.query, marker)}


def _row(connection: Connection, call: Call) -> Row[Any]:
    call.enforce()
    return get_row(connection, policy, call.params["policy_id"], what="policy")


def get(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    return {"policy": show(call, _row(connection, call))}


def update(connection: Connection, call: Call) -> dict[str, Any]:
    """Any of its fields."""
    row, given = _row(connection, call), call.body["policy"]
    same_or_absent(given, "id", row.id)
    values: dict[str, Any] = {"extra": free_attributes(given, _FIELDS, row.extra)}
    if "type" in given:
        values["type"] = given["type"]
    if "blob" in given:
        values["blob"] = json.dumps(given["blob"])
    return {"policy": show(call, change_row(connection, policy, row.id, values, what="policy"))}


def remove(connection: Connection, call: Call) -> None:
    """One."""
    drop_row(connection, policy, _row(connection, call).id, what="policy")


ROUTES = (
    Route("POST", "/v3/policies", create, "identity:create_policy", 201, _CREATE),
    Route("GET", "/v3/policies", list_all, "identity:list_policies"),
    Route("GET", "/v3/policies/{policy_id}", get, "identity:get_policy"),
    Route("PATCH", "/v3/policies/{policy_id}", update, "identity:update_policy", 200, _UPDATE),
    Route("DELETE", "/v3/policies/{policy_id}", remove, "identity:delete_policy", 204),
)
