"""Users of v1 auth, their keys, and their tokens: signed strings that every worker can judge alone.

    token: <first reseller prefix>tk + base64url(mac 24 | expires u64 seconds | key print 8 | "account:user")

The mac is HMAC-SHA256 under a secret of the cluster, so no token is stored or shared. The key print ties a token to the key
it was made for: a changed key ends the tokens of the old one. What a token allows is read from the present configuration.
"""
from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.clock import Clock
from common.errors import Overloaded, Unauthorized
from common.secrets import load_secret, same_secret, verify_key
from proxy.config import AuthConfig, ResellerRow, UserRow

_MAC_BYTES = 24
_HEAD_BYTES = _MAC_BYTES + 16
_TOKENS_MAX = 10_000                     # remembered as good: a lookup instead of an HMAC
_TOKEN_CHARS_MAX = 2048
_LOGINS_KEPT_MAX = 1_000
_LOGIN_KEPT_S = 60.0                     # a client that logs in for each request pays scrypt once per minute
_HASH_THREADS = 2
_HASHES_WAITING_MAX = 32                 # some 50 ms and 16 MiB each: more would only time out
_NOBODYS_HASH = "scrypt$16384$8$1$AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A row of the configuration with its key read. Exactly one of key and key_hash is not None."""

    account: str
    name: str
    groups: frozenset[str]
    key: str | None = None
    key_hash: str | None = None

    @property
    def id(self) -> str:
        """As clients write it in X-Auth-User and in ACLs."""
        return f"{self.account}:{self.name}"


class RequestRules(Protocol):
    """Requests that a token is restricted to."""

    def allow(self, method: str, path: str) -> bool:
        """path: decoded, without the query."""


class OtherTokens(Protocol):
    """Whoever judges tokens that are not in the form of ours."""

    def identify(self, token: str, service_token: str | None) -> Identity | None:
        """None for what is not in its form either. Raises `Unauthorized`, and a `StorageError` when it cannot say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who asks. groups: what an ACL may name; owned: full account names that this user administers.

    Of tokens of identity only: reads, accounts that may be read; home, accounts of the token's project, in which an ACL may name
    its roles; access_rules, the only requests that are allowed.
    """

    user_id: str
    groups: frozenset[str]
    owned: frozenset[str]
    is_reseller_admin: bool
    reads: frozenset[str] = frozenset()
    home: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    access_rules: RequestRules | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A successful login. account: full name, for the storage URL; life_s: how long the token is good from now on."""

    token: str
    account: str
    life_s: int


def load_users(rows: Iterable[UserRow], secrets_dir: Path) -> tuple[User, ...]:
    """Read the keys that rows name. Raises `ConfigError` for a file that is missing, empty or readable by others."""
    users = []
    for row in rows:
        key = row.key if row.key_file is None else load_secret(secrets_dir / row.key_file)
        users.append(User(account=row.account, name=row.user, groups=frozenset(row.groups), key=key, key_hash=row.key_hash))
    return tuple(users)


class V1Auth:
    """Logins and tokens of one worker. token_key: the same in every worker of the cluster, at least 16 bytes."""

    def __init__(self, users: Iterable[User], config: AuthConfig, *, token_key: bytes, clock: Clock,
                 others: OtherTokens | None = None) -> None:
        """others: judges all tokens that are not ours."""
        assert len(token_key) >= 16, "a guessable key signs tokens for everybody"
        self._users = {user.id: user for user in users}
        self._resellers = reseller_prefixes(config)
        self._others = others
        self._by_length = sorted(self._resellers, key=len, reverse=True)       # "" matches all, so it comes last
        self._prefix = next(iter(self._resellers))
        self._token_start = f"{self._prefix}tk"
        self._token_life_s = config.token_life_s
        self._key = token_key
        self._clock = clock
        self._good: dict[bytes, tuple[int, Identity]] = {}      # by a digest of both tokens, which may be long: expires, who
        self._logins = _Logins(self._users, clock)

    def close(self) -> None:
        """Let go of the threads that hash."""
        self._logins.close()

    def prefix_of(self, account: str) -> str | None:
        """The reseller prefix under which an account lives; None: not one of ours, nobody may use it through this door."""
        for prefix in self._by_length:
            if account.startswith(prefix):
                return prefix
        return None

    def is_open(self, account: str) -> bool:
        """Whether clients may reach the account at all: not a bare prefix, no internal account (its name begins with a dot)."""
        prefix = self.prefix_of(account)
        return prefix is not None and len(account) > len(prefix) and account[len(prefix)] != "."

    def identify(self, token: str | None, service_token: str | None = None) -> Identity | None:
        """Who holds this token; None for no token and for one that cannot be ours, nor that of `others`.

        A valid `service_token` adds its groups, and so what a prefix with a required group asks for.
        Raises `Unauthorized` for a token in our form that is forged, expired, or whose user is gone, and what `others` does.
        """
        if token is None or not token.startswith(self._token_start):
            return self._others.identify(token, service_token) if token and self._others is not None else None
        if service_token is not None and not service_token.startswith(self._token_start):
            service_token = None
        if len(token) > _TOKEN_CHARS_MAX or (service_token is not None and len(service_token) > _TOKEN_CHARS_MAX):
            raise Unauthorized().because("auth.token_malformed")
        name = hashlib.blake2b(f"{token}\0{service_token or ''}".encode(errors="surrogatepass"), digest_size=24).digest()
        known = self._good.get(name)
        now_s = self._clock.now_us() // 1_000_000
        if known is not None and now_s < known[0]:
            return known[1]
        expires_s, user = self._check_token(token, now_s)
        extra: frozenset[str] = frozenset()
        if service_token is not None:
            service_expires_s, service = self._check_token(service_token, now_s)
            expires_s, extra = min(expires_s, service_expires_s), service.groups | {service.account, service.id}
        identity = self._identity(user, extra)
        if len(self._good) >= _TOKENS_MAX:
            self._good.clear()
        self._good[name] = expires_s, identity
        return identity

    async def login(self, user_id: str, key: str) -> Grant:
        """A new token. Raises `Unauthorized`, and `Overloaded` when too many keys wait to be hashed."""
        if not await self._logins.is_right(user_id, key):
            raise Unauthorized().because("auth.wrong_key" if user_id in self._users else "auth.unknown_user", user=user_id)
        user = self._users[user_id]
        expires_s = self._clock.now_us() // 1_000_000 + self._token_life_s
        return Grant(token=self._make_token(user, expires_s), account=self._prefix + user.account, life_s=self._token_life_s)

    def _identity(self, user: User, extra: frozenset[str]) -> Identity:
        groups = (user.groups | extra | {user.account, f"{user.account}:*", user.id}) - {".admin", ".reseller_admin"}
        owned = frozenset(prefix + user.account for prefix, row in self._resellers.items()
                          if ".admin" in user.groups and (not row.require_group or row.require_group in groups))
        return Identity(user_id=user.id, groups=groups, owned=owned, is_reseller_admin=".reseller_admin" in user.groups)

    def _make_token(self, user: User, expires_s: int) -> str:
        body = expires_s.to_bytes(8, "big") + self._key_print(user) + user.id.encode()
        return self._token_start + base64.urlsafe_b64encode(self._mac(b"token", body) + body).decode().rstrip("=")

    def _check_token(self, token: str, now_s: int) -> tuple[int, User]:
        """(expiry, user). Raises `Unauthorized`."""
        text = token[len(self._token_start):]
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise Unauthorized().because("auth.token_malformed") from error
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if len(raw) <= _HEAD_BYTES or not hmac.compare_digest(mac, self._mac(b"token", body)):
            raise Unauthorized().because("auth.token_forged")
        expires_s = int.from_bytes(body[:8], "big")                    # signed by us from here on
        user_id = body[16:].decode()
        user = self._users.get(user_id)
        if user is None:
            raise Unauthorized().because("auth.user_gone", user=user_id)
        if now_s >= expires_s:
            raise Unauthorized().because("auth.token_expired", user=user_id, expired_s=now_s - expires_s,
                                         life_s=self._token_life_s)
        if not hmac.compare_digest(body[8:16], self._key_print(user)):
            raise Unauthorized().because("auth.key_changed", user=user_id)
        return expires_s, user

    def _key_print(self, user: User) -> bytes:
        return self._mac(b"key print", (user.key or user.key_hash or "").encode())[:8]

    def _mac(self, purpose: bytes, data: bytes) -> bytes:
        return hmac.digest(self._key, purpose + b"\0" + data, "sha256")[:_MAC_BYTES]


class _Logins:
    """Judges keys. Hashed ones go to a small pool of threads; a right answer is remembered for a minute, by its hash."""

    def __init__(self, users: dict[str, User], clock: Clock) -> None:
        self._users = users
        self._clock = clock
        self._memory_key = secrets.token_bytes(32)
        self._right: dict[bytes, float] = {}
        self._waiting = 0
        self._has_hashes = any(user.key_hash is not None for user in users.values())
        self._pool = ThreadPoolExecutor(_HASH_THREADS, thread_name_prefix="scrypt")      # starts its threads when used

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def is_right(self, user_id: str, key: str) -> bool:
        """Raises `Overloaded`."""
        user = self._users.get(user_id)
        if user is not None and user.key is not None:
            return same_secret(key, user.key)
        if user is None and not self._has_hashes:
            return False
        # An unknown user takes as long as a wrong key: the time tells nobody which names exist.
        return await self._is_right_hash(user_id, key, (user and user.key_hash) or _NOBODYS_HASH)

    async def _is_right_hash(self, user_id: str, key: str, key_hash: str) -> bool:
        now_s = self._clock.monotonic_s()
        about = f"{user_id}\0{key_hash}\0{key}".encode(errors="surrogateescape")
        name = hmac.digest(self._memory_key, about, hashlib.sha256)
        if self._right.get(name, 0.0) > now_s:
            return True
        if self._waiting >= _HASHES_WAITING_MAX:
            raise Overloaded(what="logins", retry_after_s=1)
        self._waiting += 1
        try:
            is_right = await asyncio.get_running_loop().run_in_executor(self._pool, verify_key, key, key_hash)
        finally:
            self._waiting -= 1
        if is_right:
            if len(self._right) >= _LOGINS_KEPT_MAX:
                self._right.clear()
            self._right[name] = now_s + _LOGIN_KEPT_S
        return is_right


def reseller_prefixes(config: AuthConfig) -> dict[str, ResellerRow]:
    """By the prefix of full account names, the first one first."""
    return {_account_prefix(row): row for row in config.reseller}


def _account_prefix(row: ResellerRow) -> str:
    """"AUTH" and "AUTH_" are the same prefix; an empty one stays empty."""
    return row.prefix if not row.prefix or row.prefix.endswith("_") else row.prefix + "_"
