"""python-swiftclient against the door behind the real HTTP front, over a socket and a store in memory."""
import asyncio
import hashlib
import socket
import threading
from urllib.parse import urlsplit

import pytest

from common.clock import SystemClock
from proxy.http.server import HttpServer
from tests.contract.memory_store import MemoryStore
from tests.contract.swift_client import SwiftClient

swiftclient = pytest.importorskip("swiftclient")


@pytest.fixture
def url():
    """A server in a thread of its own; the URL of its logins."""
    started, stop, ports = threading.Event(), None, []

    async def serve():
        nonlocal stop
        clock = SystemClock()
        client = SwiftClient(MemoryStore(clock), clock)
        server = HttpServer(client.door, clock=clock)
        _, port = await server.start(host="127.0.0.1", port=0, reuse_port=False)
        ports.append(port)
        stop = (asyncio.get_running_loop(), asyncio.Event())
        started.set()
        await stop[1].wait()
        await server.drain(0.5)
        client.auth.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    yield f"http://127.0.0.1:{ports[0]}/auth/v1.0"
    stop[0].call_soon_threadsafe(stop[1].set)
    thread.join(10)
    assert not thread.is_alive()


def connect(url, user="demo:alice", key="wonder"):
    return swiftclient.Connection(authurl=url, user=user, key=key, auth_version="1", retries=0)


def test_a_day_with_swiftclient(url):
    client = connect(url)
    big = bytes(range(256)) * 4096
    client.put_container("c", headers={"X-Container-Meta-Mood": "gr\u00fcn", "X-Container-Read": ".r:*,.rlistings"})
    etag = client.put_object("c", "sm\u00e5ll/\u20ac.txt", b"hello", headers={"X-Object-Meta-A": "\u00fc"})
    assert etag == hashlib.md5(b"hello").hexdigest()
    client.put_object("c", "big", iter([big[:300_000], big[300_000:]]))
    client.put_object("c", "empty", b"", content_length=0)
    headers, body = client.get_object("c", "sm\u00e5ll/\u20ac.txt")
    assert body == b"hello" and headers["x-object-meta-a"] == "\u00fc" and headers["content-type"] == "text/plain"
    assert client.get_object("c", "big")[1] == big
    assert client.get_object("c", "big", headers={"Range": "bytes=5-9"})[1] == big[5:10]
    assert client.get_object("c", "empty")[1] == b""
    headers, rows = client.get_container("c", full_listing=True, limit=1)
    assert [row["name"] for row in rows] == ["big", "empty", "sm\u00e5ll/\u20ac.txt"]
    assert headers["x-container-object-count"] == "3" and headers["x-container-meta-mood"] == "gr\u00fcn"
    assert client.get_container("c", delimiter="/")[1][-1] == {"subdir": "sm\u00e5ll/"}
    client.copy_object("c", "big", "/c/copy of big")
    assert client.head_object("c", "copy of big")["content-length"] == str(len(big))
    client.post_object("c", "big", {"X-Object-Meta-New": "1"})
    assert client.head_object("c", "big")["x-object-meta-new"] == "1"
    client.post_account({"X-Account-Meta-A": "1"})
    assert client.head_account()["x-account-meta-a"] == "1"
    assert [row["name"] for row in client.get_account()[1]] == ["c"]
    assert client.get_capabilities()["swift"]["max_object_name_length"] == 1024
    for row in client.get_container("c")[1]:
        client.delete_object("c", row["name"])
    client.delete_container("c")
    assert client.get_account()[1] == []


@pytest.mark.parametrize(("call", "status"), [
    (lambda c: c.get_object("c", "none"), 404), (lambda c: c.put_object("none", "o", b"x"), 404),
    (lambda c: c.delete_container("c"), 409), (lambda c: c.put_object("c", "x", b"x", etag="0" * 32), 422),
    (lambda c: c.put_object("c", "full", b"x", headers={"If-None-Match": "*"}), 412),
    (lambda c: c.put_container("c" * 257), 400), (lambda c: c.get_container("c", limit=10_001), 412),
    (lambda c: c.get_object("c", "full", headers={"Range": "bytes=99-"}), 416),
])
def test_swiftclient_is_told_what_went_wrong(url, call, status):
    client = connect(url)
    client.put_container("c")
    client.put_object("c", "full", b"x")
    with pytest.raises(swiftclient.ClientException) as caught:
        call(client)
    assert caught.value.http_status == status and caught.value.http_response_headers["x-trans-id"].startswith("tx")
    assert client.get_object("c", "full")[1] == b"x"


def test_swiftclient_with_a_wrong_key_stays_outside(url):
    with pytest.raises(swiftclient.ClientException) as caught:
        connect(url, key="wrong").get_account()
    assert caught.value.http_status == 401


@pytest.mark.parametrize(("token", "path", "status"), [
    ("", "/v1/AUTH_demo/c/o", b"401"), ("X-Auth-Token: AUTH_tkforged\r\n", "/v1/AUTH_demo/c/o", b"401"),
    ("", "/v1/AUTH_demo/%ff/o", b"412")])
def test_a_client_that_expects_continue_is_refused_before_it_sends_its_body(url, token, path, status):
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\n{token}Content-Length: 100000\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout=10) as sock:
        sock.sendall(head.encode())
        assert sock.recv(65_536).startswith(b"HTTP/1.1 " + status)
