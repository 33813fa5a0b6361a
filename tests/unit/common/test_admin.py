"""The admin API over a real loopback port: who gets in, what errors look like, and the client."""
from __future__ import annotations

import asyncio
import json

import pytest

from common.address import Address
from common.admin import AdminClient, AdminRoute, make_admin_app, start_admin
from common.errors import Conflict, NotFound, StorageError, TransportLost, Unauthorized
from common.secrets import save_secret


async def echo(request):
    return {"params": dict(request.params), "query": dict(request.query), "body": dict(request.body)}


async def refuse(request):
    raise Conflict(reason="busy", device="d1")


async def crash(request):
    raise RuntimeError("hunter2")


ROUTES = (AdminRoute(method="GET", path="/echo/{name}", handler=echo), AdminRoute(method="POST", path="/echo/{name}", handler=echo),
          AdminRoute(method="POST", path="/refuse", handler=refuse), AdminRoute(method="GET", path="/crash", handler=crash))


class Node:
    """A running admin API; `call` runs blocking client code beside its loop."""

    def __init__(self):
        self.health = {"is_healthy": True}

    async def read_health(self):
        return self.health

    async def read_metrics(self):
        return "up 1\n"

    async def call(self, use, key="k3y"):
        app = make_admin_app(ROUTES, key="k3y", read_metrics=self.read_metrics, read_health=self.read_health)
        runner, address = await start_admin(app, Address("127.0.0.1", 0))
        try:
            return await asyncio.to_thread(use, AdminClient(f"http://{address}", key, timeout_s=20))
        finally:
            await runner.cleanup()


def raw(client, path, **headers):
    """Status and body of a GET without the client's conveniences."""
    import urllib.error
    import urllib.request
    try:
        with client._opener.open(urllib.request.Request(client._url + path, headers=headers), timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_call_carries_path_query_and_body_both_ways():
    got = asyncio.run(Node().call(lambda client: client.call("POST", "/echo/x?a=1", {"n": 2})))
    assert got == {"params": {"name": "x"}, "query": {"a": "1"}, "body": {"n": 2}}


def test_the_client_raises_what_the_handler_raised():
    with pytest.raises(Conflict) as caught:
        asyncio.run(Node().call(lambda client: client.post("/refuse")))
    assert caught.value.fields == {"reason": "busy", "device": "d1"}


@pytest.mark.parametrize("path", ["/echo/x", "/refuse", "/nowhere"])
def test_nobody_gets_in_without_the_key(path):
    with pytest.raises(Unauthorized):
        asyncio.run(Node().call(lambda client: client.get(path), key="wrong"))


def test_without_any_credentials_the_answer_is_401_in_json():
    status, body = asyncio.run(Node().call(lambda client: raw(client, "/admin/v1/echo/x")))
    assert status == 401 and json.loads(body)["error"]["code"] == "unauthorized"


def test_an_unknown_path_is_not_found():
    with pytest.raises(NotFound):
        asyncio.run(Node().call(lambda client: client.get("/nowhere")))


def test_a_bug_in_a_handler_gives_a_plain_500_that_tells_nothing():
    def use(client):
        with pytest.raises(StorageError):
            client.get("/crash")
        return raw(client, "/admin/v1/crash", Authorization="Bearer k3y")
    status, body = asyncio.run(Node().call(use))
    assert status == 500 and "hunter2" not in body


def test_a_body_that_is_no_json_object_is_a_bad_request():
    def use(client):
        import http.client
        import urllib.request
        connection = http.client.HTTPConnection(urllib.request.urlparse(client._url).netloc, timeout=20)
        connection.request("POST", "/admin/v1/echo/x", body=b"[1", headers={"Authorization": "Bearer k3y"})
        return connection.getresponse().status
    assert asyncio.run(Node().call(use)) == 400


def test_metrics_and_health_are_open_and_health_decides_the_status():
    node = Node()
    assert asyncio.run(node.call(lambda client: raw(client, "/metrics"))) == (200, "up 1\n")
    assert asyncio.run(node.call(lambda client: raw(client, "/healthz")))[0] == 200
    node.health = {"is_healthy": False, "reason": "a device is gone"}
    status, body = asyncio.run(node.call(lambda client: raw(client, "/healthz")))
    assert status == 503 and json.loads(body)["reason"] == "a device is gone"


def test_a_node_is_found_by_its_state_directory(tmp_path):
    save_secret(tmp_path / "secrets", "admin.key", "k3y")

    def use(client):
        (tmp_path / "endpoint.json").write_text(json.dumps({"urls": {"admin": client._url}}))
        return AdminClient.from_state(tmp_path).get("/echo/y")["params"]
    assert asyncio.run(Node().call(use)) == {"name": "y"}


def test_a_state_directory_without_a_running_node_says_so(tmp_path):
    with pytest.raises(NotFound, match="nothing runs here"):
        AdminClient.from_state(tmp_path)


def test_a_node_that_is_gone_is_a_lost_transport():
    client = asyncio.run(Node().call(lambda client: client))
    with pytest.raises(TransportLost):
        client.get("/echo/x")
