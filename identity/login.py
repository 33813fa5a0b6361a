"""POST /v3/auth/tokens: who are you, and what for?

A login has three steps: read what the request names, in a transaction; check secrets, outside of any, in the pool of
`identity/passwords.py`; make the token, in a second transaction that looks again whether what was checked still stands.
Whatever is wrong, the answer is the same 401; the reason is kept for `holdfast explain`.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, and_, case, literal, select, update

from common.errors import BadRequest, Forbidden, NotFound, Unauthorized
from control.app import Call
from control.routes import Answer
from control.schema import BodySchema
from identity.administrators import rules_of
from identity.base import find_row
from identity.catalog import make_catalog
from identity.effective import effective_roles
from identity.model import app_credential, credential, project, trust, user
from identity.oauth import check_access_signature
from identity.scopes import Meaning, find_meaning, living_trust, make_meaning
from identity.state import Identity
from identity.tokens import TokenFacts, decode_token, encode_token, new_audit_id
from identity.totp import matching_step, use_step
from identity.views import show_token

METHODS = ("password", "token", "application_credential", "totp", "oauth1")
_NAMED = {"type": "object", "properties": {"id": {"type": "string"}, "name": {"type": "string"}}}
_IN_DOMAIN = {"type": "object", "properties": {"id": {"type": "string"}, "name": {"type": "string"}, "domain": _NAMED}}
_USER = {**_IN_DOMAIN, "properties": {**_IN_DOMAIN["properties"], "password": {"type": "string"},  # type: ignore[dict-item]
                                      "passcode": {"type": "string"}}}
_OF_USER = {"type": "object", "properties": {"user": _USER}, "required": ["user"]}
LOGIN = BodySchema({"type": "object", "required": ["auth"], "properties": {"auth": {
    "type": "object", "required": ["identity"], "properties": {
        "identity": {"type": "object", "required": ["methods"], "properties": {
            "methods": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 8},
            "password": _OF_USER, "totp": _OF_USER,
            "token": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
            "application_credential": {"type": "object", "required": ["secret"], "properties": {
                "id": {"type": "string"}, "name": {"type": "string"}, "secret": {"type": "string"}, "user": _USER}}}},
        "scope": {"oneOf": [{"type": "string"}, {"type": "object", "properties": {
            "project": _IN_DOMAIN, "domain": _NAMED, "system": {"type": "object"}, "unscoped": {"type": "object"},
            "OS-TRUST:trust": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}}}]}}}}})


@dataclass(kw_only=True)
class Proof:
    """What the methods of a request have shown so far. before: the token that it was made from, if one was."""

    user_id: str | None = None
    methods: list[str] = field(default_factory=list)
    before: TokenFacts | None = None
    password_hash: str | None = None                 # the one that was checked: it has to be in place still
    app_credential: Row[Any] | None = None
    access_token: Row[Any] | None = None
    totp: tuple[str, int] | None = None              # credential and time step, which works once
    tried: dict[str, Row[Any]] = field(default_factory=dict)     # users, by id, whose password or passcode was tried
    places: list[str] = field(default_factory=list)              # users of whom a place of `identity/attempts.py` is held
    is_proven: bool = False                          # all factors are right; the scope may still be refused

    def is_user(self, user_id: str) -> None:
        """Every method has to name the same user. Raises `Unauthorized`."""
        if self.user_id not in (None, user_id):
            raise Unauthorized().because("login.users_differ")
        self.user_id = user_id


async def issue_token(call: Call) -> Answer:
    """The operation. Raises `Unauthorized`, `BadRequest`, `Forbidden`, `Overloaded`."""
    refuse_plain(call)
    proof, state = Proof(), call.state
    try:
        found, catalog = await _login(call, proof)
    except (Unauthorized, Forbidden, NotFound, BadRequest):
        if not proof.is_proven and proof.tried:
            await call.run(lambda connection, _: _count_failures(connection, state, proof))
        raise
    finally:
        for user_id in proof.places:
            state.attempts.end(user_id)
    headers = {"X-Subject-Token": encode_token(found.facts, state.keys)}
    return Answer(body=show_token(found, catalog=catalog), headers=headers)


async def _login(call: Call, proof: Proof) -> tuple[Meaning, list[dict[str, Any]] | None]:
    """The methods one after the other, then the token and its catalog."""
    identity = call.body["auth"]["identity"]
    for method in dict.fromkeys(identity["methods"]):
        if method not in METHODS:
            raise Unauthorized().because("login.method", method=method[:64])
        given = identity.get(method)
        if given is None and method != "oauth1":
            raise BadRequest(reason=f"Expecting to find {method} in identity.")
        await _CHECKS[method](call, given, proof)
        proof.methods.append(method)
    scope = call.body["auth"].get("scope")
    writes = proof.totp is not None or any(row.failed_count for row in proof.tried.values()) or (
        isinstance(scope, Mapping) and "OS-TRUST:trust" in scope)
    made: tuple[Meaning, list[dict[str, Any]] | None] = await (call.run if writes else call.read)(
        lambda connection, _: _make_shown(connection, call, proof))
    return made


def _make_shown(connection: Connection, call: Call, proof: Proof) -> tuple[Meaning, list[dict[str, Any]] | None]:
    """A token and its catalog, in one transaction."""
    check_factors(connection, proof)
    found = _make(connection, call, proof)
    _forget_failures(connection, proof)
    return found, token_catalog(connection, call, found) if wants_catalog(call) else None


def refuse_plain(call: Call) -> None:
    """No secret is taken over a connection that anybody can read. Raises `Forbidden`."""
    if call.state.refuses_plain_logins:
        reason = "Logins are refused here: this listener can be reached from outside and does not speak TLS."
        raise Forbidden(reason=reason).because("login.plain")


def wants_catalog(call: Call) -> bool:
    """Unless it says ?nocatalog."""
    return not any(name == "nocatalog" for name, _ in call.query)


def token_catalog(connection: Connection, call: Call, found: Meaning) -> list[dict[str, Any]]:
    """The catalog of a token; [] for an unscoped one."""
    if not found.facts.scope_kind:
        return []
    host = call.base.partition("://")[2].partition("/")[0]
    return make_catalog(connection, call.state, project_id=found.project.id if found.project is not None else None,
                        user_id=found.user.id, host=host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host)


def check_factors(connection: Connection, proof: Proof) -> None:
    """Of a user with rules for several factors one rule has to be met. Raises `Unauthorized`."""
    row = find_row(connection, user, proof.user_id)
    rules = rules_of(row.options) if row is not None else []
    if row is None or not rules:
        return
    shown = {*proof.methods, *(proof.before.methods if proof.before is not None else ())}
    if proof.app_credential is None and not any(set(rule) <= shown for rule in rules):
        raise Unauthorized().because("login.factors", user=row.id)


# methods

async def _check_password(call: Call, given: Mapping[str, Any], proof: Proof) -> None:
    state: Identity = call.state
    password = given["user"].get("password")
    if not isinstance(password, str):
        raise BadRequest(reason="Expecting to find password in user.")
    row = await _begin_try(call, given["user"], proof)
    row = await _judge_password(call, row, password)
    proof.is_user(row.id)
    _refuse_expired(state, row, proof)
    proof.password_hash = row.password_hash


async def _begin_try(call: Call, given: Mapping[str, Any], proof: Proof) -> Row[Any] | None:
    """The user that a method names, whose secret is tried next. Raises `Unauthorized`, `Overloaded`, `BadRequest`.

    A login holds a place of one user: with places of two it could wait for another login that holds them the other way round.
    """
    state: Identity = call.state
    row: Row[Any] | None = await call.read(lambda connection, _: find_user(connection, given))
    if row is None or row.id in proof.places:
        return row
    if proof.places:
        raise Unauthorized().because("login.users_differ")
    row = await _take_place(call, row.id)
    if row is not None:
        proof.places.append(row.id)
        if not _is_locked(state, row):
            proof.tried[row.id] = row
    return row


async def _take_place(call: Call, user_id: str) -> Row[Any] | None:
    """The user as it is now that there is a place to try a secret; without a place, None, if it has just been deleted."""
    state: Identity = call.state
    row: Row[Any] | None = await state.attempts.begin(
        user_id, lambda: call.read(lambda connection, _: find_row(connection, user, user_id)),
        lambda found: _failures_left(state, found))
    if row is None:
        state.attempts.end(user_id)
    return row


async def verify_password(call: Call, user_id: str, password: str) -> Row[Any]:
    """For a change of the password: the user. Counts what is wrong; an expired one will do. Raises `Unauthorized`, `Overloaded`.

    One that is right takes no failure back: it may be one of two factors, and the other one is not asked for here.
    """
    state: Identity = call.state
    row = await _take_place(call, user_id)
    try:
        return await _judge_password(call, row, password)
    except Unauthorized:
        if row is not None and not _is_locked(state, row):
            await call.run(lambda connection, _: _count_failure(connection, state, row))
        raise
    finally:
        if row is not None:
            state.attempts.end(row.id)


async def _judge_password(call: Call, row: Row[Any] | None, password: str) -> Row[Any]:
    """The row. Raises `Unauthorized`, the same for nobody, a locked user, a wrong word. All take as long."""
    state: Identity = call.state
    is_locked = row is not None and _is_locked(state, row)
    is_right = await state.passwords.is_right(password, row.password_hash if row is not None else None, peer=call.peer)
    if row is None:
        raise Unauthorized().because("login.unknown_user")
    if is_locked:
        raise Unauthorized().because("login.locked", user=row.id, failures=row.failed_count)
    if not is_right:
        raise Unauthorized().because("login.wrong_password", user=row.id)
    return row


def _refuse_expired(state: Identity, row: Row[Any], proof: Proof) -> None:
    """Raises `Unauthorized`, which says why and is no failure: the user has to be able to change the password."""
    is_expired = row.password_expires_us is not None and row.password_expires_us <= state.clock.now_us()
    if is_expired or row.must_change_password:
        proof.tried.pop(row.id)
    if is_expired:
        raise Unauthorized(reason="The password is expired and needs to be changed for user: " + row.id).because("login.expired")
    if row.must_change_password:
        raise Unauthorized(reason="The password must be changed before it is used, user: " + row.id).because("login.must_change")


def _forget_failures(connection: Connection, proof: Proof) -> None:
    """Once all that was asked for is right. Not for a delegated login: it asks for no second factor."""
    if proof.app_credential is not None or proof.access_token is not None:
        return
    for row in proof.tried.values():
        if row.failed_count:
            connection.execute(update(user).where(user.c.id == row.id).values(failed_count=0, failed_us=None))


def _is_locked(state: Identity, row: Row[Any]) -> bool:
    config = state.config
    if not config.lockout_failures or row.options.get("ignore_lockout_failure_attempts"):
        return False
    until_us = (row.failed_us or 0) + config.lockout_s * 1_000_000
    return bool(row.failed_count >= config.lockout_failures and until_us > state.clock.now_us())


def _failures_left(state: Identity, row: Row[Any] | None) -> int | None:
    """Before the user is locked out. None: never, or there is nothing to be tried."""
    config = state.config
    if row is None or not config.lockout_failures or row.options.get("ignore_lockout_failure_attempts") or _is_locked(state, row):
        return None
    return config.lockout_failures - row.failed_count if row.failed_count < config.lockout_failures else config.lockout_failures


def _count_failures(connection: Connection, state: Identity, proof: Proof) -> None:
    """A login that failed is one failure of everybody whose secret it tried."""
    for row in proof.tried.values():
        _count_failure(connection, state, row)


def _count_failure(connection: Connection, state: Identity, row: Row[Any]) -> None:
    """One more, counted in the database so that many at once are not counted as one."""
    now_us, config = state.clock.now_us(), state.config
    begins_again = and_(user.c.failed_us <= now_us - config.lockout_s * 1_000_000, user.c.failed_count >= config.lockout_failures,
                        literal(config.lockout_failures > 0))
    count = case((begins_again, 1), else_=user.c.failed_count + 1)
    connection.execute(update(user).where(user.c.id == row.id).values(failed_count=count, failed_us=now_us))


async def _check_token(call: Call, given: Mapping[str, Any], proof: Proof) -> None:
    state: Identity = call.state
    try:
        facts = decode_token(given["id"], state.keys)
        found: Meaning = await call.read(lambda connection, _: find_meaning(connection, state, facts))
    except Unauthorized as error:
        raise NotFound(what="token", reason="Could not find token.").after(error) from error
    if facts.app_credential_id is not None or facts.access_token_id is not None or "ec2credential" in facts.methods:
        raise Forbidden(reason="A token of an application credential, an access token or an S3 key cannot be exchanged.").because(
            "login.rescope")
    proof.is_user(found.user.id)
    proof.before = facts


async def _check_app_credential(call: Call, given: Mapping[str, Any], proof: Proof) -> None:
    row, owner = await call.read(lambda connection, _: _find_app_credential(connection, given))
    state: Identity = call.state
    is_right = await state.passwords.is_right(given["secret"], row.secret_hash if row is not None else None, peer=call.peer)
    if row is None or owner is None or not is_right:
        raise Unauthorized().because("login.app_credential", is_there=row is not None)
    proof.is_user(owner.id)
    proof.app_credential = row


def _find_app_credential(connection: Connection, given: Mapping[str, Any]) -> tuple[Row[Any] | None, Row[Any] | None]:
    if "id" in given:
        row = find_row(connection, app_credential, given["id"])
        return row, find_row(connection, user, row.user_id) if row is not None else None
    if "name" not in given or "user" not in given:
        raise BadRequest(reason="An application credential is named by id, or by name and user.")
    owner = find_user(connection, given["user"])
    if owner is None:
        return None, None
    return connection.execute(select(app_credential).where(
        app_credential.c.user_id == owner.id, app_credential.c.name == given["name"])).first(), owner


async def _check_totp(call: Call, given: Mapping[str, Any], proof: Proof) -> None:
    state: Identity = call.state
    passcode = str(given["user"].get("passcode", ""))
    row = await _begin_try(call, given["user"], proof)
    user_id = row.id if row is not None else ""
    rows = await call.read(lambda connection, _: connection.execute(
        select(credential.c.id, credential.c.sealed).where(credential.c.user_id == user_id, credential.c.type == "totp")).all())
    matching: tuple[str, int] | None = None
    for credential_id, sealed in [tuple(found) for found in rows] or [("", state.decoy_seed)]:
        step = matching_step(state.vault.open_text(sealed), passcode, now_s=state.clock.now_us() // 1_000_000)
        if step is not None and credential_id:
            matching = credential_id, step
    if row is None:                              # all three are judged here, so that the time does not tell which it is
        raise Unauthorized().because("login.totp", is_there=False)
    if _is_locked(state, row):
        raise Unauthorized().because("login.locked", user=row.id, failures=row.failed_count)
    if matching is None:
        raise Unauthorized().because("login.totp", user=row.id)
    proof.totp = matching
    proof.is_user(row.id)


async def _check_oauth1(call: Call, _: object, proof: Proof) -> None:
    row = await check_access_signature(call)
    proof.is_user(row.user_id)
    proof.access_token = row


_CHECKS = {"password": _check_password, "token": _check_token, "application_credential": _check_app_credential, "totp": _check_totp,
           "oauth1": _check_oauth1}


def find_user(connection: Connection, given: Mapping[str, Any]) -> Row[Any] | None:
    """By id, or by name in a domain by id or name. Raises `BadRequest` if it names neither."""
    if "id" in given:
        return find_row(connection, user, given["id"])
    if "name" not in given or "domain" not in given:
        raise BadRequest(reason="A user is named by id, or by name and domain.")
    domain_id = _domain_id(connection, given["domain"])
    return connection.execute(select(user).where(user.c.domain_id == domain_id, user.c.name == given["name"])).first()


def _domain_id(connection: Connection, given: Mapping[str, Any]) -> str | None:
    if "id" in given:
        return str(given["id"])
    if "name" not in given:
        raise BadRequest(reason="A domain is named by id or by name.")
    return connection.execute(select(project.c.id).where(project.c.is_domain.is_(True), project.c.name == given["name"],
                                                         project.c.id != "")).scalar()


# scope

def _make(connection: Connection, call: Call, proof: Proof) -> Meaning:
    """The second transaction: what was proven still stands, the scope is allowed, the token is made."""
    state: Identity = call.state
    # read before all else: whatever is taken away after this counts higher and ends the token, on databases without snapshots too
    generation = state.refresh_here(connection)
    row = find_row(connection, user, proof.user_id)
    if row is None or (proof.password_hash is not None and row.password_hash != proof.password_hash):
        raise Unauthorized().because("login.changed", user=proof.user_id)
    if proof.totp is not None and not use_step(connection, *proof.totp):
        raise Unauthorized().because("login.totp_used", user=proof.user_id)
    if proof.before is not None and state.is_revoked(proof.before):
        raise Unauthorized().because("token.revoked", user=proof.user_id)
    proof.is_proven = True
    scope = call.body["auth"].get("scope")
    if proof.app_credential is not None:
        if scope is not None:
            raise Unauthorized(reason="An application credential has its scope already.").because("login.scope")
        return _finish(connection, state, proof, generation, kind="project", scope_id=proof.app_credential.project_id,
                       app_credential_id=proof.app_credential.id)
    if proof.access_token is not None:
        if scope is not None:
            raise Unauthorized(reason="An access token has its scope already.").because("login.scope")
        return _finish(connection, state, proof, generation, kind="project", scope_id=proof.access_token.project_id,
                       access_token_id=proof.access_token.id)
    if isinstance(scope, Mapping) and "OS-TRUST:trust" in scope:
        return _make_for_trust(connection, state, proof, generation, scope["OS-TRUST:trust"]["id"])
    if proof.before is not None and proof.before.trust_id is not None:
        raise Forbidden(reason="A token of a trust cannot be exchanged for another one.").because("login.rescope")
    kind, scope_id = _choose_scope(connection, row, scope, proof)
    return _finish(connection, state, proof, generation, kind=kind, scope_id=scope_id)


def _choose_scope(connection: Connection, row: Row[Any], scope: object, proof: Proof) -> tuple[str, str]:
    """(kind, id). Without a word of scope it is the user's default project, if that works."""
    if scope is None and proof.before is None and row.default_project_id is not None:
        there = find_row(connection, project, row.default_project_id)
        if there is not None and there.enabled and not there.is_domain and effective_roles(connection, row.id, "project", there.id):
            return "project", there.id
    if scope is None or scope == "unscoped" or (isinstance(scope, Mapping) and "unscoped" in scope):
        return "", ""
    if not isinstance(scope, Mapping) or sum(kind in scope for kind in ("project", "domain", "system")) != 1:
        raise BadRequest(reason="A scope is exactly one of project, domain, system, OS-TRUST:trust or unscoped.")
    if "system" in scope:
        if scope["system"].get("all") is not True:
            raise BadRequest(reason='The scope of the system is {"all": true}.')
        return "system", "all"
    if "domain" in scope:
        return "domain", _domain_id(connection, scope["domain"]) or "no such domain"
    return "project", _project_id(connection, scope["project"])


def _project_id(connection: Connection, given: Mapping[str, Any]) -> str:
    if "id" in given:
        return str(given["id"])
    if "name" not in given or "domain" not in given:
        raise BadRequest(reason="A project is named by id, or by name and domain.")
    domain_id = _domain_id(connection, given["domain"])
    found = connection.execute(select(project.c.id).where(project.c.domain_id == domain_id, project.c.name == given["name"],
                                                          project.c.is_domain.is_(False))).scalar()
    return found or "no such project"


def _make_for_trust(connection: Connection, state: Identity, proof: Proof, generation: int, trust_id: str) -> Meaning:
    """Take one use, by a conditional update: of many logins at once no more succeed than uses are left."""
    row = living_trust(connection, state, trust_id)
    if row is None or row.trustee_user_id != proof.user_id or (proof.before is not None and proof.before.trust_id is not None):
        raise Forbidden(reason="The trust cannot be used.").because("login.trust", trust=trust_id[:64], is_there=row is not None)
    if row.remaining_uses is not None:
        taken = connection.execute(update(trust).where(trust.c.id == trust_id, trust.c.remaining_uses > 0)
                                   .values(remaining_uses=trust.c.remaining_uses - 1))
        if not taken.rowcount:
            raise Forbidden(reason="The trust has no uses left.").because("login.trust_used", trust=trust_id)
    proof.user_id = row.trustor_user_id if row.impersonation else row.trustee_user_id
    try:
        return _finish(connection, state, proof, generation, kind="project" if row.project_id else "", scope_id=row.project_id
                       or "",
                       trust_id=row.id)
    except Unauthorized as error:
        raise Forbidden(reason="The trust cannot be used: its trustor has lost a role or was disabled.").after(error) from error


def _finish(connection: Connection, state: Identity, proof: Proof, generation: int, *, kind: str, scope_id: str,
            trust_id: str | None = None,
            app_credential_id: str | None = None, access_token_id: str | None = None) -> Meaning:
    assert proof.user_id is not None
    now_us = state.clock.now_us()
    before = proof.before
    expires_us = now_us + state.config.token_life_s * 1_000_000
    methods = list(proof.methods)
    audit_ids: tuple[str, ...] = (new_audit_id(),)
    if before is not None:                       # exchanging tokens makes nobody's time longer
        expires_us = min(expires_us, before.expires_us)
        audit_ids = (audit_ids[0], before.audit_ids[-1])
        methods = list(dict.fromkeys([*methods, *before.methods]))
    facts = TokenFacts(user_id=proof.user_id, methods=tuple(methods), scope_kind=kind, scope_id=scope_id, expires_us=expires_us,
                       issued_us=now_us, generation=generation, audit_ids=audit_ids, trust_id=trust_id,
                       app_credential_id=app_credential_id, access_token_id=access_token_id)
    return make_meaning(connection, state, facts)


