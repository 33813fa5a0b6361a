"""/v3/services, endpoints, regions, and which endpoints a project sees (OS-EP-FILTER)."""
from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, select

from common.errors import BadRequest
from control.app import Call
from control.db import ensure_row
from control.errors import BadReference
from control.listing import Listing, link_map, list_rows
from control.routes import Answer, Route
from control.schema import BOOLEAN, ID, ID_OR_NULL, TEXT, properties, wrapped
from identity.base import (
    add_row,
    change_row,
    drop_row,
    find_row,
    free_attributes,
    get_row,
    missing,
    new_id,
    same_or_absent,
    self_link,
)
from identity.catalog import endpoints_of_group
from identity.model import endpoint, endpoint_group, project, project_endpoint, project_endpoint_group, region, service
from identity.views import show_project

_URL_NAMES = frozenset({"project_id", "tenant_id", "user_id", "host"})
_NAME = re.compile(r"[$%]\(([^()]*)\)s")
_SERVICE: dict[str, Any] = {"type": {"type": "string", "minLength": 1, "maxLength": 255},
                            "name": {"type": ["string", "null"], "maxLength": 255},
                            "description": TEXT, "enabled": BOOLEAN}
_ENDPOINT: dict[str, Any] = {
    "service_id": ID, "region_id": ID_OR_NULL, "region": ID_OR_NULL, "interface": {"type": "string",
                                                                                   "enum": ["admin", "internal", "public"]},
    "url": {"type": "string", "minLength": 1, "maxLength": 2_048}, "enabled": BOOLEAN, "name": TEXT, "description": TEXT}
_REGION: dict[str, Any] = {"id": {"type": ["string", "null"], "maxLength": 255}, "description": TEXT,
                           "parent_region_id": ID_OR_NULL}
_GROUP: dict[str, Any] = {"name": {"type": "string", "minLength": 1, "maxLength": 255}, "description": TEXT,
                          "filters": {"type": "object", "maxProperties": 8}}
_SERVICES = Listing(key=service.c.id, filters={"name": service.c.name, "type": service.c.type})
_ENDPOINTS = Listing(key=endpoint.c.id, filters={"interface": endpoint.c.interface, "service_id": endpoint.c.service_id,
                                                 "region_id": endpoint.c.region_id, "region": endpoint.c.region_id})
_REGIONS = Listing(key=region.c.id, filters={"parent_region_id": region.c.parent_region_id})
_GROUPS = Listing(key=endpoint_group.c.id, filters={"name": endpoint_group.c.name})


# services

def show_service(call: Call, row: Row[Any]) -> dict[str, Any]:
    """A service."""
    shown = {**row.extra, "id": row.id, "type": row.type, "enabled": row.enabled, "links": self_link(call, "services", row.id)}
    for name in ("name", "description"):
        if getattr(row, name) is not None:
            shown[name] = getattr(row, name)
    return shown


def create_service(connection: Connection, call: Call) -> dict[str, Any]:
    """A type of the catalog."""
    call.enforce()
    given = call.body["service"]
    row = add_row(connection, service, what="service", id=new_id(), type=given["type"], name=given.get("name"),
                  enabled=given.get("enabled", True), description=given.get("description"), extra=free_attributes(given, _SERVICE))
    call.state.change(connection)
    return {"service": show_service(call, row)}


def list_services(connection: Connection, call: Call) -> dict[str, Any]:
    """All."""
    call.enforce()
    rows, marker = list_rows(connection, select(service), _SERVICES, call.query)
    return {"services": [show_service(call, row) for row in rows], "links": link_map(call.url, call.query, marker)}


def _service(connection: Connection, call: Call) -> Row[Any]:
    call.enforce()
    return get_row(connection, service, call.params["service_id"], what="service")


def get_service(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    return {"service": show_service(call, _service(connection, call))}


def update_service(connection: Connection, call: Call) -> dict[str, Any]:
    """A disabled one leaves the catalog."""
    row, given = _service(connection, call), call.body["service"]
    values: dict[str, Any] = {name: given[name] for name in _SERVICE if name in given}
    values["extra"] = free_attributes(given, _SERVICE, row.extra)
    call.state.change(connection)
    return {"service": show_service(call, change_row(connection, service, row.id, values, what="service"))}


def delete_service(connection: Connection, call: Call) -> None:
    """With its endpoints."""
    row = _service(connection, call)
    call.state.change(connection)
    drop_row(connection, service, row.id, what="service")


# endpoints

def show_endpoint(call: Call, row: Row[Any]) -> dict[str, Any]:
    """An endpoint."""
    return {**row.extra, "id": row.id, "interface": row.interface, "url": row.url, "enabled": row.enabled,
            "service_id": row.service_id,
            "region_id": row.region_id, "region": row.region_id, "links": self_link(call, "endpoints", row.id)}


def create_endpoint(connection: Connection, call: Call) -> dict[str, Any]:
    """`region` names a region as well, and makes it if it is not there."""
    call.enforce()
    given = call.body["endpoint"]
    for name in ("service_id", "interface", "url"):
        if name not in given:
            raise BadRequest(reason=f"{name!r} is a required property of endpoint.")
    if find_row(connection, service, given["service_id"]) is None:
        raise BadRequest(reason="There is no such service.")
    row = add_row(connection, endpoint, what="endpoint", id=new_id(), service_id=given["service_id"], interface=given["interface"],
                  url=_checked_url(given["url"]), enabled=given.get("enabled", True), region_id=_region_id(connection, given),
                  extra=_endpoint_extra(given))
    call.state.change(connection)
    return {"endpoint": show_endpoint(call, row)}


def _endpoint_extra(given: dict[str, Any], old: dict[str, Any] | None = None) -> dict[str, Any]:
    return free_attributes(given, ("service_id", "region_id", "region", "interface", "url", "enabled"), old)


def _checked_url(url: str) -> str:
    unknown = sorted(set(_NAME.findall(url)) - _URL_NAMES)
    if unknown:
        raise BadRequest(reason=f"The URL has a substitution that is not known: {unknown[0][:64]!r}.")
    return url


def _region_id(connection: Connection, given: dict[str, Any]) -> str | None:
    if given.get("region_id") is not None:
        if find_row(connection, region, given["region_id"]) is None:
            raise BadRequest(reason="There is no such region.")
        return str(given["region_id"])
    if given.get("region") is not None:
        ensure_row(connection, region, {"id": given["region"]}, {"description": "", "extra": {}})
        return str(given["region"])
    return None


def list_endpoints(connection: Connection, call: Call) -> dict[str, Any]:
    """All."""
    call.enforce()
    rows, marker = list_rows(connection, select(endpoint), _ENDPOINTS, call.query)
    return {"endpoints": [show_endpoint(call, row) for row in rows], "links": link_map(call.url, call.query, marker)}


def _endpoint(connection: Connection, call: Call) -> Row[Any]:
    call.enforce()
    return get_row(connection, endpoint, call.params["endpoint_id"], what="endpoint")


def get_endpoint(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    return {"endpoint": show_endpoint(call, _endpoint(connection, call))}


def update_endpoint(connection: Connection, call: Call) -> dict[str, Any]:
    """Any of its fields."""
    row, given = _endpoint(connection, call), call.body["endpoint"]
    values: dict[str, Any] = {name: given[name] for name in ("interface", "enabled", "service_id") if name in given}
    if "service_id" in values and find_row(connection, service, values["service_id"]) is None:
        raise BadRequest(reason="There is no such service.")
    if "url" in given:
        values["url"] = _checked_url(given["url"])
    if "region_id" in given or "region" in given:
        values["region_id"] = _region_id(connection, given)
    values["extra"] = _endpoint_extra(given, row.extra)
    call.state.change(connection)
    return {"endpoint": show_endpoint(call, change_row(connection, endpoint, row.id, values, what="endpoint"))}


def delete_endpoint(connection: Connection, call: Call) -> None:
    """It leaves every catalog."""
    row = _endpoint(connection, call)
    call.state.change(connection)
    drop_row(connection, endpoint, row.id, what="endpoint")


# regions

def show_region(call: Call, row: Row[Any]) -> dict[str, Any]:
    """A region."""
    return {**row.extra, "id": row.id, "description": row.description, "parent_region_id": row.parent_region_id,
            "links": self_link(call, "regions", row.id)}


def create_region(connection: Connection, call: Call) -> dict[str, Any]:
    """With an id of the caller's choice, or one of ours."""
    call.enforce()
    given = call.body["region"]
    row_id = call.params.get("region_id") or given.get("id") or new_id()
    same_or_absent({name: value for name, value in given.items() if name == "id" and value}, "id", row_id)
    _check_parent(connection, given)
    row = add_row(connection, region, what="region", id=row_id, description=given.get("description") or "",
                  parent_region_id=given.get("parent_region_id"), extra=free_attributes(given, _REGION))
    return {"region": show_region(call, row)}


def _check_parent(connection: Connection, given: dict[str, Any]) -> None:
    if given.get("parent_region_id") is not None:
        get_row(connection, region, given["parent_region_id"], what="region")


def list_regions(connection: Connection, call: Call) -> dict[str, Any]:
    """Open to everybody with a token."""
    call.enforce()
    rows, marker = list_rows(connection, select(region), _REGIONS, call.query)
    return {"regions": [show_region(call, row) for row in rows], "links": link_map(call.url, call.query, marker)}


def _region(connection: Connection, call: Call) -> Row[Any]:
    call.enforce()
    return get_row(connection, region, call.params["region_id"], what="region")


def get_region(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    return {"region": show_region(call, _region(connection, call))}


def update_region(connection: Connection, call: Call) -> dict[str, Any]:
    """Its id is for life; it cannot come to be below itself."""
    row, given = _region(connection, call), call.body["region"]
    same_or_absent(given, "id", row.id)
    _check_parent(connection, given)
    above = given.get("parent_region_id")
    while above is not None:
        if above == row.id:
            raise BadRequest(reason="A region cannot be below itself.")
        above = get_row(connection, region, above, what="region").parent_region_id
    values: dict[str, Any] = {"extra": free_attributes(given, _REGION, row.extra)}
    if "description" in given:
        values["description"] = given["description"] or ""
    if "parent_region_id" in given:
        values["parent_region_id"] = given["parent_region_id"]
    return {"region": show_region(call, change_row(connection, region, row.id, values, what="region"))}


def delete_region(connection: Connection, call: Call) -> None:
    """Not while regions or endpoints are in it."""
    row = _region(connection, call)
    used = select(exists().where(region.c.parent_region_id == row.id) | exists().where(endpoint.c.region_id == row.id))
    if connection.execute(used).scalar():
        raise BadReference(reason="The region has regions below it, or endpoints.")
    drop_row(connection, region, row.id, what="region")


# endpoint filter

def show_group(call: Call, row: Row[Any]) -> dict[str, Any]:
    """A group of endpoints."""
    return {"id": row.id, "name": row.name, "description": row.description, "filters": row.filters,
            "links": self_link(call, "OS-EP-FILTER", "endpoint_groups", row.id)}


def create_group(connection: Connection, call: Call) -> dict[str, Any]:
    """Endpoints by what they have in common."""
    call.enforce()
    given = call.body["endpoint_group"]
    if "name" not in given or "filters" not in given:
        raise BadRequest(reason="name and filters are required properties of endpoint_group.")
    row = add_row(connection, endpoint_group, what="endpoint group", id=new_id(), name=given["name"],
                  description=given.get("description"), filters=_checked_filters(given["filters"]))
    return {"endpoint_group": show_group(call, row)}


def _checked_filters(filters: dict[str, Any]) -> dict[str, Any]:
    unknown = set(filters) - {"service_id", "region_id", "interface", "enabled"}
    if unknown or not all(isinstance(value, str | bool) for value in filters.values()):
        raise BadRequest(reason="Endpoints are filtered by service_id, region_id, interface and enabled.")
    return filters


def list_groups(connection: Connection, call: Call) -> dict[str, Any]:
    """All."""
    call.enforce()
    rows, marker = list_rows(connection, select(endpoint_group), _GROUPS, call.query)
    return {"endpoint_groups": [show_group(call, row) for row in rows], "links": link_map(call.url, call.query, marker)}


def _group(connection: Connection, call: Call) -> Row[Any]:
    call.enforce()
    return get_row(connection, endpoint_group, call.params["endpoint_group_id"], what="endpoint group")


def get_group(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    return {"endpoint_group": show_group(call, _group(connection, call))}


def update_group(connection: Connection, call: Call) -> dict[str, Any]:
    """Any of its fields."""
    row, given = _group(connection, call), call.body["endpoint_group"]
    values: dict[str, Any] = {name: given[name] for name in ("name", "description") if name in given}
    if "filters" in given:
        values["filters"] = _checked_filters(given["filters"])
    call.state.change(connection)
    return {"endpoint_group": show_group(call, change_row(connection, endpoint_group, row.id, values, what="endpoint group"))}


def delete_group(connection: Connection, call: Call) -> None:
    """Projects that had it lose those endpoints."""
    row = _group(connection, call)
    call.state.change(connection)
    drop_row(connection, endpoint_group, row.id, what="endpoint group")


def list_group_endpoints(connection: Connection, call: Call) -> dict[str, Any]:
    """What a group chooses at this moment."""
    rows = endpoints_of_group(connection, _group(connection, call).filters)
    return {"endpoints": [show_endpoint(call, row) for row in rows], "links": link_map(call.url, call.query, None)}


def list_group_projects(connection: Connection, call: Call) -> dict[str, Any]:
    """Who has it."""
    row = _group(connection, call)
    rows = connection.execute(select(project).join(project_endpoint_group, project_endpoint_group.c.project_id == project.c.id)
                              .where(project_endpoint_group.c.endpoint_group_id == row.id).order_by(project.c.id)).all()
    return {"projects": [show_project(call, one, []) for one in rows], "links": link_map(call.url, call.query, None)}


def _tie(connection: Connection, call: Call) -> tuple[Any, dict[str, object], str]:
    """The table, the keys and the name of what is tied to a project."""
    call.enforce()
    get_row(connection, project, call.params["project_id"], what="project")
    if "endpoint_id" in call.params:
        get_row(connection, endpoint, call.params["endpoint_id"], what="endpoint")
        return project_endpoint, {name: call.params[name] for name in ("project_id", "endpoint_id")}, "endpoint of project"
    get_row(connection, endpoint_group, call.params["endpoint_group_id"], what="endpoint group")
    keys: dict[str, object] = {name: call.params[name] for name in ("project_id", "endpoint_group_id")}
    return project_endpoint_group, keys, "endpoint group of project"


def tie(connection: Connection, call: Call) -> Answer:
    """From the first one on a project sees only what it is tied to."""
    table, keys, _ = _tie(connection, call)
    ensure_row(connection, table, keys)
    call.state.change(connection)
    return Answer(status=204)


def check_tie(connection: Connection, call: Call) -> Answer:
    """204 or 404; a group is shown with 200."""
    table, keys, what = _tie(connection, call)
    if connection.execute(select(table).where(*(table.c[name] == value for name, value in keys.items()))).first() is None:
        raise missing(what, str(keys["project_id"]))
    if table is project_endpoint_group:
        row = get_row(connection, endpoint_group, call.params["endpoint_group_id"], what="endpoint group")
        return Answer(body={"endpoint_group": show_group(call, row)}, status=200)
    return Answer(status=204)


def untie(connection: Connection, call: Call) -> None:
    """With none left a project sees all again."""
    table, keys, what = _tie(connection, call)
    if not connection.execute(delete(table).where(*(table.c[name] == value for name, value in keys.items()))).rowcount:
        raise missing(what, str(keys["project_id"]))
    call.state.change(connection)


def list_project_endpoints(connection: Connection, call: Call) -> dict[str, Any]:
    """What a project is tied to."""
    call.enforce()
    get_row(connection, project, call.params["project_id"], what="project")
    rows = connection.execute(select(endpoint).join(project_endpoint, project_endpoint.c.endpoint_id == endpoint.c.id)
                              .where(project_endpoint.c.project_id == call.params["project_id"]).order_by(endpoint.c.id)).all()
    return {"endpoints": [show_endpoint(call, row) for row in rows], "links": link_map(call.url, call.query, None)}


def list_endpoint_projects(connection: Connection, call: Call) -> dict[str, Any]:
    """The other way round."""
    call.enforce()
    get_row(connection, endpoint, call.params["endpoint_id"], what="endpoint")
    rows = connection.execute(select(project).join(project_endpoint, project_endpoint.c.project_id == project.c.id)
                              .where(project_endpoint.c.endpoint_id == call.params["endpoint_id"]).order_by(project.c.id)).all()
    return {"projects": [show_project(call, row, []) for row in rows], "links": link_map(call.url, call.query, None)}


def list_project_groups(connection: Connection, call: Call) -> dict[str, Any]:
    """Endpoint groups of a project."""
    call.enforce()
    rows = connection.execute(select(endpoint_group).join(
        project_endpoint_group, project_endpoint_group.c.endpoint_group_id == endpoint_group.c.id)
        .where(project_endpoint_group.c.project_id == call.params["project_id"]).order_by(endpoint_group.c.id)).all()
    return {"endpoint_groups": [show_group(call, row) for row in rows], "links": link_map(call.url, call.query, None)}


_FILTER = "/v3/OS-EP-FILTER"
_MAKE_SERVICE, _SET_SERVICE = wrapped("service", properties(_SERVICE, ("type",))), wrapped("service", properties(_SERVICE))
_ANY_ENDPOINT, _ANY_REGION, _ANY_GROUP = (wrapped("endpoint", properties(_ENDPOINT)), wrapped("region", properties(_REGION)),
                                          wrapped("endpoint_group", properties(_GROUP)))
ROUTES = (
    Route("POST", "/v3/services", create_service, "identity:create_service", 201, _MAKE_SERVICE),
    Route("GET", "/v3/services", list_services, "identity:list_services"),
    Route("GET", "/v3/services/{service_id}", get_service, "identity:get_service"),
    Route("PATCH", "/v3/services/{service_id}", update_service, "identity:update_service", 200, _SET_SERVICE),
    Route("DELETE", "/v3/services/{service_id}", delete_service, "identity:delete_service", 204),
    Route("POST", "/v3/endpoints", create_endpoint, "identity:create_endpoint", 201, _ANY_ENDPOINT),
    Route("GET", "/v3/endpoints", list_endpoints, "identity:list_endpoints"),
    Route("GET", "/v3/endpoints/{endpoint_id}", get_endpoint, "identity:get_endpoint"),
    Route("PATCH", "/v3/endpoints/{endpoint_id}", update_endpoint, "identity:update_endpoint", 200, _ANY_ENDPOINT),
    Route("DELETE", "/v3/endpoints/{endpoint_id}", delete_endpoint, "identity:delete_endpoint", 204),
    Route("POST", "/v3/regions", create_region, "identity:create_region", 201, _ANY_REGION),
    Route("PUT", "/v3/regions/{region_id}", create_region, "identity:create_region", 201, _ANY_REGION),
    Route("GET", "/v3/regions", list_regions, "identity:list_regions"),
    Route("GET", "/v3/regions/{region_id}", get_region, "identity:get_region"),
    Route("PATCH", "/v3/regions/{region_id}", update_region, "identity:update_region", 200, _ANY_REGION),
    Route("DELETE", "/v3/regions/{region_id}", delete_region, "identity:delete_region", 204),
    Route("POST", _FILTER + "/endpoint_groups", create_group, "identity:create_endpoint_group", 201, _ANY_GROUP),
    Route("GET", _FILTER + "/endpoint_groups", list_groups, "identity:list_endpoint_groups"),
    Route("GET", _FILTER + "/endpoint_groups/{endpoint_group_id}", get_group, "identity:get_endpoint_group"),
    Route("PATCH", _FILTER + "/endpoint_groups/{endpoint_group_id}", update_group, "identity:update_endpoint_group", 200,
          _ANY_GROUP),
    Route("DELETE", _FILTER + "/endpoint_groups/{endpoint_group_id}", delete_group, "identity:delete_endpoint_group", 204),
    Route("GET", _FILTER + "/endpoint_groups/{endpoint_group_id}/endpoints", list_group_endpoints,
          "identity:list_endpoints_associated_with_endpoint_group"),
    Route("GET", _FILTER + "/endpoint_groups/{endpoint_group_id}/projects", list_group_projects,
          "identity:list_projects_associated_with_endpoint_group"),
    Route("PUT", _FILTER + "/endpoint_groups/{endpoint_group_id}/projects/{project_id}", tie,
          "identity:add_endpoint_group_to_project", 204),
    Route("GET", _FILTER + "/endpoint_groups/{endpoint_group_id}/projects/{project_id}", check_tie,
          "identity:get_endpoint_group_in_project"),
    Route("DELETE", _FILTER + "/endpoint_groups/{endpoint_group_id}/projects/{project_id}", untie,
          "identity:remove_endpoint_group_from_project", 204),
    Route("PUT", _FILTER + "/projects/{project_id}/endpoints/{endpoint_id}", tie, "identity:add_endpoint_to_project", 204),
    Route("GET", _FILTER + "/projects/{project_id}/endpoints/{endpoint_id}", check_tie, "identity:check_endpoint_in_project", 204),
    Route("DELETE", _FILTER + "/projects/{project_id}/endpoints/{endpoint_id}", untie, "identity:remove_endpoint_from_project",
          204),
    Route("GET", _FILTER + "/projects/{project_id}/endpoints", list_project_endpoints, "identity:list_endpoints_for_project"),
    Route("GET", _FILTER + "/projects/{project_id}/endpoint_groups", list_project_groups,
          "identity:list_endpoint_groups_for_project"),
    Route("GET", _FILTER + "/endpoints/{endpoint_id}/projects", list_endpoint_projects, "identity:list_projects_for_endpoint"),
)
