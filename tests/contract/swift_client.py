"""A client of the Swift door without a socket: requests in, whole answers out."""
from __future__ import annotations

import json
from contextlib import asynccontextmanager
from urllib.parse import quote

from common.clock import ManualClock
from common.cluster_config import Policy
from proxy.auth import User, V1Auth
from proxy.config import AuthConfig, LimitsConfig, ResellerRow
from proxy.http.message import Body, Headers, Request
from proxy.swift.context import DoorSettings
from proxy.swift.door import SwiftDoor

POLICIES = (Policy(index=0, name="standard", replicas=3, is_default=True, sync="batch"),
            Policy(index=1, name="Silver", replicas=2, is_default=False, sync="batch"))
USERS = (
    User(account="demo", name="alice", groups=frozenset({".admin"}), key="wonder"),
    User(account="demo", name="bob", groups=frozenset({"readers"}), key="builder"),
    User(account="other", name="carol", groups=frozenset({".admin"}), key="singer"),
    User(account="ops", name="root", groups=frozenset({".admin", ".reseller_admin"}), key="toor"),
    User(account="svc", name="glance", groups=frozenset({"service"}), key="images"),
)
AUTH = AuthConfig(reseller=(ResellerRow(prefix="AUTH"), ResellerRow(prefix="SERVICE", require_group="service")))


class Answer:
    def __init__(self, response, body):
        self.status = response.status
        self.body = body
        self.fields = response.headers
        self.headers = {name.lower(): value for name, value in response.headers}
        assert len(self.headers) == len(response.headers), f"a field twice: {response.headers}"
        self.length = response.content_length

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def text(self):
        return self.body.decode()


class Slow:
    """A body that is not here yet, and counts whether anybody asked for it."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)
        self.was_read = False

    def take_ready(self):
        return None

    async def read(self):
        self.was_read = True
        piece = self.pieces.pop(0) if self.pieces else b""
        if isinstance(piece, Exception):
            raise piece
        return piece


class SwiftClient:
    def __init__(self, store, clock, *, limits=None, settle=None, **settings):
        self.store, self.clock = store, clock
        self.auth = V1Auth(USERS, AUTH, token_key=b"k" * 32, clock=clock)
        options = DoorSettings(limits=limits or LimitsConfig(), policies=POLICIES, **settings)
        self.door = SwiftDoor(store, options, self.auth, clock)
        self.tokens = {}
        self._settle = settle

    async def settle(self):
        """Wait until figures that may trail have arrived."""
        if self._settle is not None:
            await self._settle()

    async def raw(self, method, raw_path, fields=None, body=b"", *, source=None, length=None, query=b"", **options):
        pairs = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in (fields or {}).items()]
        if source is not None:
            sent = Body(length, source=source)
        else:
            sent = Body.from_bytes(body)
            if method in ("PUT", "POST") and body is not None and "Content-Length" not in (fields or {}):
                pairs.append((b"Content-Length", str(len(body)).encode()))
        request = Request(method=method, raw_path=raw_path, raw_query=query, headers=Headers(pairs), body=sent,
                          **{"host": "store.example:8080", **options})
        response = await self.door(request)
        whole = response.body
        if not isinstance(whole, bytes):
            whole = b"".join([piece async for piece in response.body])
        return Answer(response, whole)

    async def token(self, user="demo:alice"):
        if user not in self.tokens:
            key = next(u.key for u in USERS if u.id == user)
            self.tokens[user] = (await self.auth.login(user, key)).token
        return self.tokens[user]

    async def call(self, method, path, fields=None, body=b"", *, user="demo:alice", account="AUTH_demo", query="", **options):
        """path: "container/object", not encoded; user: None for a stranger."""
        fields = dict(fields or {})
        if user is not None:
            fields["X-Auth-Token"] = await self.token(user)
        raw_path = f"/v1/{quote(account)}" + (f"/{quote(path)}" if path else "")
        return await self.raw(method, raw_path.encode(), fields, body, query=query.encode(), **options)

    async def put(self, path, body=b"", fields=None, **options):
        answer = await self.call("PUT", path, fields, body, **options)
        assert answer.status in (201, 202), (answer.status, answer.body)
        return answer

    async def names(self, container, query="", **options):
        """A listing as JSON: names, rolled-up ones as they are."""
        answer = await self.call("GET", container, query="format=json&" + query, **options)
        assert answer.status == 200, (answer.status, answer.body)
        return [row.get("subdir") or row["name"] for row in answer.json]


@asynccontextmanager
async def swift(open_store, **options):
    """A door over a fresh store. options: of `SwiftClient`."""
    clock = ManualClock()
    async with open_store(clock) as opened:
        store, settle = opened
        client = SwiftClient(store, clock, settle=settle, **options)
        try:
            yield client
        finally:
            client.auth.close()
