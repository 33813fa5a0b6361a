"""/v3/projects and /v3/domains: a domain is a project that holds names of its own."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, exists, insert, not_, or_, select, update

from common.errors import BadRequest, Forbidden, NotFound
from control.app import Call
from control.listing import Listing, Query, link_map, list_rows
from control.routes import Answer, Route
from control.schema import BOOLEAN, ID_OR_NULL, TEXT, name_of, properties, wrapped
from identity.administrators import keep_an_administrator
from identity.base import (
    add_row,
    change_row,
    drop_row,
    find_row,
    free_attributes,
    get_allowed,
    merged_options,
    missing,
    new_id,
    refuse_immutable,
    same_or_absent,
)
from identity.effective import ancestors_of, effective_roles
from identity.model import (
    DEFAULT_DOMAIN,
    ROOT,
    app_credential,
    assignment,
    credential,
    group,
    project,
    project_tag,
    role,
    user,
)
from identity.privilege import is_privileged_place
from identity.state import Identity
from identity.token_api import tags_of
from identity.users import forget_user, home_domain
from identity.views import show_domain, show_project

_DEPTH_MAX, _TAGS_MAX = 5, 80
_TAG = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[^,/]*\Z"}
_TAGS = {"type": "array", "items": _TAG, "maxItems": _TAGS_MAX, "uniqueItems": True}
_OPTIONS = properties({"immutable": {"type": ["boolean", "null"]}}, is_closed=True)
_FIELDS: Mapping[str, Any] = {"name": name_of(64), "enabled": BOOLEAN, "description": TEXT, "tags": _TAGS, "options": _OPTIONS}
_PROJECT_FIELDS: Mapping[str, Any] = {**_FIELDS, "domain_id": ID_OR_NULL, "parent_id": ID_OR_NULL, "is_domain": BOOLEAN}
_KNOWN = ("name", "enabled", "description", "tags", "options", "domain_id", "parent_id", "is_domain")
_CREATE, _UPDATE = wrapped("project", properties(_PROJECT_FIELDS, ("name",))), wrapped("project", properties(_PROJECT_FIELDS))
_CREATE_DOMAIN = wrapped("domain", properties({**_FIELDS, "explicit_domain_id": {"type": "string", "pattern": r"^[0-9a-f]{32}\Z"}},
                                              ("name",)))
_UPDATE_DOMAIN = wrapped("domain", properties(_FIELDS))
_SET_TAGS = wrapped("tags", _TAGS)
LISTING = Listing(
    key=project.c.id, filters={"name": project.c.name, "domain_id": project.c.domain_id, "enabled": project.c.enabled,
                               "parent_id": project.c.parent_id, "is_domain": project.c.is_domain},
    booleans=frozenset({"enabled", "is_domain"}), sorts={"name": project.c.name, "id": project.c.id})
_DOMAINS = Listing(key=project.c.id, filters={"name": project.c.name, "enabled": project.c.enabled},
                   booleans=frozenset({"enabled"}),
                   sorts={"name": project.c.name, "id": project.c.id})


def target_of(connection: Connection, row: Row[Any] | None) -> dict[str, object]:
    """What rules may ask of a project."""
    return {} if row is None else {"target.project.id": row.id, "target.project.domain_id": row.domain_id,
                                   "target.project.parent_id": row.parent_id,
                                   "target.project.is_privileged": is_privileged_place(connection, row.id)}


def _allowed(connection: Connection, call: Call) -> Row[Any]:
    return get_allowed(connection, call, project, call.params["project_id"] or "?", what="project",
                       target=lambda row: target_of(connection, row))


def _shown(connection: Connection, call: Call, row: Row[Any]) -> dict[str, Any]:
    return {"project": show_project(call, row, tags_of(connection, [row.id]).get(row.id, []))}


# projects

def create_project(connection: Connection, call: Call) -> dict[str, Any]:
    """Below a parent of the same domain, at most five deep."""
    call.state.hold_changes(connection)
    given = call.body["project"]
    if given.get("is_domain"):
        return _create_domain_project(connection, call, given)
    parent = find_row(connection, project, given["parent_id"]) if given.get("parent_id") else None
    domain_id = given.get("domain_id") or _domain_of(parent) or home_domain(call)
    call.enforce({"target.project.domain_id": domain_id,
                  "target.project.is_privileged": parent is not None and is_privileged_place(connection, parent.id)})
    home = find_row(connection, project, domain_id)
    if home is None or not home.is_domain or not domain_id:
        raise missing("domain", domain_id)
    if given.get("parent_id") and (parent is None or parent.id == ROOT):
        raise missing("project", given["parent_id"])
    if parent is not None and _domain_of(parent) != domain_id:
        raise BadRequest(reason="A project and its parent are in the same domain.")
    if parent is not None and len(ancestors_of(connection, parent.id)[0]) + 1 >= _DEPTH_MAX and not parent.is_domain:
        raise Forbidden(reason=f"Projects may be nested at most {_DEPTH_MAX} deep.")
    row = _add(connection, given, domain_id=domain_id, parent_id=parent.id if parent is not None else domain_id, is_domain=False)
    call.state.change(connection)            # roles inherited from above count in it at once, at the gateways too
    return _shown(connection, call, row)


def _domain_of(row: Row[Any] | None) -> str | None:
    return None if row is None else row.id if row.is_domain else row.domain_id


def _add(connection: Connection, given: Mapping[str, Any], *, domain_id: str, parent_id: str, is_domain: bool,
         row_id: str | None = None) -> Row[Any]:
    row = add_row(connection, project, what="domain" if is_domain else "project", id=row_id or new_id(), name=given["name"],
                  domain_id=domain_id, parent_id=parent_id, is_domain=is_domain, enabled=given.get("enabled", True),
                  description=given.get("description"), options=merged_options({}, given.get("options")),
                  extra=free_attributes(given, (*_KNOWN, "explicit_domain_id")))
    _set_tags(connection, row.id, given.get("tags", ()))
    return row


def _create_domain_project(connection: Connection, call: Call, given: Mapping[str, Any]) -> dict[str, Any]:
    """A project that acts as a domain is a domain."""
    if given.get("domain_id") or given.get("parent_id"):
        raise BadRequest(reason="A project that acts as a domain is in no domain and has no parent.")
    call.enforce(rule="identity:create_domain")
    return _shown(connection, call, _add(connection, given, domain_id=ROOT, parent_id=ROOT, is_domain=True))


def list_projects(connection: Connection, call: Call) -> dict[str, Any]:
    """Domains are listed only when they are asked for."""
    statement = select(project).where(project.c.id != ROOT)
    if call.context.domain_id and not call.may(rule="rule_all_readers"):
        call.enforce({"target.domain_id": call.context.domain_id})
        statement = statement.where(project.c.domain_id == call.context.domain_id)
    else:
        call.enforce()
    if not any(name == "is_domain" for name, _ in call.query):
        statement = statement.where(project.c.is_domain.is_(False))
    rows, marker = list_rows(connection, _with_tags(statement, call.query), LISTING, call.query)
    tags = tags_of(connection, [row.id for row in rows])
    return {"projects": [show_project(call, row, tags.get(row.id, [])) for row in rows],
            "links": link_map(call.url, call.query, marker)}


def _with_tags(statement: Select[Any], query: Query) -> Select[Any]:
    """tags: all of them; tags-any: one of them; not-tags, not-tags-any: the opposite."""
    for name, value in query:
        if name not in ("tags", "tags-any", "not-tags", "not-tags-any"):
            continue
        has = [exists().where(project_tag.c.project_id == project.c.id, project_tag.c.tag == tag) for tag in value.split(",")]
        match name:
            case "tags":
                statement = statement.where(*has)
            case "tags-any":
                statement = statement.where(or_(*has))
            case "not-tags":
                statement = statement.where(or_(*(not_(one) for one in has)))
            case _:
                statement = statement.where(*(not_(one) for one in has))
    return statement


def get_project(connection: Connection, call: Call) -> dict[str, Any]:
    """With parents and subtree if asked for."""
    row = _allowed(connection, call)
    shown = _shown(connection, call, row)
    names = {name for name, _ in call.query}
    if ("parents_as_list" in names and "parents_as_ids" in names) or ("subtree_as_list" in names and "subtree_as_ids" in names):
        raise BadRequest(reason="Ask for a list or for ids, not for both.")
    above = [one for one in (find_row(connection, project, one) for one in ancestors_of(connection, row.id)[0]) if one is not None]
    if "parents_as_list" in names:
        shown["project"]["parents"] = [_shown(connection, call, one) for one in above if _has_role(connection, call, one.id)]
    if "parents_as_ids" in names:
        shown["project"]["parents"] = _nested([one.id for one in above] + [row.domain_id]) if not row.is_domain else None
    if "subtree_as_list" in names:
        shown["project"]["subtree"] = [_shown(connection, call, one) for one in subtree_of(connection, row.id)
                                       if _has_role(connection, call, one.id)]
    if "subtree_as_ids" in names:
        shown["project"]["subtree"] = _tree(subtree_of(connection, row.id), row.id)
    return shown


def _has_role(connection: Connection, call: Call, project_id: str) -> bool:
    return bool(effective_roles(connection, call.context.user_id, "project", project_id))


def _nested(ids: Iterable[str]) -> dict[str, Any] | None:
    out: dict[str, Any] | None = None
    for one in reversed(list(ids)):
        out = {one: out}
    return out


def _tree(rows: list[Row[Any]], root: str) -> dict[str, Any] | None:
    return {row.id: _tree(rows, row.id) for row in rows if row.parent_id == root} or None


def subtree_of(connection: Connection, project_id: str) -> list[Row[Any]]:
    """Every project below, level by level."""
    out: list[Row[Any]] = []
    level = [project_id]
    while level:
        rows = list(connection.execute(select(project).where(project.c.parent_id.in_(level), project.c.is_domain.is_(False))).all())
        out += rows
        level = [row.id for row in rows]
    return out


def update_project(connection: Connection, call: Call) -> dict[str, Any]:
    """Name, description, enabled, tags; where it stands is for life."""
    call.state.hold_changes(connection)
    row, given = _allowed(connection, call), call.body["project"]
    for name, have in (("domain_id", None if row.is_domain else row.domain_id),
                       ("parent_id", None if row.is_domain else row.parent_id),
                       ("is_domain", row.is_domain)):
        same_or_absent(given, name, have)
    if row.is_domain:
        call.enforce({"target.domain.id": row.id}, rule="identity:update_domain")
    return _shown(connection, call, _change(connection, call.state, row, given))


def _change(connection: Connection, state: Identity, row: Row[Any], given: Mapping[str, Any]) -> Row[Any]:
    """Of a project or a domain, by whichever path it was named."""
    refuse_immutable("resource", row.options, given)
    is_ending = given.get("enabled") is False
    if is_ending and row.id in (DEFAULT_DOMAIN, ROOT):
        raise Forbidden(reason="The default domain cannot be disabled: nobody could log in to enable it.")
    with keep_an_administrator(connection, is_risk=is_ending):
        return _apply(connection, state, row, given)


def _apply(connection: Connection, state: Identity, row: Row[Any], given: Mapping[str, Any]) -> Row[Any]:
    values: dict[str, Any] = {name: given[name] for name in ("name", "enabled", "description") if name in given}
    if "options" in given:
        values["options"] = merged_options(row.options, given["options"])
    if given.keys() - _KNOWN:
        values["extra"] = free_attributes(given, _KNOWN, row.extra)
    if given.get("enabled") is False and row.enabled:
        if not row.is_domain and any(one.enabled for one in subtree_of(connection, row.id)):
            raise Forbidden(reason="A project cannot be disabled while one below it is enabled.")
        _revoke(connection, state, row)
    else:
        state.change(connection)
    changed = change_row(connection, project, row.id, values, what="domain" if row.is_domain else "project")
    if "tags" in given:
        _set_tags(connection, row.id, given["tags"])
    return changed


def _revoke(connection: Connection, state: Identity, row: Row[Any]) -> None:
    """Tokens for a project or domain, and those of users at home in the domain."""
    state.revoke(connection, "domain" if row.is_domain else "project", row.id)
    if row.is_domain:
        for user_id in connection.execute(select(user.c.id).where(user.c.domain_id == row.id)).scalars().all():
            state.revoke(connection, "user", user_id)
        for project_id in connection.execute(select(project.c.id).where(project.c.domain_id == row.id)).scalars().all():
            state.revoke(connection, "project", project_id)


def delete_project(connection: Connection, call: Call) -> None:
    """Only one without projects below it."""
    call.state.hold_changes(connection)
    row = _allowed(connection, call)
    if row.is_domain:
        call.enforce({"target.domain.id": row.id}, rule="identity:delete_domain")
        _end_domain(connection, call.state, row)
        return
    refuse_immutable("resource", row.options, None)
    if subtree_of(connection, row.id):
        raise Forbidden(reason="A project that has others below it cannot be deleted.")
    with keep_an_administrator(connection):
        _forget_project(connection, call.state, row)


def _forget_project(connection: Connection, state: Identity, row: Row[Any]) -> None:
    _revoke(connection, state, row)
    connection.execute(delete(assignment).where(assignment.c.target_kind == "project", assignment.c.target_id == row.id))
    connection.execute(delete(credential).where(credential.c.project_id == row.id))
    connection.execute(delete(app_credential).where(app_credential.c.project_id == row.id))
    connection.execute(update(user).where(user.c.default_project_id == row.id).values(default_project_id=None))
    drop_row(connection, project, row.id, what="project")


# tags

def _set_tags(connection: Connection, project_id: str, tags: Iterable[str]) -> None:
    connection.execute(delete(project_tag).where(project_tag.c.project_id == project_id))
    rows = [{"project_id": project_id, "tag": tag} for tag in sorted(set(tags))]
    if rows:
        connection.execute(insert(project_tag), rows)


def _taggable(connection: Connection, call: Call) -> Row[Any]:
    call.state.hold_changes(connection)
    row = _allowed(connection, call)
    refuse_immutable("resource", row.options, None)
    return row


def list_tags(connection: Connection, call: Call) -> dict[str, Any]:
    """Sorted."""
    row = _allowed(connection, call)
    return {"tags": tags_of(connection, [row.id]).get(row.id, []), "links": link_map(call.url, call.query, None)}


def set_tags(connection: Connection, call: Call) -> dict[str, Any]:
    """These instead of all."""
    row = _taggable(connection, call)
    _set_tags(connection, row.id, call.body["tags"])
    return list_tags(connection, call)


def check_tag(connection: Connection, call: Call) -> Answer:
    """204 if the project has it."""
    row = _allowed(connection, call)
    if call.params["tag"] not in tags_of(connection, [row.id]).get(row.id, []):
        raise missing("project tag", call.params["tag"])
    return Answer(status=204)


def add_tag(connection: Connection, call: Call) -> Answer:
    """One more."""
    row, tag = _taggable(connection, call), call.params["tag"]
    tags = set(tags_of(connection, [row.id]).get(row.id, []))
    if len(tag) > 255 or "," in tag or "/" in tag or len(tags | {tag}) > _TAGS_MAX:
        raise BadRequest(reason=f"A tag has no comma, no slash and at most 255 characters; a project has at most {_TAGS_MAX}.")
    _set_tags(connection, row.id, tags | {tag})
    return Answer(status=201, headers={"Location": call.url})


def delete_tag(connection: Connection, call: Call) -> None:
    """One less."""
    row, tag = _taggable(connection, call), call.params["tag"]
    gone = connection.execute(delete(project_tag).where(project_tag.c.project_id == row.id, project_tag.c.tag == tag))
    if not gone.rowcount:
        raise missing("project tag", tag)


def delete_tags(connection: Connection, call: Call) -> None:
    """None left."""
    _set_tags(connection, _taggable(connection, call).id, ())


# domains

def _domain(connection: Connection, call: Call) -> Row[Any]:
    domain_id = call.params["domain_id"]
    row = find_row(connection, project, domain_id) if domain_id else None
    row = row if row is not None and row.is_domain else None
    call.enforce({"target.domain.id": row.id} if row is not None else None)
    if row is None:
        raise missing("domain", domain_id)
    return row


def _shown_domain(connection: Connection, call: Call, row: Row[Any]) -> dict[str, Any]:
    return {"domain": show_domain(call, row, tags_of(connection, [row.id]).get(row.id, []))}


def create_domain(connection: Connection, call: Call) -> dict[str, Any]:
    """Names of its own for projects, users, groups."""
    call.enforce()
    given = call.body["domain"]
    row = _add(connection, given, domain_id=ROOT, parent_id=ROOT, is_domain=True, row_id=given.get("explicit_domain_id"))
    return _shown_domain(connection, call, row)


def list_domains(connection: Connection, call: Call) -> dict[str, Any]:
    """All, or the one of a caller whose scope is a domain."""
    statement = select(project).where(project.c.is_domain.is_(True), project.c.id != ROOT)
    if call.context.domain_id and not call.may(rule="rule_all_readers"):
        call.enforce({"target.domain_id": call.context.domain_id})
        statement = statement.where(project.c.id == call.context.domain_id)
    else:
        call.enforce()
    rows, marker = list_rows(connection, statement, _DOMAINS, call.query)
    return {"domains": [show_domain(call, row, []) for row in rows], "links": link_map(call.url, call.query, marker)}


def get_domain(connection: Connection, call: Call) -> dict[str, Any]:
    """One."""
    return _shown_domain(connection, call, _domain(connection, call))


def update_domain(connection: Connection, call: Call) -> dict[str, Any]:
    """A disabled domain disables everybody in it."""
    call.state.hold_changes(connection)
    row = _domain(connection, call)
    return _shown_domain(connection, call, _change(connection, call.state, row, call.body["domain"]))


def delete_domain(connection: Connection, call: Call) -> None:
    """With all that is in it; it has to be disabled first."""
    call.state.hold_changes(connection)
    _end_domain(connection, call.state, _domain(connection, call))


def _end_domain(connection: Connection, state: Identity, row: Row[Any]) -> None:
    """By whichever path it was named."""
    refuse_immutable("resource", row.options, None)
    if row.id in (DEFAULT_DOMAIN, ROOT):
        raise Forbidden(reason="The default domain cannot be deleted.")
    if row.enabled:
        raise Forbidden(reason="A domain has to be disabled before it is deleted.")
    with keep_an_administrator(connection):
        _forget_domain(connection, state, row)


def _forget_domain(connection: Connection, state: Identity, row: Row[Any]) -> None:
    for user_id in connection.execute(select(user.c.id).where(user.c.domain_id == row.id)).scalars().all():
        forget_user(connection, state, user_id)
    for group_id in connection.execute(select(group.c.id).where(group.c.domain_id == row.id)).scalars().all():
        connection.execute(delete(assignment).where(assignment.c.actor_kind == "group", assignment.c.actor_id == group_id))
        drop_row(connection, group, group_id, what="group")
    for one in reversed(subtree_of(connection, row.id)):
        _forget_project(connection, state, one)
    connection.execute(delete(role).where(role.c.domain_id == row.id))
    connection.execute(delete(assignment).where(assignment.c.target_kind == "domain", assignment.c.target_id == row.id))
    state.revoke(connection, "domain", row.id)
    drop_row(connection, project, row.id, what="domain")


def not_found_project(row_id: str) -> NotFound:
    """For other modules."""
    return missing("project", row_id)


ROUTES = (
    Route("POST", "/v3/projects", create_project, "identity:create_project", 201, _CREATE),
    Route("GET", "/v3/projects", list_projects, "identity:list_projects"),
    Route("GET", "/v3/projects/{project_id}", get_project, "identity:get_project"),
    Route("PATCH", "/v3/projects/{project_id}", update_project, "identity:update_project", 200, _UPDATE),
    Route("DELETE", "/v3/projects/{project_id}", delete_project, "identity:delete_project", 204),
    Route("GET", "/v3/projects/{project_id}/tags", list_tags, "identity:list_project_tags"),
    Route("PUT", "/v3/projects/{project_id}/tags", set_tags, "identity:update_project_tags", 200, _SET_TAGS),
    Route("DELETE", "/v3/projects/{project_id}/tags", delete_tags, "identity:delete_project_tags", 204),
    Route("GET", "/v3/projects/{project_id}/tags/{tag}", check_tag, "identity:get_project_tag", 204),
    Route("PUT", "/v3/projects/{project_id}/tags/{tag}", add_tag, "identity:create_project_tag", 201),
    Route("DELETE", "/v3/projects/{project_id}/tags/{tag}", delete_tag, "identity:delete_project_tag", 204),
    Route("POST", "/v3/domains", create_domain, "identity:create_domain", 201, _CREATE_DOMAIN),
    Route("GET", "/v3/domains", list_domains, "identity:list_domains"),
    Route("GET", "/v3/domains/{domain_id}", get_domain, "identity:get_domain"),
    Route("PATCH", "/v3/domains/{domain_id}", update_domain, "identity:update_domain", 200, _UPDATE_DOMAIN),
    Route("DELETE", "/v3/domains/{domain_id}", delete_domain, "identity:delete_domain", 204),
)
