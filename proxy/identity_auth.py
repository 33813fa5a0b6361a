"""Tokens of identity at the object store: judged in this process, by what the feed says (proxy/identity_facts.py).

Whose token it is decides as in Swift: the roles admin, manager, member and swiftoperator own the account of their project,
PREFIX_<project id>, under every reseller prefix whose required group is one of their roles or of those of the X-Service-Token;
reader reads it; admin of the system, or of a project that is not confined, administers all accounts. ACLs may name project:user,
each by id, `*`, or, where both are of the default domain, by name; and in accounts of one's own project one's roles.

Budget: a token that was seen 2 us, one that was not 20 us; no I/O. A token that was made later than what is known here waits for
the feed (`Behind`), so that whoever was given a role a moment ago can use it. A gateway that identity does not reach goes on with
what it knows for `auth_grace_s`, then it answers 503 (`IdentityAway`): it cannot know what was revoked meanwhile.
"""
from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping

import msgpack

from common.clock import Clock
from common.errors import IdentityAway, StorageError, Unauthorized
from identity.wire import TOKEN_CHARS_MAX, TOKEN_START, TokenFacts, unpack_token
from proxy.auth import Identity
from proxy.config import ResellerRow
from proxy.identity_facts import IdentityFacts, Meaning

OWNER_ROLES = frozenset({"admin", "manager", "member", "swiftoperator"})
READER_ROLE, ADMIN_ROLE, DEFAULT_DOMAIN = "reader", "admin", "default"
_TOKENS_MAX = 10_000                     # remembered: a lookup instead of a decryption
_CATCH_UP_S = 3.0                        # a token waits so long for news,
_START_S = 8.0                           # or so long for the first news of all; a silence below this is a start
_FIRST_S = 60.0                          # without any news ever, after this no token waits
_NOTHING: frozenset[str] = frozenset()
_LIKE_ID = re.compile(r"[0-9a-fA-F]{32}")


class Behind(StorageError):
    """The token was made after what is known here: wait with `caught_up`, then ask again. If it stays so, 503."""

    code, is_retryable = "identity_behind", True

    def __init__(self, facts: IdentityFacts | None = None, generation: int = 1, **fields: object) -> None:
        super().__init__(**fields)
        self._facts, self._generation = facts, generation

    async def caught_up(self) -> None:
        """Returns when the news are here, or did not come."""
        if self._facts is not None:
            await self._facts.reach(self._generation, timeout_s=_CATCH_UP_S if self._facts.generation else _START_S)


class SealedKeys:
    """The token keys of the feed, opened when the first token needs them: cryptography costs a worker 9 ms and some memory."""

    def __init__(self, facts: IdentityFacts, transport: bytes) -> None:
        """transport: of `identity.wire.transport_key`."""
        self._facts, self._transport = facts, transport
        self._record: bytes | None = None
        self._open: Callable[[bytes], bytes | None] = _opens_nothing

    def open(self, sealed: bytes) -> bytes | None:
        """None for what none of the keys made."""
        record = self._facts.tables["key"].get("")
        if record is not self._record:
            self._take(record)
        return self._open(sealed)

    def _take(self, record: bytes | None) -> None:
        from cryptography.fernet import Fernet, InvalidToken, MultiFernet

        texts = [] if record is None else msgpack.unpackb(Fernet(self._transport).decrypt(msgpack.unpackb(record)[0]))
        keys = MultiFernet([Fernet(text) for text in texts]) if texts else None

        def open_one(sealed: bytes) -> bytes | None:
            try:
                return keys.decrypt(sealed) if keys is not None else None
            except InvalidToken:
                return None

        self._record, self._open = record, open_one


class IdentityAuth:
    """`proxy.auth.OtherTokens` of one worker and one configuration."""

    def __init__(self, facts: IdentityFacts, resellers: Mapping[str, ResellerRow], *, transport: bytes, clock: Clock,
                 grace_s: float, skew_s: float, logins: frozenset[str] = frozenset()) -> None:
        """skew_s: a token that was made so much later than now is not believed. logins: of the configuration, ACCOUNT:USER."""
        self._facts, self._resellers, self._clock = facts, resellers, clock
        self._logins, self._accounts = logins, frozenset(login.rpartition(":")[0] for login in logins)
        self._grace_s, self._skew_us = grace_s, int(skew_s * 1e6)
        self._keys = SealedKeys(facts, transport)
        self._good: dict[bytes, tuple[int, Identity]] = {}       # by a digest of both tokens: good until (us), who
        self._version = -1

    def identify(self, token: str, service_token: str | None) -> Identity | None:
        """Who holds this token now; None for what is no token of identity. Raises `Unauthorized`, `Behind`, `IdentityAway`."""
        if not token.startswith(TOKEN_START):
            return None
        if service_token is not None and not service_token.startswith(TOKEN_START):
            service_token = None
        facts = self._facts
        if facts.version != self._version:
            self._good.clear()
            self._version = facts.version
        if not facts.generation or (not facts.is_connected and facts.silent_s > self._grace_s):
            raise self._cut_off()
        whole = token if service_token is None else f"{token}\0{service_token}"
        name = hashlib.blake2b(whole.encode(errors="surrogatepass"), digest_size=24).digest()
        now_us = self._clock.now_us()
        known = self._good.get(name)
        if known is not None and now_us < known[0]:
            return known[1]
        found, service_roles = self._judge(token, now_us), _NOTHING
        until_us = found.expires_us
        if service_token is not None:
            service = self._judge(service_token, now_us)
            until_us, service_roles = min(until_us, service.expires_us), service.roles
        identity = self._identity(found, service_roles)
        if len(self._good) >= _TOKENS_MAX:
            self._good.clear()
        self._good[name] = until_us, identity
        return identity

    def _cut_off(self) -> StorageError:
        facts = self._facts
        if not facts.generation and facts.silent_s < _FIRST_S:           # this worker, or identity, is just starting
            return Behind(facts, silent_s=round(facts.silent_s, 1)).because("identity.starting", silent_s=round(facts.silent_s, 1))
        return IdentityAway(silent_s=round(facts.silent_s)).because("identity.away", silent_s=round(facts.silent_s),
                                                                    grace_s=self._grace_s)

    def _judge(self, token: str, now_us: int) -> Meaning:
        """What the token means now. Raises as `identify`."""
        if len(token) > TOKEN_CHARS_MAX or not token.isascii():
            raise Unauthorized().because("token.malformed")
        packed = self._keys.open(token.encode() + b"=" * (-len(token) % 4))
        if packed is None:
            raise Unauthorized().because("token.forged")
        held = unpack_token(packed)                      # made by identity, from here on
        if held.expires_us <= now_us:
            raise Unauthorized().because("token.expired", user=held.user_id)
        if held.issued_us > now_us + self._skew_us:
            raise Unauthorized().because("token.future", user=held.user_id, ahead_s=(held.issued_us - now_us) // 1_000_000)
        facts = self._facts
        is_newer = held.generation > facts.generation
        if is_newer and (facts.is_connected or facts.silent_s < _START_S):       # also while identity starts again
            raise Behind(facts, held.generation).because("identity.behind", token=held.generation, known=facts.generation)
        try:
            return self._resolve(held, now_us)
        except Unauthorized:
            if is_newer:                                 # it may be good by what is not known here
                raise self._unsure(held) from None
            raise

    def _unsure(self, held: TokenFacts) -> StorageError:
        silent_s = round(self._facts.silent_s)
        return IdentityAway(silent_s=silent_s).because("identity.unsure", user=held.user_id, silent_s=silent_s)

    def _resolve(self, held: TokenFacts, now_us: int) -> Meaning:
        if self._facts.is_revoked(held):
            raise Unauthorized().because("token.revoked", user=held.user_id)
        return self._facts.resolve(held, now_us)

    def _identity(self, found: Meaning, service_roles: frozenset[str]) -> Identity:
        is_admin = ADMIN_ROLE in found.roles
        project = found.project_id
        if not project:
            return Identity(user_id=found.user_id, groups=_NOTHING, owned=_NOTHING,
                            is_reseller_admin=is_admin and found.scope_kind == "system", access_rules=found.access_rules)
        roles = found.roles | service_roles
        home = frozenset(prefix + project for prefix, row in self._resellers.items()
                         if not row.require_group or row.require_group.lower() in roles)
        is_owner, is_reader = not OWNER_ROLES.isdisjoint(found.roles), READER_ROLE in found.roles
        return Identity(user_id=f"{project}:{found.user_id}", groups=_groups(found, self._accounts, self._logins),
                        owned=home if is_owner else _NOTHING, is_reseller_admin=is_admin and not found.is_confined,
                        reads=home if is_reader else _NOTHING, home=home, roles=found.roles, access_rules=found.access_rules)


def _groups(found: Meaning, accounts: frozenset[str], logins: frozenset[str]) -> frozenset[str]:
    """What an ACL may say to mean this user in this project.

    Names count only where they can mean nobody else: in the default domain, without a colon in them, not in the form of an id, no
    account's of the configuration that is another project, nor together somebody else's login: whoever may name a project or a user
    could choose to be let in as another. A user of the configuration keeps what ACLs gave to its v1 login.
    """
    projects, users = [found.project_id, "*"], [found.user_id, "*"]
    if found.project_domain == found.user_domain == DEFAULT_DOMAIN:
        is_free = found.project_name not in accounts           # the project of an account is named by its id already
        projects += [found.project_name] * (is_free and _is_plain(found.project_name))
        users += [found.user_name] * _is_plain(found.user_name)
    out = {f"{project}:{user}" for project in projects for user in users} - logins
    if found.v1_name:
        account = found.v1_name.rpartition(":")[0]
        out |= {account, f"{account}:*", found.v1_name}
    return frozenset(out)


def _is_plain(name: str) -> bool:
    return ":" not in name and _LIKE_ID.fullmatch(name) is None


def _opens_nothing(_: bytes) -> bytes | None:
    return None
