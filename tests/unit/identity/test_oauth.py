"""OAuth 1.0a: an access token means the roles that its user gave, in its project, and no header fails otherwise than by refusal."""
from __future__ import annotations

import asyncio
import secrets
import socket
from urllib.parse import parse_qsl, quote

import pytest
from sqlalchemy import update

from identity.model import request_token
from identity.oauth import sign

LOGIN = {"auth": {"identity": {"methods": ["oauth1"], "oauth1": {}}}}


def header(cloud, method, path, consumer, token=None, **more):
    """An Authorization field. token: (id, secret)."""
    given = {"oauth_consumer_key": consumer["id"], "oauth_signature_method": "HMAC-SHA1", "oauth_nonce": secrets.token_hex(8),
             "oauth_timestamp": str(cloud.clock.now_us() // 1_000_000), **({"oauth_token": token[0]} if token else {}), **more}
    url = str(cloud.client.make_url(path))
    given["oauth_signature"] = sign(method, url, list(given.items()), consumer["secret"], token[1] if token else "")
    return "OAuth " + ", ".join(f'{name}="{quote(value, safe="")}"' for name, value in given.items())


async def access_token(cloud):
    """(consumer, (id, secret)) of a member that gave its role away."""
    consumer = await cloud_consumer(cloud)
    _, project, mine = await cloud.member()
    path = "/v3/OS-OAUTH1/request_token"
    answer = await cloud.call("POST", path, Authorization=header(cloud, "POST", path, consumer), Requested_Project_Id=project)
    request = dict(parse_qsl(answer.body.decode()))
    answer = await cloud.call("PUT", f"/v3/OS-OAUTH1/authorize/{request['oauth_token']}", {"roles": [{"name": "member"}]},
                              token=mine)
    verifier = answer.body["token"]["oauth_verifier"]
    path = "/v3/OS-OAUTH1/access_token"
    answer = await cloud.call("POST", path, Authorization=header(
        cloud, "POST", path, consumer, (request["oauth_token"], request["oauth_token_secret"]), oauth_verifier=verifier))
    assert answer.status == 201, answer
    given = dict(parse_qsl(answer.body.decode()))
    return consumer, (given["oauth_token"], given["oauth_token_secret"]), project


async def test_a_request_token_that_somebody_authorized_at_the_same_moment_is_not_given_another_verifier(make_cloud, beside):
    async with make_cloud() as cloud:
        consumer = await cloud_consumer(cloud)
        user, project, mine = await cloud.member()
        path = "/v3/OS-OAUTH1/request_token"
        answer = await cloud.call("POST", path, Authorization=header(cloud, "POST", path, consumer), Requested_Project_Id=project)
        token_id = dict(parse_qsl(answer.body.decode()))["oauth_token"]
        answer = await beside(cloud, lambda connection: connection.execute(
            update(request_token).where(request_token.c.id == token_id).values(user_id=user, verifier="of the first")),
            cloud.call("PUT", f"/v3/OS-OAUTH1/authorize/{token_id}", {"roles": [{"name": "member"}]}, token=mine))
        assert answer.status == 403 and "authorized before" in answer.body["error"]["message"]


async def cloud_consumer(cloud):
    answer = await cloud.as_admin("POST", "/v3/OS-OAUTH1/consumers", {"consumer": {}})
    return answer.body["consumer"]


async def log_in(cloud, consumer, token, body):
    path = "/v3/auth/tokens"
    return await cloud.call("POST", path, body, Authorization=header(cloud, "POST", path, consumer, token))


async def test_an_access_token_has_its_scope_and_takes_no_other(make_cloud):
    async with make_cloud() as cloud:
        consumer, token, project = await access_token(cloud)
        answer = await log_in(cloud, consumer, token, LOGIN)
        assert answer.status == 201 and answer.body["token"]["project"]["id"] == project
        for scope in ({"project": {"id": project}}, {"domain": {"id": "default"}}, {"system": {"all": True}}, "unscoped"):
            answer = await log_in(cloud, consumer, token, {"auth": {**LOGIN["auth"], "scope": scope}})
            assert answer.status == 401, (scope, answer)


async def test_a_token_made_from_an_access_token_ends_no_later_than_it(make_cloud):
    async with make_cloud(token_life_s=604_800) as cloud:
        consumer, token, _ = await access_token(cloud)
        made = (await log_in(cloud, consumer, token, LOGIN)).headers["X-Subject-Token"]
        cloud.clock.advance(86_399_000_000)
        assert (await cloud.call("GET", "/v3/auth/projects", token=made)).status == 200
        cloud.clock.advance(1_000_000)
        assert (await cloud.call("GET", "/v3/auth/projects", token=made)).status == 401


ODD = [b"\xff", b"\xc3\xa9", b"%00", b"%ff", b"%ed%a0%80", b"", b"x" * 9_000]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd[:10]))
@pytest.mark.parametrize("path", ["/v3/OS-OAUTH1/request_token", "/v3/OS-OAUTH1/access_token", "/v3/auth/tokens"])
async def test_no_header_makes_it_fail(make_cloud, path, odd):
    async with make_cloud() as cloud:
        body = b'{"auth": {"identity": {"methods": ["oauth1"], "oauth1": {}}}}'
        for name in (b"oauth_consumer_key", b"oauth_token", b"oauth_verifier", b"oauth_signature", b"oauth_timestamp", odd):
            lines = [f"POST {path} HTTP/1.1".encode(), b"Host: x", b"Connection: close", b"Content-Length: %d" % len(body),
                     b'Authorization: OAuth oauth_signature_method="HMAC-SHA1",oauth_timestamp="%d",%s="%s"' % (
                         cloud.clock.now_us() // 1_000_000, name, odd)]
            assert await raw_status(cloud, b"\r\n".join([*lines, b"", body])) in (400, 401)


@pytest.mark.parametrize("odd", ODD[:2] + ODD[-1:], ids=lambda odd: repr(odd[:10]))
async def test_a_project_that_is_no_text_is_refused(make_cloud, odd):
    async with make_cloud() as cloud:
        consumer = await cloud_consumer(cloud)
        field = header(cloud, "POST", "/v3/OS-OAUTH1/request_token", consumer).encode()
        host = cloud.client.make_url("/").authority.encode()
        lines = [b"POST /v3/OS-OAUTH1/request_token HTTP/1.1", b"Host: " + host, b"Connection: close", b"Content-Length: 0",
                 b"Authorization: " + field, b"Requested-Project-Id: " + odd]
        assert await raw_status(cloud, b"\r\n".join([*lines, b"", b""])) == 400


async def raw_status(cloud, data):
    """Of a request that no client library would send."""
    url = cloud.client.make_url("/")
    reader, writer = await asyncio.open_connection(url.host, url.port, family=socket.AF_INET)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1])
