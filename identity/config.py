"""Settings of identity."""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from common.address import parse_address
from common.config import setting


def _check_listen(text: str) -> None:
    if text:
        parse_address(text)


def _check_regex(text: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """TOML table [identity]: the Identity API, and what its passwords have to be."""

    listen: str = setting("127.0.0.1:5000", "Identity API; empty: not on this node; port 0 if node.listen has port 0",
                          check=_check_listen)
    public_url: str | None = setting(None, "how clients reach it, if not by the address they name",
                                     example='"https://id.example.org"')
    database: str | None = setting(None, "a SQLite file in the state directory, or a PostgreSQL URL", is_secret=True,
                                   needs_private_file=True, example='"postgresql://holdfast@db.example.org/holdfast"')
    token_life_s: int = setting(3_600, "how long a token is good", low=60, high=604_800)
    auth_grace_s: int = setting(300, "a gateway that identity does not reach serves what it knows for so long", low=1, high=86_400)
    lockout_failures: int = setting(10, "wrong passwords in a row that lock a user out; 0: never", low=0, high=1_000)
    lockout_s: int = setting(300, "how long, unless unlocked", low=1, high=86_400_000)
    password_regex: str = setting("", "what a new password has to match", check=_check_regex)
    password_days: int = setting(0, "a password expires after so many days; 0: never", low=0, high=36_500)
    password_history: int = setting(0, "so many last passwords a user may not choose again", low=0, high=100)

    def problems(self) -> Iterator[tuple[str, str]]:
        """A URL that is none."""
        if self.public_url is not None and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", self.public_url):
            yield "public_url", f"identity.public_url must begin with http:// or https://, not {self.public_url!r}"
