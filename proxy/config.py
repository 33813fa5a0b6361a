"""Settings of the gateway: HTTP, TLS, users of v1 auth, and the constraints that Swift's clients know."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from common.config import required, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """TOML table [http]."""

    idle_timeout_s: float = setting(75.0, "a connection without a request is closed after this", low=1, high=86_400)
    max_connections: int = setting(10_000, "per worker; more wait in the kernel's queue", low=1, high=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """TOML table [tls]."""

    cert: str | None = setting(None, "PEM file of the certificate chain; with it the listener speaks TLS",
                               example='"/etc/holdfast/cert.pem"')
    key: str | None = setting(None, "PEM file of its private key", example='"/etc/holdfast/key.pem"')
    insecure_http: bool = setting(False, "allow password logins on a public listener without TLS")

    def problems(self) -> Iterator[tuple[str, str]]:
        """One file without the other cannot serve."""
        if (self.cert is None) != (self.key is None):
            missing = "cert" if self.cert is None else "key"
            yield ("key" if missing == "cert" else "cert"), f"tls.{missing} is missing: cert and key belong together"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """TOML table [limits]: Swift's constraints with Swift's defaults, published in /info."""

    max_file_size: int = setting(5_368_709_122, "bytes of one object", low=1)
    max_meta_name_length: int = setting(128, "bytes of a metadata name without its X-...-Meta-", low=1)
    max_meta_value_length: int = setting(256, "bytes of a metadata value", low=1)
    max_meta_count: int = setting(90, "metadata items of one object, container or account", low=1)
    max_meta_overall_size: int = setting(4096, "bytes of all metadata names and values together", low=1)
    max_header_size: int = setting(8192, "bytes of one header line", low=512)
    max_object_name_length: int = setting(1024, "bytes", low=1, high=65_535)
    max_container_name_length: int = setting(256, "bytes", low=1, high=65_535)
    max_account_name_length: int = setting(256, "bytes", low=1, high=65_535)
    container_listing_limit: int = setting(10_000, "rows of one page", low=1)
    account_listing_limit: int = setting(10_000, "rows of one page", low=1)
    extra_header_count: int = setting(0, "headers allowed beyond the usual number", low=0)

    def problems(self) -> Iterator[tuple[str, str]]:
        """One metadata item has to fit into what all may take together."""
        if self.max_meta_name_length > self.max_meta_overall_size:
            yield "max_meta_name_length", "limits.max_meta_name_length is more than limits.max_meta_overall_size"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResellerRow:
    """A row [[auth.reseller]]: a prefix of account names, and what a user needs to use it."""

    prefix: str = required("storage URLs begin with /v1/PREFIX_", example='"AUTH"')
    require_group: str = setting("", "group that a user must have; empty for none")

    def problems(self) -> Iterator[tuple[str, str]]:
        """The prefix is a part of a URL."""
        if not all(c.isascii() and (c.isalnum() or c in "-_.") for c in self.prefix):
            yield "prefix", f"auth.reseller.prefix {self.prefix!r} may hold letters, digits, '-', '_' and '.' only"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRow:
    """A row [[auth.user]]: a user of v1 auth, known as ACCOUNT:USER."""

    account: str = required("the account, without reseller prefix", example='"demo"')
    user: str = required("the user's name in it", example='"alice"')
    groups: tuple[str, ...] = setting((), ".admin owns the account, .reseller_admin all of them; others are for ACLs",
                                      example='[".admin"]')
    key_file: str | None = setting(None, "name of a file below STATE/secrets that holds the key",
                                   example='"demo-alice.key"')
    key_hash: str | None = setting(None, "or its hash, as `holdfast config hash-key` prints it", is_secret=True,
                                   example='"scrypt$..."')
    key: str | None = setting(None, "or the key itself, if this file is 0600", is_secret=True, needs_private_file=True)

    def problems(self) -> Iterator[tuple[str, str]]:
        """A user without exactly one key could not log in, or with a key nobody expects."""
        for name, text in (("account", self.account), ("user", self.user)):
            if not text or any(c in ":/," or ord(c) < 33 for c in text):
                yield name, f"auth.user.{name} {text!r} must not be empty or hold ':', '/', ',' or spaces"
        for group in self.groups:
            if not group or any(c in "*," or ord(c) < 33 for c in group):        # as an ACL reads it: everyone, or two groups
                yield "groups", f"auth.user.groups {group!r} must not be empty or hold '*', ',' or spaces"
        keys = [name for name in ("key_file", "key_hash", "key") if getattr(self, name) is not None]
        if len(keys) != 1:
            found = " and ".join(keys) or "none"
            yield "account", f"user {self.account}:{self.user} needs one of key_file, key_hash, key; it has {found}"
        if self.key == "":
            yield "key", f"user {self.account}:{self.user} has an empty key"
        if self.key_hash is not None and not self.key_hash.startswith("scrypt$"):
            yield "key_hash", "auth.user.key_hash is not a hash of `holdfast config hash-key`"
        if self.key_file is not None and (not self.key_file or "/" in self.key_file or self.key_file in (".", "..")):
            yield "key_file", f"auth.user.key_file {self.key_file!r} is a name below STATE/secrets, not a path"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig:
    """TOML table [auth]."""

    token_life_s: int = setting(86_400, "a token of /auth/v1.0 is good for this long", low=60, high=31_536_000)
    reseller: tuple[ResellerRow, ...] = setting((ResellerRow(prefix="AUTH"),), "Prefixes of account names; AUTH if none is given.")
    user: tuple[UserRow, ...] = setting((), "Users of /auth/v1.0. A first start without any makes a demo user.")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Two rows for one name would make the order of rows decide who gets in."""
        seen: set[tuple[str, str]] = set()
        for index, row in enumerate(self.user):
            if (row.account, row.user) in seen:
                yield f"user.{index}.account", f"user {row.account}:{row.user} is there twice"
            seen.add((row.account, row.user))
        prefixes = [row.prefix.rstrip("_") for row in self.reseller]
        for index, prefix in enumerate(prefixes):
            if prefix in prefixes[:index]:
                yield f"reseller.{index}.prefix", f"reseller prefix {prefix!r} is there twice"
        if not self.reseller:
            yield "reseller", "at least one reseller prefix is needed"
