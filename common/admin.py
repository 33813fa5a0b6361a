"""The admin port: `/admin/v1` (JSON, bearer token), `/metrics` and `/healthz` (open: they hold no secrets), and its client.

Who has something to administer registers an `AdminRoute`; every operator command is a client of this API. An error is
`{"error": {"code", "message", "fields"}}`, and `AdminClient` raises the same class again.
"""
from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from common.address import Address
from common.errors import (
    BadRequest,
    ConfigError,
    NotFound,
    StorageError,
    TransportLost,
    Unauthorized,
    error_from_wire,
    error_to_wire,
)
from common.http_lines import Connection, expect, name_server
from common.log import Repeats, get_logger
from common.secrets import load_secret, same_secret

PREFIX = "/admin/v1"
KEY_FILE = "admin.key"                         # below STATE/secrets
CODE_FIELD = "X-Error-Code"
_BODY_BYTES_MAX = 1 << 20
_STATUS = {"bad_request": 400, "config_error": 400, "ring_error": 400, "unauthorized": 401, "forbidden": 403, "not_found": 404,
           "conflict": 409, "precondition_failed": 412, "body_too_large": 413}
_log = get_logger("common.admin")
NoteCall = Callable[[str, str, str, int, float, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminRequest:
    """One call: `params` from the path, `query` from the URL, `body` from JSON ({} if there is none)."""

    params: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminRoute:
    """`path` below /admin/v1, as in "/devices/{device}"; the handler returns what JSON can say, or raises a `StorageError`."""

    method: str
    path: str
    handler: Callable[[AdminRequest], Awaitable[object]]


def make_admin_app(routes: Iterable[AdminRoute], *, key: str, read_metrics: Callable[[], Awaitable[str]],
                   read_health: Callable[[], Awaitable[Mapping[str, object]]],
                   note_call: NoteCall | None = None) -> web.Application:
    """The application. read_metrics: Prometheus' text. read_health: facts, of which `is_healthy` decides 200 or 503.

    note_call: told of each call below /admin: method, path, address, status, seconds, code of the error or "".
    """
    assert key, "an empty key would let everybody in"

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=await read_metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def healthz(_: web.Request) -> web.Response:
        facts = await read_health()
        return web.json_response(dict(facts), status=200 if facts.get("is_healthy", True) else 503)

    guards = [_make_guard(key)] if note_call is None else [_make_witness(note_call), _make_guard(key)]
    app = web.Application(middlewares=guards, client_max_size=_BODY_BYTES_MAX)
    app.on_response_prepare.append(name_server)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    for route in routes:
        app.router.add_route(route.method, PREFIX + route.path, _make_handler(route), expect_handler=expect)
    return app


class AdminServer:
    """Listens until `cleanup`."""

    def __init__(self, runner: web.AppRunner, server: asyncio.Server) -> None:
        self._runner, self._server = runner, server

    async def cleanup(self) -> None:
        """Take no new connection, let calls end."""
        self._server.close()
        await self._runner.cleanup()


async def start_admin(app: web.Application, address: Address) -> tuple[AdminServer, Address]:
    """Listen; the address returned has the port that the kernel chose for port 0. The caller awaits `cleanup()`."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    manager, repeats, loop = runner.server, Repeats(_log), asyncio.get_running_loop()
    assert manager is not None
    try:
        server = await loop.create_server(lambda: Connection(manager, render=_render_broken, repeats=repeats, loop=loop),
                                          address.host or None, address.port, reuse_address=True)
    except BaseException:
        await runner.cleanup()
        raise
    return AdminServer(runner, server), Address(address.host, server.sockets[0].getsockname()[1])


def _render_broken(status: int, sentence: str) -> tuple[str, str]:
    """What is no HTTP request."""
    code = "bad_request" if status < 500 else "storage_error"
    return "application/json", json.dumps({"error": {"code": code, "message": sentence, "fields": {"reason": sentence}}})


def _make_witness(note_call: NoteCall) -> Any:
    @web.middleware
    async def witness(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        """Around the guard, so that it sees what that refuses."""
        began_s = asyncio.get_running_loop().time()
        response = await handler(request)
        if request.path.startswith("/admin"):
            seconds = asyncio.get_running_loop().time() - began_s
            code = response.headers.get(CODE_FIELD, "")
            note_call(request.method, request.path, request.remote or "", response.status, seconds, code)
        return response
    return witness


def _make_guard(key: str) -> Any:
    @web.middleware
    async def guard(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        """The edge: who may call, and what an error looks like."""
        try:
            if request.path.startswith("/admin"):
                _authenticate(request, key)
            return await handler(request)
        except StorageError as error:
            return _error_response(error)
        except web.HTTPException as error:
            kind = {404: "not_found", 413: "body_too_large"}.get(error.status, "bad_request")
            return _error_response(error_from_wire(kind, {"reason": error.reason}), error.status)
        except Exception as error:
            _log.error("admin request failed", method=request.method, path=request.path, exc=error)
            return _error_response(StorageError(reason="internal error; the log has its traceback"), 500)
    return guard


def _authenticate(request: web.Request, key: str) -> None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not same_secret(given.strip(), key):
        raise Unauthorized(reason=f"the admin API wants the token of STATE/secrets/{KEY_FILE} as Authorization: Bearer")


def _make_handler(route: AdminRoute) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        raw = await request.read()
        call = AdminRequest(params=dict(request.match_info), query=dict(request.query), body=_parse_body(raw))
        return web.json_response(await route.handler(call))
    return handle


def _parse_body(raw: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as error:
        raise BadRequest(reason=f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequest(reason="the body must be a JSON object")
    return body


def _error_response(error: StorageError, status: int | None = None) -> web.Response:
    code, fields = error_to_wire(error)
    body = {"error": {"code": code, "message": str(error), "fields": fields}}
    if status is None:
        status = _STATUS.get(code, 503 if error.is_retryable else 500)
    return web.json_response(body, status=status, dumps=lambda data: json.dumps(data, default=str), headers={CODE_FIELD: code})


class AdminClient:
    """A call from a command to the node whose state directory holds `endpoint.json`; waits, so not for an event loop."""

    def __init__(self, url: str, key: str, *, timeout_s: float = 30.0) -> None:
        self._url, self._key, self._timeout_s = url.rstrip("/"), key, timeout_s
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))      # an operator's http_proxy is not for this

    @classmethod
    def from_state(cls, state: Path, *, timeout_s: float = 30.0) -> AdminClient:
        """For the node that keeps its state in `state`. Raises `NotFound` if none runs there, `ConfigError` without its key."""
        path = state / "endpoint.json"
        try:
            url = json.loads(path.read_text())["urls"]["admin"]
        except FileNotFoundError as error:
            raise NotFound(what="node", reason=f"nothing runs here: there is no {path}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(where=str(path), reason=f"cannot be used: {error!r}") from error
        return cls(url, load_secret(state / "secrets" / KEY_FILE), timeout_s=timeout_s)

    def get(self, path: str) -> Any:
        """The answer to GET /admin/v1`path`."""
        return self.call("GET", path)

    def post(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The answer to POST /admin/v1`path`."""
        return self.call("POST", path, body or {})

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """What the handler returned. Raises what it raised, or `TransportLost`."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._url}{PREFIX}{path}", data=data, headers=headers, method=method)
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise _error_of(error.read(), self._url) from error
        except (OSError, ValueError) as error:
            raise TransportLost(peer=self._url, reason=str(error)) from error


def _error_of(raw: bytes, url: str) -> StorageError:
    try:
        error = json.loads(raw)["error"]
        return error_from_wire(error["code"], error["fields"])
    except (ValueError, KeyError, TypeError):
        return TransportLost(peer=url, reason="the answer is not that of an admin API")
