"""Under which URL a client reached us, for the links in answers: clients follow them."""
from __future__ import annotations

import re
from collections.abc import Mapping

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]{1,64}){0,8}")


def base_url(headers: Mapping[str, str], *, scheme: str, fallback: str, public_url: str | None = None) -> str:
    """Without a slash at its end. public_url: what the operator said, and then it is that.

    Else what a proxy in front of us or the client's Host says; a value that is no host is not repeated. fallback: host:port
    of our listener.
    """
    if public_url is not None:
        return public_url.rstrip("/")
    forwarded = headers.get("X-Forwarded-Proto", "").split(",")[0].strip().lower()
    scheme = forwarded if forwarded in ("http", "https") else scheme
    for given in (headers.get("X-Forwarded-Host", "").split(",")[0].strip(), headers.get("Host", "")):
        if _HOST.fullmatch(given):
            break
    else:
        given = fallback
    prefix = headers.get("X-Forwarded-Prefix", "").rstrip("/")
    return f"{scheme}://{given}{prefix if _PREFIX.fullmatch(prefix) else ''}"
