"""Whatever arrives at the ports of the control plane is answered in its form, and nobody learns what serves there."""
from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import pytest

from common.address import Address
from common.admin import make_admin_app, start_admin
from common.clock import ManualClock
from control.app import Service, make_app
from control.db import Database, sqlite_url
from control.errors import IDENTITY
from control.policy import Policy
from control.routes import Route, RouteTable
from control.schema import BodySchema
from node.control_front import Front

CHUNKED = b"POST /v3/x HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
CASES = {
    "long url": b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "long field": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9_000 + b"\r\n\r\n",
    "many fields": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    "unknown method": b"FOO /v3 HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": b"POST /v3/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": CHUNKED + b"zz\r\n{}\r\n",
    "connect": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
    "no host": b"GET /v3 HTTP/1.1\r\n\r\n",
    "no http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "version": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "bad field": b"GET / HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n",
    "expectation": b"GET /nothing HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\n\r\n",
    "upgrade": b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "star": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "other url": b"GET http://[:::/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "port": b"GET http://h:99999/ HTTP/1.1\r\nHost: x\r\n\r\n",
}


async def show(call):
    return {"got": call.body}


@asynccontextmanager
async def control_port(tmp_path):
    routes = RouteTable((Route("POST", "/v3/x", show, None, 200, needs_token=False, body=BodySchema({"type": "object"})),))
    database = Database(sqlite_url(tmp_path / "x.sqlite"))
    service = Service(name="identity", type="identity", routes=routes, database=database, policy=Policy({}), errors=IDENTITY,
                      tokens=None, clock=ManualClock())
    front = Front(make_app(service))
    sock = socket.create_server(("127.0.0.1", 0))
    await front.start([sock], None)
    try:
        yield sock.getsockname()[:2]
    finally:
        await front.close(drain_s=1)
        database.close()


@asynccontextmanager
async def admin_port(_):
    async def nothing():
        return {}

    async def no_metrics():
        return ""

    server, address = await start_admin(make_admin_app((), key="k", read_metrics=no_metrics, read_health=nothing),
                                        Address("127.0.0.1", 0))
    try:
        yield address.host, address.port
    finally:
        await server.cleanup()


async def talk(where, raw):
    """Everything that comes back until the other end closes or has answered."""
    reader, writer = await asyncio.open_connection(*where)
    try:
        writer.write(raw)
        async with asyncio.timeout(30):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            return head.decode(), await reader.readexactly(length)
    finally:
        writer.close()


@pytest.mark.parametrize("port", [control_port, admin_port], ids=["control", "admin"])
@pytest.mark.parametrize("case", CASES)
async def test_the_answer_is_of_our_form_and_tells_no_version_and_the_log_has_no_traceback(tmp_path, capfd, port, case):
    async with port(tmp_path) as where:
        head, body = await talk(where, CASES[case])
    assert "server: holdfast\r\n" in head.lower() and "aiohttp" not in head.lower() and "python" not in head.lower()
    status = int(head.split()[1])
    assert status < 500
    error = json.loads(body)["error"]
    assert error["message"] and error["code"] == (status if port is control_port else error["code"])
    assert not any(word in body.decode() for word in ("aiohttp", "Traceback", "b'"))
    logged = capfd.readouterr().err
    assert "Traceback" not in logged and " error " not in logged


async def test_stray_bytes_are_logged_once_in_a_while(tmp_path, capfd):
    async with control_port(tmp_path) as where:
        for _ in range(20):
            await talk(where, CASES["unknown method"])
    assert capfd.readouterr().err.count("no HTTP request") == 1


async def test_a_number_of_thousands_of_digits_is_refused_in_our_words(tmp_path):
    raw = b'{"n": ' + b"1" * 5_000 + b"}"
    request = b"POST /v3/x HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(raw) + raw
    async with control_port(tmp_path) as where:
        head, body = await talk(where, request)
    assert head.split()[1] == "400" and b"too many digits" in body and b"sys." not in body


async def test_a_body_that_waits_to_be_asked_for_is_asked_for(tmp_path):
    async with control_port(tmp_path) as where:
        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"POST /v3/x HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
                     b"Expect: 100-continue\r\n\r\n")
        async with asyncio.timeout(30):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"{}")
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        writer.close()
