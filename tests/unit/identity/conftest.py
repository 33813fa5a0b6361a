"""An identity service in this process: its own database, cheap hashes, a clock that tests move."""
from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from sqlalchemy import text

from common.clock import ManualClock
from identity.app import make_app, make_service
from identity.bootstrap import CatalogSeed, Seed, UserSeed, bootstrap
from identity.config import IdentityConfig
from identity.main import close_identity, open_identity
from identity.passwords import Passwords
from tests.postgres import Content, PostgresServer

ADMIN_PASSWORD = "of the administrator"
CATALOG = (CatalogSeed(type="identity", name="identity", url="http://127.0.0.1:5000/v3"),
           CatalogSeed(type="object-store", name="object-store", url="http://%(host)s:8080/v1/AUTH_%(project_id)s"))
USERS = (UserSeed(account="demo", name="demo", key="demo key", key_hash=None, is_admin=True),
         UserSeed(account="acme", name="bob", key="bob's key", key_hash=None, is_admin=False))
SEED = Seed(admin_password=ADMIN_PASSWORD, print_key=b"k" * 32, catalog=CATALOG, users=USERS)


def cheap_passwords(**options: int) -> Passwords:
    return Passwords(memory_kib=8, passes=1, **options)


class Answer:
    def __init__(self, status: int, headers: Any, body: Any) -> None:
        self.status, self.headers, self.body = status, headers, body

    def __repr__(self) -> str:
        return f"{self.status} {self.body}"


class Cloud:
    """The service and a few words to talk to it. `admin`: a token of the administrator for the project admin."""

    def __init__(self, client: TestClient, state: Any, clock: ManualClock, service: Any) -> None:
        self.client, self.state, self.clock, self.service = client, state, clock, service
        self.admin = ""
        self.project = ""

    async def call(self, method: str, path: str, body: Any = None, *, token: str | None = None, raw: bytes | None = None,
                   **headers: str) -> Answer:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            fields["X-Auth-Token"] = token
        options: dict[str, Any] = {"json": body} if body is not None else {}
        if raw is not None:
            options = {"data": raw}
            fields.setdefault("Content-Type", "application/json")
        async with self.client.request(method, path, headers=fields, **options) as answer:
            data = await answer.read()
            is_json = data and answer.content_type == "application/json"
            return Answer(answer.status, answer.headers, await answer.json() if is_json else data)

    async def as_admin(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        return await self.call(method, path, body, token=self.admin, **headers)

    async def make(self, kind: str, *, token: str | None = None, **fields: Any) -> dict[str, Any]:
        """A new resource, by the administrator unless a token is given."""
        many = {"policy": "policies"}.get(kind, kind + "s")
        answer = await self.call("POST", f"/v3/{many}", {kind: fields}, token=token or self.admin)
        assert answer.status == 201, answer
        return dict(answer.body[kind])

    async def try_login(self, identity: dict[str, Any], scope: Any = None) -> Answer:
        auth = {"identity": identity, **({"scope": scope} if scope is not None else {})}
        return await self.call("POST", "/v3/auth/tokens", {"auth": auth})

    async def login(self, user: dict[str, Any] | str, password: str, scope: Any = None) -> str:
        """A token. user: an id, or {"name", "domain"}."""
        who = {"id": user} if isinstance(user, str) else user
        answer = await self.try_login({"methods": ["password"], "password": {"user": {**who, "password": password}}}, scope)
        assert answer.status == 201, answer
        return str(answer.headers["X-Subject-Token"])

    async def role(self, name: str) -> str:
        answer = await self.as_admin("GET", f"/v3/roles?name={name}")
        return str(answer.body["roles"][0]["id"])

    async def grant(self, user_id: str, role: str, *, project: str | None = None, domain: str | None = None) -> None:
        where = f"projects/{project}" if project else f"domains/{domain}"
        answer = await self.as_admin("PUT", f"/v3/{where}/users/{user_id}/roles/{await self.role(role)}")
        assert answer.status == 204, answer

    async def member(self, role: str = "member", name: str = "alice") -> tuple[str, str, str]:
        """(user id, project id, token): a user with a role in a project of its own."""
        user = await self.make("user", name=name, password=name)
        project = await self.make("project", name=f"project of {name}")
        await self.grant(user["id"], role, project=project["id"])
        return user["id"], project["id"], await self.login(user["id"], name, {"project": {"id": project["id"]}})


async def _beside(cloud: Cloud, change: Any, request: Any) -> Any:
    """Commit `change` once `request` waits for it; the answer. On SQLite requests wait for the one writer by themselves."""
    state = cloud.state
    with state.database.engine.connect() as connection, connection.begin():
        connection.info["holdfast.after_commit"] = []
        state.change(connection)
        change(connection)
        task = asyncio.create_task(request)
        async with asyncio.timeout(20):
            while not state.database.is_sqlite and not await state.database.read(_waiting):
                assert not task.done(), (await task, "it waited for nothing")
    return await task


def _waiting(connection: Any) -> Any:
    return connection.execute(text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                                   "AND wait_event_type = 'Lock'")).scalar()


@pytest.fixture
def beside() -> Any:
    """`await beside(cloud, change, request)`: the answer to a request that comes while change(connection) is not committed."""
    return _beside


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with a migrated and bootstrapped database, made once."""
    root = tmp_path_factory.mktemp("identity")
    state = open_identity(IdentityConfig(), root, clock=ManualClock(), passwords=cheap_passwords())
    state.database.run_here(bootstrap, state, SEED)
    close_identity(state)
    return root


@pytest.fixture(scope="session")
def postgres_content(postgres_server: PostgresServer, template: Path) -> Content:
    """The same as a PostgreSQL database."""
    url = postgres_server.create()
    state = open_identity(IdentityConfig(database=url), template, clock=ManualClock(), passwords=cheap_passwords())
    state.database.run_here(bootstrap, state, SEED)
    close_identity(state)
    return Content(url)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs_postgresql)])
def identity_url(request: pytest.FixtureRequest) -> str | None:
    """A database as the template's is: None for the SQLite file of the state directory, else a URL."""
    if request.param == "sqlite":
        return None
    content: Content = request.getfixturevalue("postgres_content")
    content.put_back()
    return content.url


@asynccontextmanager
async def open_cloud(root: Path, **settings: Any) -> AsyncIterator[Cloud]:
    """The service over a state directory that was bootstrapped."""
    clock = ManualClock()
    state = open_identity(IdentityConfig(**settings), root, clock=clock, passwords=cheap_passwords())
    await state.database.read(state.refresh_here)
    service = make_service(state, clock=clock)
    try:
        async with TestClient(TestServer(make_app(service))) as client:
            cloud = Cloud(client, state, clock, service)
            cloud.admin = await cloud.login({"name": "admin", "domain": {"id": "default"}}, ADMIN_PASSWORD,
                                            {"project": {"name": "admin", "domain": {"id": "default"}}})
            yield cloud
    finally:
        close_identity(state)


@pytest.fixture
def reopen_cloud() -> Any:
    """`async with reopen_cloud(root, database=url) as cloud:`: a service of its own over that state directory."""
    return open_cloud


@pytest.fixture
def make_cloud(template: Path, tmp_path: Path, identity_url: str | None) -> Iterator[Any]:
    """`async with make_cloud(setting=value) as cloud:`; on SQLite, then on PostgreSQL."""

    @asynccontextmanager
    async def make(**settings: Any) -> AsyncIterator[Cloud]:
        root = tmp_path / "state"
        if not root.exists():
            shutil.copytree(template, root)
        settings = {**settings, **({"database": identity_url} if identity_url is not None else {})}
        async with open_cloud(root, **settings) as cloud:
            yield cloud

    old_mask = os.umask(0o077)
    try:
        yield make
    finally:
        os.umask(old_mask)                   # tests of other files run in this process as well
