"""What is in a token: who, how, for what, until when. Sealed, so that a client can neither read nor change it; stored nowhere.

    msgpack [format, methods, user, scope kind, scope id, expires us, issued us, generation, audit ids, trust, app credential,
             access token], sealed by a Fernet key; base64 without its padding

generation: how far the counter of authorization changes was when the token was made. A revocation that counts higher ends it, so
no clock decides whether a token is older than a revocation.
"""
from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from typing import Any

import msgpack

from common.errors import Unauthorized
from identity.keys import KeySet

FORMAT = 1
METHODS = ("password", "token", "totp", "application_credential", "oauth1", "mapped", "external", "ec2credential")
SCOPES = ("", "project", "domain", "system", "trust")
_CHARS_MAX = 2_048


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """scope_kind: one of "", project, domain, system. audit_ids: its own, then that of the first token of its chain."""

    user_id: str
    methods: tuple[str, ...]
    scope_kind: str
    scope_id: str
    expires_us: int
    issued_us: int
    generation: int
    audit_ids: tuple[str, ...]
    trust_id: str | None = None
    app_credential_id: str | None = None
    access_token_id: str | None = None

    def revocable_by(self) -> list[tuple[str, str]]:
        """(kind, value) of every revocation that would end it."""
        out = [("user", self.user_id), ("audit", self.audit_ids[0]), ("chain", self.audit_ids[-1])]
        if self.scope_kind in ("project", "domain"):
            out.append((self.scope_kind, self.scope_id))
        for kind, value in (("trust", self.trust_id), ("app_credential", self.app_credential_id),
                            ("access_token", self.access_token_id)):
            if value is not None:
                out.append((kind, value))
        return out


def encode_token(facts: TokenFacts, keys: KeySet) -> str:
    """About 200 characters."""
    packed = msgpack.packb([
        FORMAT, [METHODS.index(name) for name in facts.methods], facts.user_id, SCOPES.index(facts.scope_kind), facts.scope_id,
        facts.expires_us, facts.issued_us, facts.generation, [_pack_audit(text) for text in facts.audit_ids], facts.trust_id,
        facts.app_credential_id, facts.access_token_id])
    return keys.seal(packed).decode().rstrip("=")


def decode_token(token: str, keys: KeySet) -> TokenFacts:
    """Who made it is certain, whether it is still good is not asked. Raises `Unauthorized`."""
    if len(token) > _CHARS_MAX or not token.isascii():
        raise Unauthorized().because("token.malformed")
    packed = keys.open(token.encode() + b"=" * (-len(token) % 4))
    if packed is None:
        raise Unauthorized().because("token.forged")
    fields: list[Any] = msgpack.unpackb(packed)
    if fields[0] != FORMAT:
        raise Unauthorized().because("token.format", format=fields[0])
    _, methods, user, kind, scope, expires_us, issued_us, generation, audit, trust, app_credential, access_token = fields
    return TokenFacts(user_id=user, methods=tuple(METHODS[index] for index in methods), scope_kind=SCOPES[kind], scope_id=scope,
                      expires_us=expires_us, issued_us=issued_us, generation=generation,
                      audit_ids=tuple(_unpack_audit(data) for data in audit), trust_id=trust, app_credential_id=app_credential,
                      access_token_id=access_token)


def new_audit_id() -> str:
    """22 characters."""
    return _unpack_audit(secrets.token_bytes(16))


def _pack_audit(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")


def _unpack_audit(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
