"""The system that is measured: where it is, a login, and single requests for what is not timed."""
from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from common.errors import BenchFailed

PAGE_ROWS = 1000
_TIMEOUT_S = 60.0
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What has to be known of a system."""

    auth_url: str                            # http://HOST:PORT/auth/v1.0
    user: str                                # ACCOUNT:USER
    key: str
    root_pid: int | None = None              # its supervisor, if it runs on this machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Fields by lower-case name."""

    status: int
    fields: dict[str, str]
    body: bytes = b""


class Target:
    """A system and a token for it."""

    def __init__(self, login: Login) -> None:
        """Logs in. Raises `BenchFailed`."""
        url = urlsplit(login.auth_url)
        if url.scheme != "http" or not url.hostname:
            raise BenchFailed(reason=f"{login.auth_url}: only http://HOST:PORT can be measured; TLS would measure the client's TLS")
        self.root_pid, self.port, self.host = login.root_pid, url.port or 80, url.netloc.rsplit("@", 1)[-1]
        try:
            self.address = str(socket.getaddrinfo(url.hostname, self.port, type=socket.SOCK_STREAM)[0][4][0])
        except OSError as error:
            raise BenchFailed(reason=f"{url.hostname} has no address: {error}") from error
        self.token = ""
        answer = self._request("GET", url.path, {"X-Auth-User": login.user, "X-Auth-Key": login.key})
        if answer.status // 100 != 2:
            raise BenchFailed(reason=f"{login.auth_url} answered {answer.status} to the login of {login.user}")
        self.token = answer.fields.get("x-auth-token", "")
        self.path = urlsplit(answer.fields.get("x-storage-url", "")).path.rstrip("/")
        if not self.token or not self.path:
            raise BenchFailed(reason=f"{login.auth_url} answered without a token or without a storage URL")

    def request(self, method: str, path: str, body: bytes = b"") -> Answer:
        """One request below the account, on a connection of its own; path begins with a slash. Raises `BenchFailed`."""
        return self._request(method, self.path + path, {"X-Auth-Token": self.token}, body)

    def list_page(self, container: str, *, marker: str = "", prefix: str = "",
                  limit: int = PAGE_ROWS) -> tuple[int, list[str] | None]:
        """Bytes and names of one page; None for an answer that is no listing."""
        answer = self.request("GET", f"/{container}?{page_query(marker=marker, prefix=prefix, limit=limit)}")
        try:
            rows = json.loads(answer.body) if answer.status == 200 else None
            return len(answer.body), None if rows is None else [row["name"] for row in rows]
        except (ValueError, KeyError, TypeError):
            return len(answer.body), None

    def find_difference(self, path: str, body: memoryview) -> str | None:
        """None if a GET answers exactly `body`, else a sentence."""
        with self._answering("GET", self.path + path, {"X-Auth-Token": self.token}) as answer:
            if answer.status != 200:
                return f"{path}: answered {answer.status}"
            at = 0
            while chunk := answer.read(_CHUNK_BYTES):
                if body[at:at + len(chunk)] != chunk:
                    return f"{path}: other bytes than were written, from {at} on"
                at += len(chunk)
            return None if at == len(body) else f"{path}: {at} bytes instead of {len(body)}"

    def _request(self, method: str, path: str, fields: dict[str, str], body: bytes = b"") -> Answer:
        with self._answering(method, path, fields, body) as answer:
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(status=answer.status, fields=found, body=answer.read())

    @contextmanager
    def _answering(self, method: str, path: str, fields: dict[str, str], body: bytes = b"") -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self.address, self.port, timeout=_TIMEOUT_S)
        try:
            connection.request(method, path, body=body if method == "PUT" else None, headers={"Host": self.host, **fields})
            yield connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise BenchFailed(reason=f"{method} http://{self.host}{path}: {error or type(error).__name__}") from error
        finally:
            connection.close()


def page_query(*, marker: str = "", prefix: str = "", limit: int = PAGE_ROWS) -> str:
    """As clients ask for a page."""
    given = {"format": "json", "limit": str(limit), "marker": marker, "prefix": prefix}
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in given.items() if value)
