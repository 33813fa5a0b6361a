"""The HTTP kernel over a small service: routes, versions, bodies, errors, links."""
from __future__ import annotations

import gzip
import json
import logging
from contextlib import asynccontextmanager

import pytest
from aiohttp.test_utils import TestClient, TestServer
from sqlalchemy import MetaData

from common.clock import ManualClock
from common.errors import Conflict, NotFound, Unauthorized
from control import errors
from control.app import Service, make_app
from control.causes import Causes
from control.context import AccessRule, Context
from control.db import Database, sqlite_url
from control.errors import QuotaExceeded
from control.policy import Policy
from control.routes import Answer, Route, RouteTable
from control.schema import BodySchema, properties
from control.versions import Version, VersionRange

ANY = BodySchema({"type": "object"})
RANGE = VersionRange(service_type="compute", lowest=Version(2, 1), highest=Version(2, 96),
                     legacy_header="X-OpenStack-Nova-API-Version")


def show(connection, call):
    call.enforce()
    return {"version": str(call.version), "params": call.params, "query": list(call.query), "base": call.base}


def forgetful(connection, call):
    return {"secret": "data"}


async def echo(call):
    call.enforce()
    return Answer(body=call.body, headers={"X-Extra": "1"})


async def refuse(call):
    raise {"conflict": Conflict(reason="busy"), "missing": NotFound(what="thing", name="x"), "crash": RuntimeError("hunter2"),
           "quota": QuotaExceeded(reason="too much", resource="x")}[call.params["how"]]


def action(name):
    async def act(call):
        call.enforce()
        return {"did": name, "with": call.body[name]}
    return act


ROUTES = (
    Route("GET", "/things/{thing_id}", show, "all"), Route("GET", "/things/special", show, "all"),
    Route("GET", "/things/{thing_id}/parts/{part_id}", show, "all"), Route("POST", "/things", echo, "all", 202, ANY),
    Route("GET", "/forgetful", forgetful, "all"), Route("GET", "/admin", show, "admin"), Route("GET", "/open", echo, None,
                                                                                               needs_token=False),
    Route("GET", "/refuse/{how}", refuse, None, needs_token=False), Route("DELETE", "/things/{thing_id}", show, "all", 204),
    Route("POST", "/things/{thing_id}/action", action("start"), "all", 202, ANY, action="start"),
    Route("POST", "/things/{thing_id}/action", action("stop"), "all", 202, BodySchema(properties({"stop": {"type": "object"}})),
          action="stop",
          since=Version(2, 10)),
    Route("GET", "/new", show, "all", since=Version(2, 50)), Route("GET", "/old", show, "all", until=Version(2, 35)),
)


class Tokens:
    async def authenticate(self, token, service_token):
        if token == "restricted":
            rule = AccessRule(id="r", service="compute", path="/things/*", method="GET")
            return Context(user_id="u", roles=frozenset({"member"}), access_rules=(rule,))
        if token != "good":
            raise Unauthorized()
        return Context(user_id="u", project_id="p", roles=frozenset({"member"}))


@pytest.fixture
def serve(tmp_path):
    @asynccontextmanager
    async def make(*, style=errors.COMPUTE, versions=RANGE, **options):
        database = Database(sqlite_url(tmp_path / "x.sqlite"))
        MetaData().create_all(database.engine)
        clock = ManualClock()
        service = Service(name="compute", type="compute", routes=RouteTable(ROUTES), database=database, errors=style, clock=clock,
                          policy=Policy({"all": "@",
                                         "admin": "role:admin"}), tokens=Tokens(), versions=versions, causes=Causes(clock),
                          **options)
        try:
            server = TestServer(make_app(service))
            await server.start_server(auto_decompress=False)         # as node/control_front.py has it
            async with TestClient(server) as client:
                client.service = service
                yield client
        finally:
            database.close()
    return make


async def get(client, path, token="good", method="GET", **options):
    headers = {"X-Auth-Token": token, **options.pop("headers", {})}
    async with client.request(method, path, headers=headers, **options) as answer:
        text = await answer.text()
        return answer.status, (json.loads(text) if text and "json" in answer.content_type else text), answer.headers


async def test_fixed_segments_win_and_parameters_are_decoded(serve):
    async with serve() as client:
        assert (await get(client, "/things/special"))[1]["params"] == {}
        assert (await get(client, "/things/a%2Fb%20c/parts/%C3%A4"))[1]["params"] == {"thing_id": "a/b c", "part_id": "ä"}
        assert (await get(client, "/things/x/"))[0] == 200


@pytest.mark.parametrize("path", ["/", "/nothing", "/things/x/y", "/things/%FF", "/things/" + "x" * 300, "/things/%00", "//"])
async def test_unknown_paths_are_404_in_the_form_of_the_service(serve, path):
    async with serve() as client:
        status, body, headers = await get(client, path)
        assert status == 404 and set(body) == {"itemNotFound"} and headers["x-openstack-request-id"].startswith("req-")


async def test_a_known_path_with_another_verb_is_405_and_says_which(serve):
    async with serve() as client:
        for method in ("PUT", "PATCH", "OPTIONS", "TRACE"):
            status, body, headers = await get(client, "/things/x", method=method)
            assert status == 405 and headers["Allow"] == "DELETE, GET, HEAD" and "badMethod" in body


async def test_head_is_get_without_a_body(serve):
    async with serve() as client:
        status, body, _ = await get(client, "/things/x", method="HEAD")
        assert (status, body) == (200, "")


async def test_no_token_and_a_bad_one_are_401_with_the_way_to_identity(serve):
    async with serve() as client:
        for token in ("", "bad"):
            status, body, headers = await get(client, "/things/x", token=token)
            assert status == 401 and headers["WWW-Authenticate"].startswith("Keystone uri=") and body["unauthorized"]["code"] == 401
        assert (await get(client, "/open", token="bad"))[0] != 401


async def test_a_rule_that_refuses_is_403_and_one_that_was_not_asked_is_never_data(serve):
    async with serve() as client:
        assert (await get(client, "/admin"))[0] == 403
        status, body, _ = await get(client, "/forgetful")
        assert status == 500 and "data" not in str(body)


async def test_a_restricted_credential_may_do_only_what_its_rules_name(serve):
    async with serve() as client:
        assert (await get(client, "/things/x", token="restricted"))[0] == 200
        for path, method in (("/things/x", "DELETE"), ("/things/x/parts/y", "GET"), ("/admin", "GET")):
            assert (await get(client, path, token="restricted", method=method))[0] == 401


@pytest.mark.parametrize(("asked", "status", "version"), [
    ({}, 200, "2.1"), ({"OpenStack-API-Version": "compute 2.50"}, 200, "2.50"), ({"OpenStack-API-Version": "compute latest"}, 200,
                                                                                 "2.96"),
    ({"X-OpenStack-Nova-API-Version": "2.60"}, 200, "2.60"), ({"OpenStack-API-Version": "volume 3.70"}, 200, "2.1"),
    ({"OpenStack-API-Version": "volume 3.70, compute 2.9"}, 200, "2.9"), ({"OpenStack-API-Version": "compute 2.97"}, 406, None),
    ({"OpenStack-API-Version": "compute 1.0"}, 406, None), ({"OpenStack-API-Version": "compute x"}, 400, None),
    ({"OpenStack-API-Version": "compute 2"}, 400, None), ({"OpenStack-API-Version": "compute 2.01"}, 400, None)])
async def test_microversions_are_negotiated_and_told(serve, asked, status, version):
    async with serve() as client:
        got, body, headers = await get(client, "/things/x", headers=asked)
        assert got == status
        if version is not None:
            assert body["version"] == version and headers["OpenStack-API-Version"] == f"compute {version}"
            assert headers["X-OpenStack-Nova-API-Version"] == version and "OpenStack-API-Version" in headers["Vary"]


async def test_operations_come_and_go_with_versions(serve):
    async with serve() as client:
        async def status(path, version):
            return (await get(client, path, headers={"OpenStack-API-Version": f"compute {version}"}))[0]

        assert [await status("/new", one) for one in ("2.49", "2.50")] == [404, 200]
        assert [await status("/old", one) for one in ("2.35", "2.36")] == [200, 404]


@pytest.mark.parametrize(("body", "status"), [
    ({"start": None}, 202), ({"start": {}}, 202), ({}, 400), ({"start": 1, "stop": 2}, 400), ({"fly": {}}, 400), ([], 400)])
async def test_actions_are_chosen_by_the_key_of_the_body(serve, body, status):
    async with serve() as client:
        assert (await get(client, "/things/x/action", method="POST", json=body))[0] == status


async def test_an_action_has_a_schema_and_a_version_of_its_own(serve):
    async with serve() as client:
        newer = {"OpenStack-API-Version": "compute 2.10"}
        assert (await get(client, "/things/x/action", method="POST", json={"stop": {}}))[0] == 400
        assert (await get(client, "/things/x/action", method="POST", json={"stop": {}}, headers=newer))[0] == 202
        status, body, _ = await get(client, "/things/x/action", method="POST", json={"stop": 7}, headers=newer)
        assert status == 400 and "stop" in body["badRequest"]["message"]


@pytest.mark.parametrize(("raw", "status"), [
    (b"", 400), (b"{", 400), (b"nonsense", 400), (b'{"a": NaN}', 400), (b'{"a": Infinity}', 400),
    (b'{"a": 1e999}', 400), (b'{"a": [-1E+999]}', 400), (b"\xff\xfe", 400),
    (b'{"a": "\\ud800"}', 400), (b'{"a": "\\u0000"}', 400), (b'{"\\u0000": 1}', 400), (b"[" * 100_000,
        400), (b'{"a":' * 30 + b"1" + b"}" * 30, 400),
    (b'{"a": ' + b"9" * 5_000 + b"}", 400), (b'{"a": 99999999999999999999}', 400), (b"[" + b"1," * 30_000 + b"1]", 400),
    (b'{"a": "' + b"x" * 120_000 + b'"}', 413), (b'{"a": 1}', 202)])
async def test_bodies_that_are_bombs_or_no_text_are_refused(serve, raw, status):
    async with serve() as client:
        got, _, _ = await get(client, "/things", method="POST", data=raw, headers={"Content-Type": "application/json"})
        assert got == status


async def test_a_body_that_is_something_else_is_415(serve):
    async with serve() as client:
        assert (await get(client, "/things", method="POST", data=b"<x/>", headers={"Content-Type": "application/xml"}))[0] == 415


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_what_its_encoding_says_is_refused_without_a_traceback(serve, encoding, caplog):
    async with serve() as client:
        for raw in (b"garbage", gzip.compress(b"{}" * 100)[:20] + b"\xff" * 40):
            status, body, _ = await get(client, "/things", method="POST", data=raw,
                                        headers={"Content-Type": "application/json", "Content-Encoding": encoding})
            assert status == 400 and "badRequest" in body
        assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING] == []


async def test_a_crash_tells_nothing_but_its_id_and_is_explained_by_it(serve):
    async with serve() as client:
        status, body, headers = await get(client, "/refuse/crash")
        assert status == 500 and "hunter2" not in str(body)
        entry = client.service.causes.find(headers["x-openstack-request-id"])
        assert entry["status"] == 500 and entry["code"] == "RuntimeError"
        _, _, headers = await get(client, "/admin")
        entry = client.service.causes.find(headers["x-openstack-request-id"])
        assert entry["chain"][0]["rule"] == "policy" and entry["chain"][0]["facts"]["name"] == "admin"


@pytest.mark.parametrize(("style", "status", "has"), [
    (errors.IDENTITY, 403, '"error"'), (errors.COMPUTE, 403, '"forbidden"'), (errors.BLOCK, 413, '"overLimit"'),
    (errors.NETWORK, 409, '"NeutronError"'), (errors.IMAGE, 413, "<title>413"), (errors.PLACEMENT, 403, '"errors"')])
async def test_each_service_has_its_own_form_of_errors(serve, style, status, has):
    async with serve(style=style) as client, client.get("/refuse/quota") as answer:
        assert answer.status == status and has in await answer.text()


@pytest.mark.parametrize(("headers", "base"), [
    ({"Host": "cloud.example.org:5000"}, "http://cloud.example.org:5000"), ({"Host": "[::1]:80"}, "http://[::1]:80"),
    ({"Host": "x", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "public.example.org"}, "https://public.example.org"),
    ({"Host": "x", "X-Forwarded-Prefix": "/compute/"}, "http://x/compute"), ({"Host": "x", "X-Forwarded-Proto": "javascript"},
                                                                             "http://x"),
    ({"Host": "evil\"><script>"}, "http://fallback:1"), ({"Host": "a b"},
                                                         "http://fallback:1"), ({"Host": "x", "X-Forwarded-Host": "a/b"},
                                                                                "http://x"),
    ({"Host": "x", "X-Forwarded-Prefix": "//evil"}, "http://x")])
async def test_links_are_built_from_what_the_client_reached(serve, headers, base):
    async with serve(fallback_host="fallback:1") as client:
        assert (await get(client, "/things/x", headers=headers))[1]["base"] == base


async def test_a_public_url_is_the_operators_word(serve):
    async with serve(public_url="https://api.example.org/") as client:
        assert (await get(client, "/things/x",
                          headers={"X-Forwarded-Host": "evil.example.org"}))[1]["base"] == "https://api.example.org"


def test_two_rows_for_one_operation_are_a_bug():
    with pytest.raises(AssertionError, match="two rows"):
        RouteTable([*ROUTES, Route("GET", "/things/{other}", show, "all")])
