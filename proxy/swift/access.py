"""Who may do what: owners of accounts, reseller admins, container ACLs; 401 for strangers, 403 for those we know.

Strangers learn nothing: a container that does not exist answers them like one that is closed.
"""
from __future__ import annotations

from urllib.parse import quote, unquote_to_bytes

from common.errors import Forbidden, StorageError, Unauthorized
from proxy.auth import Identity, RequestRules, V1Auth
from proxy.errors import Refusal
from proxy.http.message import Headers, Request
from proxy.identity_auth import Behind
from proxy.model import ContainerInfo
from proxy.swift.acl import Acl, parse_acl, referrer_host

READ_ACL, WRITE_ACL = "x-container-read", "x-container-write"


def unauthorized(account: str) -> Refusal:
    """401, with the account as realm."""
    return Refusal(401, None, [("Www-Authenticate", f'Swift realm="{quote(account or "unknown", errors="surrogateescape")}"')])


def check_access_rules(rules: RequestRules, request: Request, account: str) -> None:
    """Raises `Unauthorized` unless an application credential may make this request, and read what it copies from."""
    path = request.path.decode("utf-8", "surrogateescape")
    source = request.headers.get("x-copy-from")
    is_allowed = rules.allow(request.method, path)
    if is_allowed and source is not None:
        other = request.headers.get("x-copy-from-account")
        account = _decoded(other) if other else account
        is_allowed = rules.allow("GET", f"/v1/{account}/{_decoded(source).lstrip('/')}")
    if not is_allowed:
        raise Unauthorized().because("token.access_rules", app_credential="")


async def wait_for_asker(behind: Behind, auth: V1Auth, headers: Headers, account: str) -> Asker:
    """The asker, once the news that its token needs are here: any news first, for a worker without, then those of the token.

    Raises as `Asker`, `Behind` when they do not come.
    """
    await behind.caught_up()
    try:
        return Asker(auth, headers, account)
    except Behind as again:
        await again.caught_up()
    return Asker(auth, headers, account)


def _decoded(field: str) -> str:
    return unquote_to_bytes(field.encode("latin-1", "replace")).decode("utf-8", "surrogateescape")


class Asker:
    """The one who sent a request about `account`. identity: None without a valid token."""

    __slots__ = ("_headers", "account", "identity", "is_owner", "is_reader")

    def __init__(self, auth: V1Auth, headers: Headers, account: str) -> None:
        """Raises `Unauthorized` for a token in our form that is not valid, `IdentityAway` for one that cannot be judged now."""
        token = headers.get("x-auth-token") or headers.get("x-storage-token")
        identity = auth.identify(token, headers.get("x-service-token")) if token else None
        self.identity: Identity | None = identity
        self.account = account
        self._headers = headers
        self.is_owner = identity is not None and (
            account in identity.owned or (identity.is_reseller_admin and auth.is_open(account)))
        self.is_reader = self.is_owner or (identity is not None and account in identity.reads)
        if not self.is_reader and not auth.is_open(account):
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

    def need_account_reader(self) -> None:
        """Raises unless the whole account may be read: by its owner, and by readers of its project."""
        if not self.is_reader:
            raise self.denied("account.owner")

    def need_reseller_admin(self) -> None:
        """Raises unless the asker administers all accounts."""
        if not self.is_reseller_admin:
            raise self.denied("account.reseller_admin")

    def need_read(self, container: ContainerInfo, *, is_listing: bool) -> None:
        """Raises unless the container may be read (an object), or listed."""
        if self.is_reader:
            return
        acl = parse_acl(container.headers.get(READ_ACL, ""))
        if acl.allows_referrer(self._headers.get("referer")) and (not is_listing or acl.allows_listing):
            return
        if self.identity is None or not self._is_named(acl, self.identity):
            came_by_link = acl.referrers and self.identity is None
            rule = "acl.listing" if is_listing else "acl.referrer" if came_by_link else "acl.read"
            raise self.denied(rule, container=container.name, acl=container.headers.get(READ_ACL, ""),
                              referrer=referrer_host(self._headers.get("referer")))

    def need_write(self, container: ContainerInfo) -> None:
        """Raises unless objects of the container may be written."""
        if self.is_owner:
            return
        acl = parse_acl(container.headers.get(WRITE_ACL, ""))
        if self.identity is None or not self._is_named(acl, self.identity):
            raise self.denied("acl.write", container=container.name, acl=container.headers.get(WRITE_ACL, ""))

    def _is_named(self, acl: Acl, identity: Identity) -> bool:
        """A role counts in the accounts of its own project only."""
        return acl.allows_user(identity.groups) or (self.account in identity.home and not acl.groups.isdisjoint(identity.roles))

    def need_identity(self) -> None:
        """Raises for a stranger: nobody without a token ever writes."""
        if self.identity is None:
            raise self.denied("acl.anonymous_write")
