"""What identity and the gateways exchange: the content of a token, and the feed that says what tokens mean.

Content of a token, which `identity/tokens.py` seals:

    msgpack [format, methods, user, scope kind, scope id, expires us, issued us, generation, audit ids, trust, app credential,
             access token]

The feed is a set of tables, key to packed record, and changes to it. One op over the transport, asked again and again:

    FEED   fields [epoch, position, part]         what the asker holds: "", 0, 0 for nothing
           answer [epoch, position, parts left, is snapshot], body: msgpack [[generation, {table: {key: record or nil}}] ...]

A snapshot comes in parts, asked for one by one; after that what changed since, or, after `FEED_WAIT_S` without a change, nothing.
epoch: of one run of one producer, in which positions count up. generation: identity's counter of authorization changes; whoever
has applied it judges no token of that generation wrongly. nil: the record is gone. Records by table, lists with these fields:

    key             "": sealed msgpack of the token keys, as text, the primary first
    role            name, whether it belongs to a domain, ids of the roles that it implies
    domain          enabled, name
    project         enabled, name, domain, parent ("" directly below the domain), whether its administrators are confined
    user            enabled, name, domain, groups, "account:user" of one of the configuration or "", grants
    group           grants
    trust           trustor, trustee, project, expires us, trust it was passed on from, roles
    app_credential  user, project, expires us, roles, access rules [service, path, method] or nil
    access_token    user, project, expires us, roles
    s3_key          user, project, app credential, trust, sealed msgpack of its secret
    revocation      number; the key is "kind value"

A grant is [kind, target, role]; kind is one of GRANT_*. An id of 32 hexadecimal digits travels as 16 bytes. What is secret is
sealed with a key of the cluster, so that neither a network nor a core file of a gateway that nobody used shows it.
"""
from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from common.errors import Corruption, Unauthorized

OP_FEED = 64
FEED_WAIT_S = 2.0                        # an answer without news; a gateway that hears nothing for much longer is cut off
FEED_ROLE = "identity"                   # of the producer, in the handshake
TABLES = ("key", "role", "domain", "project", "user", "group", "trust", "app_credential", "access_token", "s3_key", "revocation")
GRANT_PROJECT, GRANT_DOMAIN, GRANT_SYSTEM, GRANT_BELOW_PROJECT, GRANT_BELOW_DOMAIN = range(5)

FORMAT = 1
METHODS = ("password", "token", "totp", "application_credential", "oauth1", "mapped", "external", "ec2credential")
SCOPES = ("", "project", "domain", "system", "trust")
TOKEN_START = "gAAAA"                    # version and the upper bytes of the time of a Fernet seal, in base64
TOKEN_CHARS_MAX = 2_048
_ID_CHARS = 32

Id = bytes | str                         # as it travels: `pack_id`
Change = dict[str, dict[Id, bytes | None]]


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


def pack_token(facts: TokenFacts) -> bytes:
    """To be sealed."""
    return bytes(msgpack.packb([
        FORMAT, [METHODS.index(name) for name in facts.methods], facts.user_id, SCOPES.index(facts.scope_kind), facts.scope_id,
        facts.expires_us, facts.issued_us, facts.generation, [_pack_audit(text) for text in facts.audit_ids], facts.trust_id,
        facts.app_credential_id, facts.access_token_id]))


def unpack_token(packed: bytes) -> TokenFacts:
    """What `pack_token` was given; the seal has been checked. Raises `Unauthorized` for another format."""
    fields: list[Any] = msgpack.unpackb(packed)
    if fields[0] != FORMAT:
        raise Unauthorized().because("token.format", format=fields[0])
    _, methods, user, kind, scope, expires_us, issued_us, generation, audit, trust, app_credential, access_token = fields
    return TokenFacts(user_id=user, methods=tuple([METHODS[index] for index in methods]), scope_kind=SCOPES[kind], scope_id=scope,
                      expires_us=expires_us, issued_us=issued_us, generation=generation,
                      audit_ids=tuple([unpack_audit(data) for data in audit]), trust_id=trust, app_credential_id=app_credential,
                      access_token_id=access_token)


def unpack_audit(data: bytes) -> str:
    """16 bytes as the 22 characters that clients see."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _pack_audit(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")


# the feed

def pack_id(text: str) -> Id:
    """Half the size for those that identity makes; others stay as they are."""
    if len(text) == _ID_CHARS:
        try:
            packed = bytes.fromhex(text)
        except ValueError:
            return text
        if packed.hex() == text:         # one text has one form, and only that one is of identity's making
            return packed
    return text


def unpack_id(packed: Id) -> str:
    """Inverse of `pack_id`."""
    return packed if isinstance(packed, str) else packed.hex()


def pack_record(*fields: object) -> bytes:
    """A record of a table."""
    return bytes(msgpack.packb(fields))


def pack_events(events: Iterable[tuple[int, Mapping[str, Mapping[Id, bytes | None]]]]) -> bytes:
    """Body of an answer: (generation, changes) in the order in which they happened."""
    return bytes(msgpack.packb(list(events)))


def unpack_events(body: bytes) -> list[tuple[int, Change]]:
    """Inverse of `pack_events`. Raises `Corruption`."""
    try:
        return [(generation, changes) for generation, changes in msgpack.unpackb(body, strict_map_key=False)]
    except (ValueError, TypeError) as error:
        raise Corruption(what="feed", reason=str(error)) from error


def transport_key(cluster_key: bytes) -> bytes:
    """The Fernet key that seals secrets on their way to the gateways of a cluster."""
    return base64.urlsafe_b64encode(hmac.digest(cluster_key, b"identity feed\0secrets", "sha256"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleGraph:
    """Every role, and what it implies. domains: "" for a role that belongs to none; such roles alone stand in tokens."""

    names: Mapping[Any, str]
    domains: Mapping[Any, str]
    implied: Mapping[Any, frozenset[Any]]

    def closure(self, role_ids: Iterable[Any]) -> set[Any]:
        """These roles and everything that they imply."""
        out, todo = set(role_ids), list(role_ids)
        while todo:
            for other in self.implied.get(todo.pop(), ()):
                if other not in out:
                    out.add(other)
                    todo.append(other)
        return out

    def effective(self, role_ids: Iterable[Any]) -> dict[Any, str]:
        """Id to name of what counts in a token."""
        return {one: self.names[one] for one in self.closure(role_ids) if one in self.names and not self.domains[one]}
