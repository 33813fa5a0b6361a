"""Header fields to metadata and back: objects replace, accounts and containers merge."""
from __future__ import annotations

from collections.abc import Mapping

from proxy.config import LimitsConfig
from proxy.http.message import Headers
from proxy.model import MetaChange
from proxy.swift.access import READ_ACL, WRITE_ACL
from proxy.swift.acl import clean_acl
from proxy.swift.constraints import check_header_sizes, check_meta, check_meta_totals, check_utf8

OBJECT_META = "x-object-meta-"
STORED_HEADERS = frozenset({             # kept with an object beside its user metadata, replaced as a whole by POST
    "content-encoding", "content-disposition", "content-language", "cache-control", "expires", "x-robots-tag"})
ACLS = (READ_ACL, WRITE_ACL)
OWNER_META = frozenset({"temp-url-key", "temp-url-key-2"})             # keys: for the eyes of the owner only


def as_text(value: str) -> str:
    """A field value, which comes as Latin-1, as UTF-8; bytes that are not UTF-8 as surrogate escapes."""
    return value if value.isascii() else value.encode("latin-1").decode("utf-8", "surrogateescape")


def object_metadata(headers: Headers, limits: LimitsConfig) -> tuple[dict[str, str], dict[str, str]]:
    """(user metadata, stored headers) of an object's PUT or POST. Raises `BadRequest`."""
    meta: dict[str, str] = {}
    stored: dict[str, str] = {}
    items = list(headers.items())
    for name, value in items:
        if name.startswith(OBJECT_META):
            meta[name[14:]] = as_text(value)
        elif name in STORED_HEADERS and value:
            stored[name] = as_text(value)
    check_header_sizes(items, limits)
    if meta:
        check_meta(meta, limits, OBJECT_META)
    return meta, stored


def meta_change(headers: Headers, limits: LimitsConfig, *, kind: str) -> MetaChange:
    """The merge that an account's or container's PUT or POST asks for; an empty value removes. kind: "account", "container".

    Raises `BadRequest` (limits, ACL, not UTF-8).
    """
    prefix, remove_prefix = f"x-{kind}-meta-", f"x-remove-{kind}-meta-"
    changed: dict[str, str] = {}
    removed: dict[str, str] = {}
    items = list(headers.items())
    check_header_sizes(items, limits)
    for name, value in items:
        if name.startswith(prefix):
            changed[name[len(prefix):]] = as_text(value)
        elif name.startswith(remove_prefix):
            removed[name[len(remove_prefix):]] = ""
    check_utf8(changed)
    check_meta(changed, limits, prefix)
    acls = _acl_changes(headers) if kind == "container" else {}

    def check(merged: Mapping[str, str]) -> None:
        check_meta_totals(merged, limits)
    return MetaChange(meta={**removed, **changed}, headers=acls, check=check)


def _acl_changes(headers: Headers) -> dict[str, str]:
    acls: dict[str, str] = {}
    for name in ACLS:
        text = headers.get(name)
        if text is not None:
            check_utf8({name: as_text(text)})
            acls[name] = clean_acl(as_text(text), is_write=name == WRITE_ACL)
        elif f"x-remove-{name[2:]}" in headers:
            acls[name] = ""
    return acls


def meta_fields(prefix: str, meta: Mapping[str, str]) -> list[tuple[str, str]]:
    """Fields of an answer. prefix: "X-Object-Meta-"."""
    return [(prefix + name.title(), value) for name, value in meta.items()]


def stored_fields(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Stored headers as fields of an answer."""
    return [(name.title(), value) for name, value in headers.items()]
