"""Clients of the checker: real HTTP, each on a connection to the gateway it was told to use, a few keys for all of them."""
from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from tests.fault.history.record import GET, HEAD, LIST, POST, PUT, Event

PATIENCE_S = 30.0                        # longer than any deadline of the node
CONNECTS_MAX = 40                        # connections that are tried for one of the wanted gateway
LARGE_BYTES, SMALL_BYTES = 100_000, 200
MIX = {"put": 22, "put if absent": 6, "put if match": 8, "delete": 8, "delete if match": 2, "post": 10,
       "get": 22, "get if match": 3, "get if none match": 3, "head": 8, "list": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the clients work. pids: of the workers, in their order, as they are now."""

    url: str                             # of the account
    token: str
    container: str
    keys: tuple[str, ...]
    pids: Callable[[], Sequence[int | None]]


class History:
    """What all clients have seen so far, and how far they are to go."""

    def __init__(self, goal: int) -> None:
        self.goal = goal
        self.events: list[Event] = []
        self.errors: list[BaseException] = []            # of clients that could not go on
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self.is_over = threading.Event()

    def next_number(self) -> int:
        return next(self._numbers)

    def add(self, event: Event) -> None:
        with self._lock:
            self.events.append(event)
            if len(self.events) >= self.goal:
                self.is_over.set()


class Client(threading.Thread):
    """One at a time: a request, its answer, the next."""

    def __init__(self, place: Place, history: History, number: int, *, gateway: int | None, seed: int, mix: dict[str, int],
                 tags: dict[str, list[str]]) -> None:
        """gateway: the worker to talk to, None for any. tags: those seen of each key, shared among all clients."""
        super().__init__(name=f"client {number}", daemon=True)
        self._place, self._history, self._number, self._gateway = place, history, number, gateway
        self._rng = random.Random(f"{seed}/{number}")
        self._kinds, self._weights = list(mix), list(mix.values())
        self._tags = tags
        self._connection: http.client.HTTPConnection | None = None
        self._at: int | None = None      # the gateway of the connection
        self._parts = urlsplit(place.url)

    def run(self) -> None:
        try:
            while not self._history.is_over.is_set():
                kind = self._rng.choices(self._kinds, self._weights)[0]
                self._history.add(self.step(kind, self._rng.choice(self._place.keys)))
        except Exception as error:       # a thread's exception is seen by nobody else
            self._history.errors.append(error)
            self._history.is_over.set()
        finally:
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # requests

    def step(self, kind: str, key: str) -> Event:
        """One request of one kind."""
        number = self._history.next_number()
        verb, _, condition = kind.partition(" if ")
        if verb == LIST:
            return self._list(number)
        asked: dict[str, Any] = {}
        if verb in (PUT, POST):
            asked["mark"] = f"m{number}"
        body = None
        if verb == PUT:
            size = LARGE_BYTES if self._rng.random() < 0.03 else self._rng.randrange(SMALL_BYTES)
            body = f"{key} {number} ".encode() + self._rng.randbytes(size)
            asked |= {"tag": hashlib.md5(body).hexdigest(), "size": len(body)}
        known = self._tags[key][-3:]
        if condition == "absent":
            asked["if_none_match"] = "*"
        elif condition and known:
            asked["if_match" if condition == "match" else "if_none_match"] = self._rng.choice(known)
        return self._ask(number, verb, key, body, asked)

    def _ask(self, number: int, verb: str, key: str, body: bytes | None, asked: dict[str, Any]) -> Event:
        headers = {name: asked[fact] for fact, name in (("mark", "X-Object-Meta-Mark"), ("if_match", "If-Match"),
                                                        ("if_none_match", "If-None-Match")) if fact in asked}
        began = self._begin(number, verb, key, asked)
        answer = self._request(verb.upper(), f"/{self._place.container}/{quote(key)}", body, headers)
        if answer is None:
            return began
        status, found, fields = answer
        event = replace(began, gateway=self._at, status=status, end_s=time.monotonic(), is_pending="x-listing" in fields)
        if verb in (GET, HEAD) and "etag" in fields:
            event = _seen(event, fields, found if verb == GET and status == 200 else None)
        if verb == PUT and status == 201 and fields.get("etag") != event.tag:
            event = replace(event, wrong=f"201 with the ETag {fields.get('etag')}")
        seen = event.tag if verb == PUT and status == 201 else event.seen[0] if event.seen is not None else None
        if seen is not None and seen not in self._tags[key][-3:]:
            self._tags[key].append(seen)
        return event

    def _list(self, number: int) -> Event:
        began = self._begin(number, LIST, "", {})
        answer = self._request("GET", f"/{self._place.container}?format=json&limit=10000", None, {})
        if answer is None:
            return began
        status, found, _ = answer
        rows = {row["name"]: (row["hash"], row["bytes"]) for row in json.loads(found)} if status == 200 else {}
        return replace(began, gateway=self._at, status=status, end_s=time.monotonic(), rows=rows)

    def _begin(self, number: int, verb: str, key: str, asked: dict[str, Any]) -> Event:
        self.connect()
        return Event(number=number, client=self._number, gateway=self._at, verb=verb, key=key, begin_s=time.monotonic(), end_s=None,
                     **asked)

    # connections

    def _request(self, method: str, path: str, body: bytes | None,
                 headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]] | None:
        """Status, body, fields by lower-case name; None when the connection broke, with whatever that means."""
        connection = self._connection
        if connection is None:
            return None
        try:
            connection.request(method, self._parts.path + path, body, {"X-Auth-Token": self._place.token, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        except (OSError, http.client.HTTPException):
            self.close()
            time.sleep(0.01)             # a real client backs off, too
            return None

    def connect(self) -> None:
        """To the gateway we want, if it serves; else to any."""
        if self._connection is not None:
            return
        for attempt in range(CONNECTS_MAX):
            connection = http.client.HTTPConnection(self._parts.netloc, timeout=PATIENCE_S)
            try:
                connection.request("GET", "/healthcheck")        # a connection has an owner once it was accepted
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection.close()
                time.sleep(0.02)
                continue
            self._at = find_gateway(connection, self._place.pids())
            if self._gateway is None or self._at == self._gateway or attempt == CONNECTS_MAX - 1:
                self._connection = connection
                return
            connection.close()


def _seen(event: Event, fields: dict[str, str], body: bytes | None) -> Event:
    """What a read was answered with. body: of a GET that sent one."""
    seen = (fields["etag"], fields.get("x-object-meta-mark", ""))
    if body is None:
        size = int(fields["content-length"]) if event.verb == HEAD and event.status == 200 else None
        return replace(event, seen=seen, size=size)
    digest = hashlib.md5(body).hexdigest()
    wrong = None if digest == seen[0] else f"a body whose MD5 is {digest} with the ETag {seen[0]}"
    return replace(event, seen=seen, size=len(body), wrong=wrong)


def find_gateway(connection: http.client.HTTPConnection, pids: Sequence[int | None]) -> int | None:
    """The number of the worker that has accepted this connection, None if the kernel does not say: it is on this machine."""
    if connection.sock is None:
        return None
    host, port = connection.sock.getsockname()[:2]
    inode = None
    table = "/proc/net/tcp6" if ":" in host else "/proc/net/tcp"
    for line in Path(table).read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].rsplit(":", 1)[1], 16) == port and int(fields[1].rsplit(":", 1)[1], 16) == connection.port:
            inode = f"socket:[{fields[9]}]"
    if inode is None:
        return None
    for number, pid in enumerate(pids):
        try:
            if pid is not None and any(_target(link) == inode for link in Path(f"/proc/{pid}/fd").iterdir()):
                return number
        except OSError:
            continue                     # it has just ended
    return None


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
