"""Who may do what: owners of accounts, reseller admins, container ACLs; 401 for strangers, 403 for those we know.

Strangers learn nothing: a container that does not exist answers them like one that is closed.
"""
from __future__ import annotations

from urllib.parse import quote

from common.errors import Forbidden, StorageError
from proxy.auth import Identity, V1Auth
from proxy.errors import Refusal
from proxy.http.message import Headers
from proxy.model import ContainerInfo
from proxy.swift.acl import parse_acl, referrer_host

READ_ACL, WRITE_ACL = "x-container-read", "x-container-write"


def unauthorized(account: str) -> Refusal:
    """401, with the account as realm."""
    return Refusal(401, None, [("Www-Authenticate", f'Swift realm="{quote(account or "unknown", errors="surrogateescape")}"')])


class Asker:
    """The one who sent a request about `account`. identity: None without a valid token."""

    __slots__ = ("_headers", "account", "identity", "is_owner")

    def __init__(self, auth: V1Auth, headers: Headers, account: str) -> None:
        """Raises `Unauthorized` for a token in our form that is not valid."""
        token = headers.get("x-auth-token") or headers.get("x-storage-token")
        identity = auth.identify(token, headers.get("x-service-token")) if token else None
        self.identity: Identity | None = identity
        self.account = account
        self._headers = headers
        self.is_owner = identity is not None and (
            account in identity.owned or (identity.is_reseller_admin and auth.is_open(account)))
        if not self.is_owner and not auth.is_open(account):
            raise self.denied("account.closed")

    @property
    def is_reseller_admin(self) -> bool:
        """Whether this is an administrator of all accounts."""
        return self.identity is not None and self.identity.is_reseller_admin

    def denied(self, rule: str, **facts: object) -> Refusal | StorageError:
        """What to raise when `rule` does not allow this request."""
        if self.identity is not None:
            return Forbidden().because(rule, user=self.identity.user_id, account=self.account, **facts)
        refusal = unauthorized(self.account)
        if "x-auth-token" in self._headers or "x-storage-token" in self._headers:
            refusal.because("auth.token_unknown")
        return refusal.because(rule, user="", account=self.account, **facts)

    def hidden(self) -> Refusal | StorageError:
        """What to raise about a container that is not there, for strangers who must not learn that."""
        return self.denied("container.hidden")

    def need_owner(self) -> None:
        """Raises unless the account is the asker's."""
        if not self.is_owner:
            raise self.denied("account.owner")

    def need_reseller_admin(self) -> None:
        """Raises unless the asker administers all accounts."""
        if not self.is_reseller_admin:
            raise self.denied("account.reseller_admin")

    def need_read(self, container: ContainerInfo, *, is_listing: bool) -> None:
        """Raises unless the container may be read (an object), or listed."""
        if self.is_owner:
            return
        acl = parse_acl(container.headers.get(READ_ACL, ""))
        if acl.allows_referrer(self._headers.get("referer")) and (not is_listing or acl.allows_listing):
            return
        if self.identity is None or not acl.allows_user(self.identity.groups):
            came_by_link = acl.referrers and self.identity is None
            rule = "acl.listing" if is_listing else "acl.referrer" if came_by_link else "acl.read"
            raise self.denied(rule, container=container.name, acl=container.headers.get(READ_ACL, ""),
                              referrer=referrer_host(self._headers.get("referer")))

    def need_write(self, container: ContainerInfo) -> None:
        """Raises unless objects of the container may be written."""
        if self.is_owner:
            return
        acl = parse_acl(container.headers.get(WRITE_ACL, ""))
        if self.identity is None or not acl.allows_user(self.identity.groups):
            raise self.denied("acl.write", container=container.name, acl=container.headers.get(WRITE_ACL, ""))

    def need_identity(self) -> None:
        """Raises for a stranger: nobody without a token ever writes."""
        if self.identity is None:
            raise self.denied("acl.anonymous_write")
