"""The path of a request taken apart: /v1/account/container/object. Bytes of any kind in, names that are UTF-8 out."""
from __future__ import annotations

from typing import NamedTuple

from proxy.errors import Refusal

API_VERSIONS = ("v1", "v1.0")


class Path(NamedTuple):
    """Names of what a request is about; "" for what it does not name. The object may hold slashes."""

    account: str
    container: str = ""
    object: str = ""


def split_path(path: bytes) -> Path:
    """Names in a decoded path that begins with an API version.

    A trailing slash means nothing; an empty name in front of another is no name. Raises `Refusal` 412.
    """
    try:
        text = path.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise Refusal(412, "Invalid UTF8 or contains NULL").because("names.utf8")
    names = text.split("/", 4)[2:]
    while names and not names[-1]:
        names.pop()
    if not names or "" in names:
        raise Refusal(412, "Bad URL").because("names.path")
    return Path(*names)


def split_pair(text: str) -> tuple[str, str] | None:
    """(container, object) of a decoded "container/object", one leading slash allowed; None if it is none."""
    container, slash, name = text.removeprefix("/").partition("/")
    return (container, name) if container and slash and name else None
