"""Routes as data: what a service answers, who may ask, what a request has to look like; and a tree that finds rows by path."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import NotFound
from control.errors import MethodNotAllowed
from control.schema import BodySchema
from control.versions import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a handler answers when a body alone does not say it. status: None for that of the route."""

    body: object = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """One operation.

    path: segments in braces are parameters. handler: a plain function (connection, call) is run as one transaction, a read
    for GET and HEAD; a coroutine function (call) runs in the loop. policy: the rule that the handler enforces, None if
    everybody may ask. action: the key of the body that selects this row, for paths that take actions. body: what the request's
    JSON has to look like; without one a body is not read.
    """

    method: str
    path: str
    handler: Callable[..., Any]
    policy: str | None = None
    ok: int = 200
    body: BodySchema | None = None
    action: str | None = None
    since: Version | None = None
    until: Version | None = None
    needs_token: bool = True
    is_read: bool | None = None              # None: by the method

    @property
    def reads_only(self) -> bool:
        """Whether a reader's connection is enough."""
        return self.method in ("GET", "HEAD") if self.is_read is None else self.is_read

    def serves(self, version: Version | None) -> bool:
        """Whether it is there in this microversion."""
        return version is None or ((self.since is None or version >= self.since) and (self.until is None or version <= self.until))


class _Node:
    __slots__ = ("children", "methods", "parameter")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.methods: dict[str, list[tuple[Route, tuple[str, ...]]]] = {}


class RouteTable:
    """Finds rows by verb and path. A fixed segment wins over a parameter; HEAD is answered by GET where it has no row."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """Two rows for one operation are a bug."""
        self.routes = tuple(routes)
        self._root = _Node()
        for route in self.routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node, names = self._root, []
        for segment in _segments(route.path):
            if segment.startswith("{"):
                names.append(segment[1:-1])
                node.parameter = node = node.parameter or _Node()
            else:
                node = node.children.setdefault(segment, _Node())
        rows = node.methods.setdefault(route.method, [])
        same = [other for other, _ in rows if other.action == route.action and _overlap(other, route)]
        assert not same, f"two rows for {route.method} {route.path} {route.action or ''}"
        rows.append((route, tuple(names)))

    def find(self, method: str, segments: list[str]) -> list[tuple[Route, dict[str, str]]]:
        """The rows for a verb and a path (its segments, decoded), with the values of their parameters.

        Raises `NotFound`, `MethodNotAllowed`.
        """
        found = self._walk(self._root, segments, 0, (), method)
        if found is None:
            found = self._walk(self._root, segments, 0, (), None)
        if found is None:
            raise NotFound(reason="The resource could not be found.")
        node, values = found
        rows = node.methods.get(method) or (node.methods.get("GET") if method == "HEAD" else None)
        if rows is None:
            allow = sorted({*node.methods, *(["HEAD"] if "GET" in node.methods else [])})
            raise MethodNotAllowed(allow=", ".join(allow), reason=f"The method {method[:16]} is not allowed for this resource.")
        return [(route, dict(zip(names, values, strict=True))) for route, names in rows]

    def _walk(self, node: _Node, segments: list[str], at: int, values: tuple[str, ...],
              method: str | None) -> tuple[_Node, tuple[str, ...]] | None:
        """The node of a path that has the method (any, for None). At most two ways per segment, and paths are short."""
        if at == len(segments):
            has = node.methods and (method is None or method in node.methods or (method == "HEAD" and "GET" in node.methods))
            return (node, values) if has else None
        child = node.children.get(segments[at])
        if child is not None and (found := self._walk(child, segments, at + 1, values, method)) is not None:
            return found
        if node.parameter is not None and segments[at]:
            return self._walk(node.parameter, segments, at + 1, (*values, segments[at]), method)
        return None


def _segments(path: str) -> list[str]:
    return [segment for segment in path.split("/") if segment]


def _overlap(one: Route, other: Route) -> bool:
    lowest, highest = Version(0, 0), Version(999_999, 0)
    return (one.since or lowest) <= (other.until or highest) and (other.since or lowest) <= (one.until or highest)
