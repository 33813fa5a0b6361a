"""/v3/auth/...: judging, showing and ending tokens, and what a caller could ask a token for."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, select

from common.errors import Forbidden, NotFound, Unauthorized
from control.app import Call
from control.context import Context
from control.listing import link_map, parse_boolean
from control.routes import Answer, Route
from control.times import format_time
from identity.base import rows_among
from identity.delegation import refuse_handed_out
from identity.effective import reachable
from identity.login import LOGIN, issue_token, token_catalog, wants_catalog
from identity.model import ROOT, project, project_tag, revocation
from identity.scopes import Meaning, find_meaning
from identity.state import Identity
from identity.tokens import TokenFacts, decode_token
from identity.views import show_domain, show_project, show_token

_GRACE_US = 172_800 * 1_000_000          # for services that finish what a user began


class LocalTokens:
    """What a token means, asked in the process that is identity itself. Budget: a decryption, 15 us, for one seen before."""

    def __init__(self, state: Identity) -> None:
        self._state = state

    async def authenticate(self, token: str, service_token: str | None) -> Context:
        """Raises `Unauthorized`."""
        context = await self._context(token)
        if service_token is None:
            return context
        try:
            service = await self._context(service_token)
        except Unauthorized:
            return context
        return replace(context, service_roles=service.roles)

    async def _context(self, token: str) -> Context:
        state = self._state
        known = state.known(token)
        if known is not None:
            return known
        keys = state.keys.texts
        facts = decode_token(token, state.keys)
        generation, found = await state.database.read(self._find, facts)
        context = found.context()
        state.remember(token, context, generation=generation, expires_us=found.ends_us, keys=keys)
        return context

    def _find(self, connection: Connection, facts: TokenFacts) -> tuple[int, Meaning]:
        generation = self._state.refresh_here(connection)
        return generation, find_meaning(connection, self._state, facts)


async def validate(call: Call) -> Answer:
    """GET, HEAD: 404 for a token that is no good, whatever is wrong with it."""
    found = await _subject(call)
    catalog = await call.read(lambda connection, _: token_catalog(connection, call, found)) if wants_catalog(call) else None
    return Answer(body=show_token(found, catalog=catalog))


async def revoke(call: Call) -> None:
    """DELETE: its tokens, by its audit id."""
    found = await _subject(call)
    state: Identity = call.state
    own = call.context.token
    assert isinstance(own, TokenFacts)
    if own.audit_ids[0] != found.facts.audit_ids[0]:
        refuse_handed_out(call)                  # such a token may end itself, no other one of its user
    await call.run(lambda connection, _: state.revoke(connection, "audit", found.facts.audit_ids[0]))


async def _subject(call: Call) -> Meaning:
    """The token in X-Subject-Token, if this caller may ask about it. Raises `NotFound`, `Forbidden`."""
    state: Identity = call.state
    text = call.headers.get("X-Subject-Token", "")
    allows_expired = any(name == "allow_expired" and parse_boolean(value, name) for name, value in call.query)
    grace_us = _GRACE_US if allows_expired and call.may(rule="service_role") else 0
    try:
        facts = decode_token(text, state.keys)
        found: Meaning = await call.read(lambda connection, _: find_meaning(connection, state, facts, grace_us=grace_us))
    except Unauthorized as error:
        call.is_enforced = True
        raise NotFound(what="token", reason="Could not find token.").after(error) from error
    call.enforce({"target.token.user_id": found.user.id})
    return found


def auth_catalog(connection: Connection, call: Call) -> dict[str, Any]:
    """The catalog of the token that asks."""
    facts = call.context.token
    assert isinstance(facts, TokenFacts)
    if not facts.scope_kind:
        raise Forbidden(reason="The token is not scoped, so there is no catalog for it.")
    found = find_meaning(connection, call.state, facts)
    return {"catalog": token_catalog(connection, call, found), "links": link_map(call.url, call.query, None)}


def auth_projects(connection: Connection, call: Call) -> dict[str, Any]:
    """Where the caller could take a token to."""
    projects, _, _ = reachable(connection, call.context.user_id)
    home = project.alias()
    enabled = select(project).join(home, home.c.id == project.c.domain_id).where(
        project.c.enabled.is_(True), project.c.is_domain.is_(False), home.c.enabled.is_(True))
    rows = rows_among(connection, enabled, project.c.id, projects)
    tags = tags_of(connection, [row.id for row in rows])
    return {"projects": [show_project(call, row, tags.get(row.id, [])) for row in rows],
            "links": link_map(call.url, call.query, None)}


def auth_domains(connection: Connection, call: Call) -> dict[str, Any]:
    """As `auth_projects`."""
    _, domains, _ = reachable(connection, call.context.user_id)
    rows = connection.execute(select(project).where(project.c.id.in_(domains), project.c.enabled.is_(True), project.c.id != ROOT)
                              .order_by(project.c.id)).all()
    return {"domains": [show_domain(call, row, []) for row in rows], "links": link_map(call.url, call.query, None)}


def auth_system(connection: Connection, call: Call) -> dict[str, Any]:
    """As `auth_projects`."""
    *_, has_system = reachable(connection, call.context.user_id)
    return {"system": [{"all": True}] if has_system else [], "links": link_map(call.url, call.query, None)}


def list_revocations(connection: Connection, call: Call) -> dict[str, Any]:
    """OS-REVOKE: what ended tokens before their time."""
    call.enforce()
    names = {"user": "user_id", "project": "project_id", "domain": "domain_id", "audit": "audit_id",
             "chain": "audit_chain_id", "trust": "OS-TRUST:trust_id", "access_token": "OS-OAUTH1:access_token_id",
             "app_credential": "application_credential_id"}
    rows = connection.execute(select(revocation).order_by(revocation.c.number)).all()
    return {"events": [{names[row.kind]: row.value, "issued_before": format_time(row.revoked_us),
                        "revoked_at": format_time(row.revoked_us)} for row in rows], "links": link_map(call.url, call.query, None)}


def tags_of(connection: Connection, project_ids: list[str]) -> dict[str, list[str]]:
    """By project, sorted."""
    out: dict[str, list[str]] = {}
    for begin in range(0, len(project_ids), 500):
        rows = connection.execute(select(project_tag).where(project_tag.c.project_id.in_(project_ids[begin:begin + 500]))
                                  .order_by(project_tag.c.tag))
        for row in rows:
            out.setdefault(row.project_id, []).append(row.tag)
    return out


ROUTES = (
    Route("POST", "/v3/auth/tokens", issue_token, None, 201, LOGIN, needs_token=False),
    Route("GET", "/v3/auth/tokens", validate, "identity:validate_token"),
    Route("HEAD", "/v3/auth/tokens", validate, "identity:check_token"),
    Route("DELETE", "/v3/auth/tokens", revoke, "identity:revoke_token", 204),
    Route("GET", "/v3/auth/catalog", auth_catalog),
    Route("GET", "/v3/auth/projects", auth_projects),
    Route("GET", "/v3/auth/domains", auth_domains),
    Route("GET", "/v3/auth/system", auth_system),
    Route("GET", "/v3/OS-REVOKE/events", list_revocations, "identity:list_revoke_events"),
)
