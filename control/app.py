"""One aiohttp application per service: from a request to its row of the route table, to a transaction, to an answer.

A request passes: request id, route, microversion, token, body, handler, answer. Errors become the service's own form on the way
out and are remembered for `holdfast explain`. A handler whose route has a policy rule has to enforce it before it answers: one
that forgets is a bug and answers 500, never data.
"""
from __future__ import annotations

import asyncio
import inspect
import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote

from aiohttp import web

from common.clock import Clock
from common.errors import BadRequest, BodyTooLarge, ClientTimeout, Forbidden, NotFound, StorageError, Unauthorized
from common.http_lines import SERVER, expect
from common.log import get_logger
from common.metrics import Registry
from control.address import base_url
from control.causes import Causes
from control.context import ANONYMOUS, Context
from control.db import Database
from control.errors import ErrorStyle, UnsupportedMedia, fault_of
from control.listing import Query
from control.policy import Policy, Target
from control.routes import Answer, Route, RouteTable
from control.schema import BODY_BYTES_MAX, parse_json
from control.versions import Version, VersionRange

_BODY_S = 30.0
_REQUEST_ID = re.compile(r"req-[0-9a-fA-F-]{36}")
_PARAMETER_CHARS_MAX = 255
# beside JSON what clients send that name no type of their own; no cookie logs anybody in, so a form cannot either
_BODY_TYPES = frozenset({"application/json", "application/octet-stream", "text/plain", "application/x-www-form-urlencoded"})
_log = get_logger("control.app")


class Tokens(Protocol):
    """Whoever can say what a token means: identity itself, or its client."""

    async def authenticate(self, token: str, service_token: str | None) -> Context:
        """Raises `Unauthorized` for a token that is no good."""


@dataclass(kw_only=True)
class Service:
    """All that one application stands on. type: as in the catalog; state: the service's own things, for its handlers."""

    name: str
    type: str
    routes: RouteTable
    database: Database
    policy: Policy
    errors: ErrorStyle
    tokens: Tokens
    clock: Clock
    state: Any = None
    versions: VersionRange | None = None
    public_url: str | None = None
    fallback_host: str = "127.0.0.1"
    registry: Registry = field(default_factory=Registry)
    causes: Causes | None = None
    body_bytes_max: int = BODY_BYTES_MAX


class Call:
    """One request, as handlers see it."""

    __slots__ = ("base", "body", "context", "headers", "is_enforced", "method", "params", "path", "peer", "query", "request_id",
                 "route", "service", "version")

    def __init__(self, service: Service, *, method: str, path: str, query: Query, headers: Mapping[str, str], base: str,
                 request_id: str, peer: str) -> None:
        self.service, self.method, self.path, self.query, self.headers = service, method, path, query, headers
        self.base, self.request_id, self.peer = base, request_id, peer
        self.context: Context = ANONYMOUS
        self.version: Version | None = None
        self.params: dict[str, str] = {}
        self.body: Any = None
        self.route: Route
        self.is_enforced = False

    @property
    def state(self) -> Any:
        """The service's own things."""
        return self.service.state

    @property
    def url(self) -> str:
        """Of this request, without its query."""
        return self.base + self.path

    def enforce(self, target: Target | None = None, *, rule: str | None = None) -> None:
        """The route's policy rule, or another one, for this caller and this target. Raises `Forbidden`, `Unauthorized`.

        What is in the path is part of every target.
        """
        if not self.may(target, rule=rule):
            name = rule or self.route.policy or ""
            if self.context.is_anonymous:
                raise Unauthorized().because("policy", name=name)
            raise Forbidden(reason=f"You are not authorized to perform the requested action: {name}.").because(
                "policy", name=name, expression=self.service.policy.expressions[name], project=self.context.project_id or "",
                roles=",".join(sorted(self.context.roles)))

    def may(self, target: Target | None = None, *, rule: str | None = None) -> bool:
        """As `enforce`, and counts as having asked, but only says so."""
        self.is_enforced = True
        name = rule or self.route.policy
        assert name is not None, f"{self.route.method} {self.route.path} has no rule to enforce"
        return self.service.policy.allows(name, self.context.credentials, {**self.params, **(target or {})})

    async def run(self, fn: Callable[..., Any]) -> Any:
        """fn(connection, call) as one transaction that writes."""
        return await self.service.database.run(fn, self)

    async def read(self, fn: Callable[..., Any]) -> Any:
        """fn(connection, call) as one transaction that reads."""
        return await self.service.database.read(fn, self)


def make_app(service: Service) -> web.Application:
    """The application; it answers below any prefix it is mounted at by path "/"."""
    front = _Front(service)
    app = web.Application(client_max_size=service.body_bytes_max)
    app.router.add_route("*", "/{path:.*}", front.answer, expect_handler=expect)
    return app


class _Front:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._requests = service.registry.counter("holdfast_api_requests_total", "requests of the control plane",
                                                  ("service", "status"))
        self._seconds = service.registry.histogram("holdfast_api_request_seconds", "time to the answer", ("service",))

    async def answer(self, request: web.Request) -> web.Response:
        service = self._service
        start_s = service.clock.monotonic_s()
        request_id = f"req-{uuid.uuid4()}"
        call = _make_call(service, request, request_id)
        error: BaseException | None = None
        try:
            response = await self._respond(call, request)
        except asyncio.CancelledError:
            raise
        except Exception as caught:              # the edge: whatever it was, the client gets an answer in the service's form
            error = caught
            response = self._refuse(call, caught)
        self._finish(call, response)
        seconds = service.clock.monotonic_s() - start_s
        self._requests.labels(service.name, str(response.status)).inc()
        self._seconds.labels(service.name).observe(seconds)
        if error is not None and service.causes is not None:
            service.causes.note(request_id, service=service.name, status=response.status, seconds=seconds, method=call.method,
                                path=call.path, peer=call.peer, user=call.context.user_id, error=error,
                                reason=fault_of(error, service.errors).message if isinstance(error, Exception) else "")
        _log.debug("request", service=service.name, method=call.method, path=call.path, status=response.status,
                   ms=seconds * 1e3, request=request_id, user_id=call.context.user_id)
        return response

    async def _respond(self, call: Call, request: web.Request) -> web.Response:
        service = self._service
        segments = _split_path(call.path)
        found = service.routes.find(call.method, segments)
        if service.versions is not None:
            call.version = service.versions.choose(request.headers)
        needs_body = any(route.body is not None for route, _ in found)
        call.route, call.params = found[0]
        if any(route.needs_token for route, _ in found) or "X-Auth-Token" in request.headers:
            await self._authenticate(call, request, is_needed=call.route.needs_token)
        if needs_body:
            call.body = parse_json(await _read_body(request), bytes_max=service.body_bytes_max)
        call.route, call.params = _choose(found, call)
        if call.route.body is not None:
            call.route.body.check(call.body)
        result = await self._run(call)
        assert call.is_enforced or call.route.policy is None, f"{call.method} {call.route.path} did not enforce its policy"
        return _render(call, result)

    async def _authenticate(self, call: Call, request: web.Request, *, is_needed: bool) -> None:
        token = request.headers.get("X-Auth-Token")
        if not token:
            if is_needed:
                raise Unauthorized().because("token.missing")
            return
        try:
            call.context = await self._service.tokens.authenticate(token, request.headers.get("X-Service-Token"))
        except Unauthorized:
            if is_needed:
                raise
            return
        rules = call.context.access_rules
        if rules is not None and not any(rule.matches(self._service.type, call.method, call.path) for rule in rules):
            raise Unauthorized().because("token.access_rules", app_credential=call.context.app_credential_id or "")

    async def _run(self, call: Call) -> Any:
        handler = call.route.handler
        if inspect.iscoroutinefunction(handler):
            return await handler(call)
        if call.route.reads_only:
            return await call.service.database.read(handler, call)
        return await call.service.database.run(handler, call)

    def _refuse(self, call: Call, error: Exception) -> web.Response:
        if isinstance(error, web.HTTPRequestEntityTooLarge):
            error = BodyTooLarge(reason=f"Request is too large: a body has at most {self._service.body_bytes_max} bytes.")
        if not isinstance(error, StorageError):
            _log.error("request failed", service=call.service.name, method=call.method, path=call.path, request=call.request_id,
                       exc=error)
        fault = fault_of(error, self._service.errors, call.request_id)
        content_type, text = self._service.errors.render(fault)
        headers = dict(fault.headers)
        if fault.status == 401:
            headers["WWW-Authenticate"] = f'Keystone uri="{call.base}"'
        return web.Response(status=fault.status, body=text.encode(), headers={**headers, "Content-Type": content_type})

    def _finish(self, call: Call, response: web.Response) -> None:
        response.headers["x-openstack-request-id"] = call.request_id
        response.headers["Server"] = SERVER
        versions = self._service.versions
        if versions is not None and call.version is not None:
            for name, value in versions.answer_headers(call.version).items():
                response.headers[name] = value
        elif "Vary" not in response.headers:
            response.headers["Vary"] = "X-Auth-Token"


def _make_call(service: Service, request: web.Request, request_id: str) -> Call:
    given = request.headers.get("X-OpenStack-Request-ID", "")
    if _REQUEST_ID.fullmatch(given):
        _log.debug("request has a global id", request=request_id, global_id=given)
    base = base_url(request.headers, scheme=request.scheme, fallback=service.fallback_host, public_url=service.public_url)
    return Call(service, method=request.method, path=request.rel_url.raw_path, query=tuple(request.rel_url.query.items()),
                headers=request.headers, base=base, request_id=request_id, peer=request.remote or "")


def _split_path(raw: str) -> list[str]:
    """Decoded segments. Raises `NotFound` for what cannot name anything."""
    segments = [segment for segment in raw.split("/") if segment]
    if "%" in raw:
        try:
            segments = [unquote(segment, errors="strict") for segment in segments]
        except UnicodeDecodeError as error:
            raise NotFound(reason="The resource could not be found.") from error
    if any(len(segment) > _PARAMETER_CHARS_MAX or "\0" in segment for segment in segments):
        raise NotFound(reason="The resource could not be found.")
    return segments


async def _read_body(request: web.Request) -> bytes:
    if request.content_length == 0 or not request.can_read_body:
        raise BadRequest(reason="This operation needs a JSON body.")
    if request.content_type not in _BODY_TYPES:
        raise UnsupportedMedia(reason="The body of this operation is application/json.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise BadRequest(reason="A body in a Content-Encoding is not read: send it as it is.")
    try:
        async with asyncio.timeout(_BODY_S):
            return await request.read()
    except TimeoutError as error:
        raise ClientTimeout(reason="The request body did not arrive in time.") from error


def _choose(found: list[tuple[Route, dict[str, str]]], call: Call) -> tuple[Route, dict[str, str]]:
    """By microversion and by action. Raises `NotFound`, `BadRequest`."""
    serving = [row for row in found if row[0].serves(call.version)]
    if not serving:
        raise NotFound(reason="The resource could not be found in this API version.")
    if serving[0][0].action is None:
        return serving[0]
    if not isinstance(call.body, dict) or len(call.body) != 1:
        raise BadRequest(reason="The body names exactly one action.")
    (action,) = call.body
    for row in serving:
        if row[0].action == action:
            return row
    raise BadRequest(reason=f"There is no such action: {action[:64]!r}")


def _render(call: Call, result: Any) -> web.Response:
    answer = result if isinstance(result, Answer) else Answer(body=result)
    status = answer.status or call.route.ok
    if answer.body is None or status == 204:
        return web.Response(status=status, headers=answer.headers)
    if isinstance(answer.body, bytes | str):
        text = answer.body.encode() if isinstance(answer.body, str) else answer.body
        return web.Response(status=status, body=text, headers={"Content-Type": "text/plain; charset=utf-8", **answer.headers})
    return web.Response(status=status, body=json.dumps(answer.body, separators=(",", ":")).encode(),
                        headers={"Content-Type": "application/json", **answer.headers})


__all__ = ["Call", "Service", "Tokens", "make_app"]
