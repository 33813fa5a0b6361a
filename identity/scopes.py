"""From what a token says to what it means now: is everybody it names still there and enabled, and which roles does that leave?

Used when a token is made and whenever one is judged, so that a token never means more than one made at this moment would.
"""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Row, select

from common.errors import Unauthorized
from control.context import AccessRule, Context
from identity.base import find_row
from identity.effective import SYSTEM, effective_roles, load_graph
from identity.model import (
    access_rule,
    access_token,
    app_credential,
    app_credential_access_rule,
    app_credential_role,
    project,
    trust,
    trust_role,
    user,
)
from identity.state import Identity
from identity.tokens import TokenFacts

CONFINED = "confined"                    # an option of a project: a role of admin in it is none outside of it


@dataclass(kw_only=True)
class Meaning:
    """Everything that a token stands for, with the rows behind it. roles: id to name."""

    facts: TokenFacts
    user: Row[Any]
    user_domain: Row[Any]
    roles: dict[str, str] = field(default_factory=dict)
    project: Row[Any] | None = None
    project_domain: Row[Any] | None = None
    domain: Row[Any] | None = None
    trust: Row[Any] | None = None
    app_credential: Row[Any] | None = None
    access_rules: tuple[AccessRule, ...] | None = None
    access_token: Row[Any] | None = None

    @property
    def is_system(self) -> bool:
        """Whether the scope is the system."""
        return self.facts.scope_kind == "system"

    @property
    def ends_us(self) -> int:
        """When this is over: with the token, or before with what the token was made from."""
        made_from = (row for row in (self.trust, self.app_credential, self.access_token) if row is not None)
        return min([self.facts.expires_us, *(int(row.expires_us) for row in made_from if row.expires_us is not None)])

    def context(self) -> Context:
        """What policy and use-cases see."""
        is_confined = self.project is not None and bool(self.project.options.get(CONFINED))
        return Context(
            user_id=self.user.id, user_name=self.user.name, user_domain_id=self.user.domain_id,
            project_id=self.project.id if self.project is not None else None,
            project_name=self.project.name if self.project is not None else "",
            project_domain_id=self.project.domain_id if self.project is not None else None,
            domain_id=self.domain.id if self.domain is not None else None, is_system=self.is_system,
            roles=frozenset(name.lower() for name in self.roles.values()), is_admin_project=not is_confined,
            app_credential_id=self.facts.app_credential_id, trust_id=self.facts.trust_id,
            is_unrestricted=self.app_credential is not None and self.app_credential.unrestricted, access_rules=self.access_rules,
            token=self.facts)


def find_meaning(connection: Connection, state: Identity, facts: TokenFacts, *, grace_us: int = 0) -> Meaning:
    """What a token means at this moment. Raises `Unauthorized` with the reason for `holdfast explain`."""
    state.refresh_here(connection)
    if facts.expires_us + grace_us <= state.clock.now_us():
        raise Unauthorized().because("token.expired", user=facts.user_id)
    if state.is_revoked(facts):
        raise Unauthorized().because("token.revoked", user=facts.user_id)
    return resolve(connection, state, facts)


def resolve(connection: Connection, state: Identity, facts: TokenFacts) -> Meaning:
    """As `find_meaning`, without a look at the token's own time."""
    row, home = _enabled_user(connection, facts.user_id)
    found = Meaning(facts=facts, user=row, user_domain=home)
    if facts.scope_kind == "project":
        found.project, found.project_domain = enabled_project(connection, facts.scope_id)
    elif facts.scope_kind == "domain":
        found.domain = _enabled_domain(connection, facts.scope_id)
    if facts.trust_id is not None:
        _resolve_trust(connection, state, found, facts.trust_id)
    elif facts.app_credential_id is not None:
        _resolve_app_credential(connection, state, found, facts.app_credential_id)
    elif facts.access_token_id is not None:
        _resolve_access_token(connection, state, found, facts.access_token_id)
    elif facts.scope_kind:
        target = SYSTEM if found.is_system else facts.scope_id
        found.roles = effective_roles(connection, facts.user_id, facts.scope_kind, target)
    if facts.scope_kind and not found.roles:
        raise Unauthorized().because("token.no_role", user=facts.user_id, scope=f"{facts.scope_kind} {facts.scope_id}")
    return found


def make_meaning(connection: Connection, state: Identity, facts: TokenFacts) -> Meaning:
    """As `resolve`, for a token that is being made: it does not live longer than what it is made from."""
    found = resolve(connection, state, facts)
    found.facts = replace(facts, expires_us=found.ends_us)
    return found


def enabled_project(connection: Connection, project_id: str) -> tuple[Row[Any], Row[Any]]:
    """A project and its domain. Raises `Unauthorized` unless both are there and enabled."""
    row = find_row(connection, project, project_id)
    if row is None or row.is_domain or not row.enabled:
        raise Unauthorized().because("token.project", project=project_id, is_there=row is not None)
    return row, _enabled_domain(connection, row.domain_id)


def _enabled_user(connection: Connection, user_id: str) -> tuple[Row[Any], Row[Any]]:
    row = find_row(connection, user, user_id)
    if row is None or not row.enabled:
        raise Unauthorized().because("token.user", user=user_id, is_there=row is not None)
    return row, _enabled_domain(connection, row.domain_id)


def _enabled_domain(connection: Connection, domain_id: str) -> Row[Any]:
    row = find_row(connection, project, domain_id)
    if row is None or not row.is_domain or not row.enabled:
        raise Unauthorized().because("token.domain", domain=domain_id, is_there=row is not None)
    return row


def _resolve_trust(connection: Connection, state: Identity, found: Meaning, trust_id: str) -> None:
    """The roles of the trust that the trustor still has, and nothing else; both people have to be enabled."""
    row = living_trust(connection, state, trust_id)
    if row is None:
        raise Unauthorized().because("token.trust", trust=trust_id)
    other = row.trustee_user_id if found.facts.user_id == row.trustor_user_id else row.trustor_user_id
    _enabled_user(connection, other)
    if row.project_id != (found.project.id if found.project is not None else None):
        raise Unauthorized().because("token.trust", trust=trust_id)
    found.trust = row
    found.roles = trusted_roles(connection, row)


def living_trust(connection: Connection, state: Identity, trust_id: str) -> Row[Any] | None:
    """A trust that was not deleted and has not expired, and neither has one that it was delegated from."""
    row = first = find_row(connection, trust, trust_id)
    while row is not None:
        if row.deleted_us is not None or (row.expires_us is not None and row.expires_us <= state.clock.now_us()):
            return None
        if row.redelegated_trust_id is None:
            return first
        row = find_row(connection, trust, row.redelegated_trust_id)
    return None


def trusted_roles(connection: Connection, row: Row[Any]) -> dict[str, str]:
    """Of the roles in a trust those that its trustor has at this moment; one missing ends the trust."""
    wanted = set(connection.execute(select(trust_role.c.role_id).where(trust_role.c.trust_id == row.id)).scalars())
    graph = load_graph(connection)
    if row.project_id is None:
        return {}
    have = effective_roles(connection, row.trustor_user_id, "project", row.project_id, graph=graph)
    if not wanted <= have.keys():
        return {}
    return graph.effective(wanted)


def _resolve_app_credential(connection: Connection, state: Identity, found: Meaning, credential_id: str) -> None:
    row = find_row(connection, app_credential, credential_id)
    if row is None or row.user_id != found.facts.user_id or found.project is None or row.project_id != found.project.id:
        raise Unauthorized().because("token.app_credential", app_credential=credential_id)
    if row.expires_us is not None and row.expires_us <= state.clock.now_us():
        raise Unauthorized().because("token.app_credential", app_credential=credential_id)
    wanted = set(connection.execute(select(app_credential_role.c.role_id)
                                    .where(app_credential_role.c.app_credential_id == credential_id)).scalars())
    graph = load_graph(connection)
    have = effective_roles(connection, row.user_id, "project", row.project_id, graph=graph)
    found.app_credential = row
    found.roles = graph.effective(wanted & have.keys())
    found.access_rules = load_access_rules(connection, credential_id)


def load_access_rules(connection: Connection, credential_id: str) -> tuple[AccessRule, ...] | None:
    """None: the credential is not restricted to certain requests."""
    link = app_credential_access_rule
    rows = connection.execute(select(access_rule).join(link, link.c.access_rule_id == access_rule.c.id)
                              .where(link.c.app_credential_id == credential_id).order_by(access_rule.c.id)).all()
    return tuple(AccessRule(id=row.id, service=row.service, path=row.path, method=row.method) for row in rows) or None


def _resolve_access_token(connection: Connection, state: Identity, found: Meaning, token_id: str) -> None:
    row = find_row(connection, access_token, token_id)
    is_good = row is not None and found.project is not None and row.project_id == found.project.id
    if row is None or not is_good or row.user_id != found.facts.user_id:
        raise Unauthorized().because("token.access_token")
    if row.expires_us is not None and row.expires_us <= state.clock.now_us():
        raise Unauthorized().because("token.access_token")
    graph = load_graph(connection)
    have = effective_roles(connection, row.user_id, "project", row.project_id, graph=graph)
    found.access_token = row
    found.roles = graph.effective(set(row.role_ids["ids"]) & have.keys())
