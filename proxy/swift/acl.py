"""Container ACLs: `.r:*`, `.r:-host`, `.rlistings`, `account`, `account:user`, `project:user`, `role`, `*`.

Which elements mean somebody is decided where a token is judged (`proxy.auth.Identity.groups`): here they are texts. Of accounts and
projects `name:*` is everybody. An element of ours beyond what Swift has: `*`, as `*:*`, is every user with a valid token.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from common.errors import BadRequest

_REFERRER_WORDS = (".r", ".ref", ".referer", ".referrer")


@dataclass(frozen=True, slots=True)
class Acl:
    """referrers: hosts in order, "-" before one that is excluded; groups: names of users, accounts and groups."""

    referrers: tuple[str, ...] = ()
    groups: frozenset[str] = frozenset()

    def allows_referrer(self, referrer: str | None) -> bool:
        """Whether a request that came from a page at `referrer` (a URL or None) is allowed; the last match decides."""
        if not self.referrers:
            return False
        host = referrer_host(referrer)
        is_allowed = False
        for rule in self.referrers:
            excluded = rule.startswith("-")
            wanted = rule[1:] if excluded else rule
            if wanted == host or (wanted.startswith(".") and host.endswith(wanted)) or (wanted == "*" and not excluded):
                is_allowed = not excluded
        return is_allowed

    def allows_user(self, groups: frozenset[str]) -> bool:
        """Whether a user with a valid token and these groups is allowed."""
        return not self.groups.isdisjoint(groups) or "*" in self.groups or "*:*" in self.groups

    @property
    def allows_listing(self) -> bool:
        """Whether those who come by referrer may list the container."""
        return ".rlistings" in self.groups


def clean_acl(text: str, *, is_write: bool) -> str:
    """The normal form that is stored. Raises `BadRequest` for what `parse_acl` would not understand."""
    cleaned = []
    for element in (part.strip() for part in text.split(",")):
        if not element:
            continue
        word, colon, rest = (part.strip() for part in element.partition(":"))
        if not colon or not word.startswith("."):
            cleaned.append(element)
        elif word in _REFERRER_WORDS:
            cleaned.append(_clean_referrer(element, rest, is_write))
        else:
            raise BadRequest(reason=f"Unknown designator {word!r} in ACL: {element!r}").because("acl.syntax")
    return ",".join(cleaned)


def _clean_referrer(element: str, host: str, is_write: bool) -> str:
    if is_write:
        raise BadRequest(reason=f"Referrers not allowed in write ACL: {element!r}").because("acl.syntax")
    sign = "-" if host.startswith("-") else ""
    host = host.removeprefix("-").strip()
    if host != "*":
        host = host.removeprefix("*").strip()                         # "*.example.com" is ".example.com"
    if host in ("", "."):
        raise BadRequest(reason=f"No host/domain value after referrer designation in ACL: {element!r}").because("acl.syntax")
    return f".r:{sign}{host}"


@lru_cache(maxsize=1024)
def parse_acl(text: str) -> Acl:
    """A stored ACL; never fails: an element without meaning allows nothing. Names with commas are percent-encoded."""
    elements = text.split(",")
    referrers = tuple(element[3:] for element in elements if element.startswith(".r:"))
    groups = {unquote(element) for element in elements if element and not element.startswith(".r:")}
    return Acl(referrers, frozenset(groups))


def referrer_host(referrer: str | None) -> str:
    """The host that a Referer field names, "unknown" if none."""
    try:
        return urlsplit(referrer or "").hostname or "unknown"
    except ValueError:                                                 # "http://[" is no URL
        return "unknown"
