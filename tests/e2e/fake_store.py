"""A tiny object store in memory with the requests that `holdfast bench` makes, and one planted fault."""
from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, unquote, urlsplit

ACCOUNT = "/v1/AUTH_demo"


class FakeStore(asyncio.Protocol):
    """One connection; `objects` and `fault` are of all. Faults: see `_answer`."""

    objects: dict[str, dict[str, bytes]]
    fault: str
    counts: dict[str, int]

    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            line, *lines = head.decode().split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            length = int(fields.get("content-length", 0))
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            method, target, _ = line.split(" ")
            self._answer(method, target, rest[:length])

    def _nth(self, what: str) -> int:
        self.counts[what] = self.counts.get(what, 0) + 1
        return self.counts[what]

    def _answer(self, method, target, body):
        url = urlsplit(target)
        path = unquote(url.path)
        if path == "/auth/v1.0":
            return self._send(200, b"", {"X-Auth-Token": "AUTH_tk0", "X-Storage-Url": f"http://x{ACCOUNT}"})
        container, _, name = path.removeprefix(f"{ACCOUNT}/").partition("/")
        if not name:
            return self._answer_container(method, container, {key: values[0] for key, values in parse_qs(url.query).items()})
        rows = self.objects[container]
        if self.fault == "unavailable" and self._nth("requests") % 7 == 0:
            return self._send(503, b"busy")
        if method == "PUT":
            if not (self.fault == "forgets" and self._nth("puts") % 2 == 0):
                rows[name] = body
            return self._send(201, b"")
        if name not in rows:
            return self._send(404, b"not here")
        if method == "DELETE":
            if self.fault != "keeps":
                del rows[name]
            return self._send(204, None)
        return self._answer_object(method, rows, name)

    def _answer_object(self, method, rows, name):
        found = rows[name]
        etag = hashlib.md5(found).hexdigest()
        if self.fault == "wrong byte" and found:
            found = found[:-1] + bytes([found[-1] ^ 1])
        if self.fault == "other object" and found:
            found = rows[min(rows)]
        if self.fault == "wrong etag":
            etag = "0" * 32
        if self.fault == "short":
            found = found[:-1]
        if self.fault == "cut" and method == "GET":
            self._send(200, found[:-1], {"Etag": etag}, length=len(found))
            return self.transport.close()
        return self._send(200, found, {"Etag": etag}, is_head=method == "HEAD")

    def _answer_container(self, method, container, query):
        if method == "PUT":
            self.objects[container] = {}
            return self._send(201, b"")
        rows = self.objects[container]
        if method == "DELETE":
            if rows:
                return self._send(409, b"not empty")
            del self.objects[container]
            return self._send(204, None)
        names = sorted(name for name in rows if name > query.get("marker", "") and name.startswith(query.get("prefix", "")))
        if self.fault == "lost row":
            names = [name for name in names if not name.endswith("77")]
        if self.fault == "doubled row" and names and "marker" in query:
            names = [query["marker"], *names]
        if self.fault == "unlisted" and "prefix" in query:
            names = []
        return self._send(200, json.dumps([{"name": name} for name in names[:int(query["limit"])]]).encode())

    def _send(self, status, body, fields=None, *, is_head=False, length=None):
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in (fields or {}).items())]
        if body is not None:
            lines.append(f"Content-Length: {len(body) if length is None else length}")
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + (b"" if is_head or body is None else body))


@contextmanager
def fake_store(fault: str = "") -> Iterator[tuple[str, dict[str, dict[str, bytes]]]]:
    """Its URL, and the objects in it by container; serves in a thread until the context ends."""
    kind = type("Store", (FakeStore,), {"objects": {}, "fault": fault, "counts": {}})
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(kind, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", kind.objects
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
