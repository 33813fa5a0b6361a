"""Figures of identity for docs/performance.md: what a token costs, and how long lists are.

    python -m tools.identity_figures

CPU of this process, client and server together; passwords are hashed cheaply, so that the figures are those of the rest.
"""
from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer
from sqlalchemy import Connection, insert

from common.clock import SystemClock
from identity.app import make_app, make_service
from identity.bootstrap import CatalogSeed, Seed, bootstrap
from identity.config import IdentityConfig
from identity.main import close_identity, open_identity
from identity.model import project, user
from identity.passwords import Passwords
from identity.state import Identity
from identity.token_api import LocalTokens
from identity.tokens import decode_token

_TYPES = ("identity", "object-store", "image", "network", "compute", "block-storage")
_SEED = Seed(admin_password="x", print_key=b"k" * 32, catalog=tuple(
    CatalogSeed(type=one, name=one, url=f"http://%(host)s:1/{one}/%(project_id)s") for one in _TYPES))
_DOMAIN = {"id": "default"}
_USER = {"name": "admin", "domain": _DOMAIN, "password": "x"}
_LOGIN = {"auth": {"identity": {"methods": ["password"], "password": {"user": _USER}},
                   "scope": {"project": {"name": "admin", "domain": _DOMAIN}}}}
_ROWS = 10_000


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system


async def _cost_us(count: int, once: Callable[[], Awaitable[object]]) -> float:
    before = _cpu_s()
    for _ in range(count):
        await once()
    return (_cpu_s() - before) / count * 1e6


def _fill(connection: Connection) -> None:
    connection.execute(insert(user), [{
        "id": f"u{n:05}", "domain_id": "default", "name": f"u{n:05}", "enabled": True, "must_change_password": False, "options": {},
        "extra": {}, "failed_count": 0, "created_us": 0} for n in range(_ROWS)])
    connection.execute(insert(project), [{
        "id": f"p{n:05}", "name": f"p{n:05}", "domain_id": "default", "parent_id": "default", "is_domain": False, "enabled": True,
        "options": {}, "extra": {}} for n in range(_ROWS)])


async def _measure(state: Identity, client: TestClient[Any, Any]) -> None:
    async def issue() -> str:
        async with client.post("/v3/auth/tokens", json=_LOGIN) as answer:
            await answer.read()
            return str(answer.headers["X-Subject-Token"])

    async def bare() -> None:
        async with client.get("/v3") as answer:
            await answer.read()

    token = await issue()
    tokens = LocalTokens(state)

    async def unseen() -> None:
        state.forget_contexts()
        await tokens.authenticate(token, None)

    async def opened() -> None:
        decode_token(token, state.keys)

    async def seen() -> None:
        await tokens.authenticate(token, None)

    print(f"issue a token: {await _cost_us(400, issue) / 1e3:.2f} ms, of which HTTP {await _cost_us(400, bare) / 1e3:.2f} ms")
    print(f"judge a token: {await _cost_us(500, unseen):.0f} us with the database, {await _cost_us(20_000, seen):.1f} us seen; "
          f"to open it alone {await _cost_us(20_000, opened):.1f} us; {len(token)} characters")
    await state.database.run(_fill)
    clock = SystemClock()
    for kind in ("users", "projects"):
        url, pages, count, begun_s = f"/v3/{kind}?limit=1000", 0, 0, clock.monotonic_s()
        while url:
            async with client.get(url, headers={"X-Auth-Token": token}) as answer:
                body = await answer.json()
            count, pages = count + len(body[kind]), pages + 1
            url = "/" + body["links"]["next"].split("/", 3)[3] if body["links"]["next"] else ""
        print(f"list {count} {kind}: {pages} pages in {clock.monotonic_s() - begun_s:.2f} s")


async def main() -> None:
    """Prints the figures."""
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as directory:
        state = open_identity(IdentityConfig(), Path(directory), clock=clock, passwords=Passwords(memory_kib=8, passes=1))
        await state.database.run(bootstrap, state, _SEED)
        async with TestClient(TestServer(make_app(make_service(state, clock=clock)))) as client:
            await _measure(state, client)
        close_identity(state)


if __name__ == "__main__":
    asyncio.run(main())
