"""Signatures that botocore makes are taken, changed ones are not; who may ask and what the answer is worth."""
from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from sqlalchemy import update

from common.clock import ManualClock
from control.times import format_time
from identity.model import credential
from identity.signatures import SignedRequest, decode_string, matches_request, matches_string
from identity.tokens import decode_token, encode_token
from tests.unit.identity.test_escalation import app_credential, trust


@pytest.fixture
def at_the_clock(monkeypatch):
    """botocore signs at the time of the test's clock."""
    def freeze(clock):
        now = datetime.fromtimestamp(clock.now_us() / 1e6, UTC)
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda remove_tzinfo=True: now.replace(tzinfo=None))
        monkeypatch.setattr("time.gmtime", lambda *_: now.timetuple())
    return freeze


async def key_of(cloud):
    user, project, token = await cloud.member()
    answer = await cloud.call("POST", f"/v3/users/{user}/credentials/OS-EC2", {"tenant_id": project}, token=token)
    return user, project, answer.body["credential"]


def signed_4(key, *, url="http://s3.example.org:8080/bucket/a%20b?prefix=x&max-keys=2", method="GET", body=b"",
             cls=botocore.auth.S3SigV4Auth):
    """(the request, the string that was signed, the signature)"""
    request = AWSRequest(method=method, url=url, data=body, headers={"X-Amz-Content-SHA256": hashlib.sha256(body).hexdigest()})
    signer = cls(Credentials(key["access"], key["secret"]), "s3", "us-east-1")
    seen = {}
    original = signer.string_to_sign
    signer.string_to_sign = lambda *arguments: seen.setdefault("text", original(*arguments))
    signer.add_auth(request)
    return request, seen["text"], request.headers["Authorization"].rpartition("Signature=")[2]


def ec2_body(key, request, signature):
    url = urlsplit(request.url)
    return {"credentials": {
        "access": key["access"], "signature": signature, "host": url.netloc, "verb": request.method, "path": url.path,
        "params": dict(parse_qsl(url.query)), "headers": dict(request.headers.items()),
        "body_hash": request.headers["X-Amz-Content-SHA256"]}}


async def test_s3tokens_takes_the_strings_that_botocore_signs(make_cloud, at_the_clock):
    async with make_cloud() as cloud:
        at_the_clock(cloud.clock)
        user, project, key = await key_of(cloud)
        _, text, signature = signed_4(key)
        given = {"access": key["access"], "signature": signature, "token": base64.urlsafe_b64encode(text.encode()).decode()}
        answer = await cloud.as_admin("POST", "/v3/s3tokens", {"credentials": given})
        assert answer.status == 200 and "X-Subject-Token" not in answer.headers
        token = answer.body["token"]
        assert token["user"]["id"] == user and token["project"]["id"] == project
        assert {role["name"] for role in token["roles"]} == {"member", "reader"}
        for wrong in ({**given, "signature": signature[:-1] + ("0" if signature[-1] != "0" else "1")}, {**given, "access": "x"},
                      {**given, "token": base64.b64encode(text.encode() + b" ").decode()}, {**given, "token": "***"}):
            assert (await cloud.as_admin("POST", "/v3/s3tokens", {"credentials": wrong})).status == 401


async def test_s3tokens_takes_version_2(make_cloud):
    async with make_cloud() as cloud:
        _, _, key = await key_of(cloud)
        auth = botocore.auth.HmacV1Auth(Credentials(key["access"], key["secret"]))
        text = "GET\n\n\nFri, 20 Nov 2026 12:00:00 GMT\n/bucket/key"
        given = {"access": key["access"], "signature": auth.sign_string(text), "token": base64.b64encode(text.encode()).decode()}
        assert (await cloud.as_admin("POST", "/v3/s3tokens", {"credentials": given})).status == 200


async def test_ec2tokens_gives_a_token_for_a_request_that_botocore_signed(make_cloud, at_the_clock):
    async with make_cloud() as cloud:
        at_the_clock(cloud.clock)
        user, _, key = await key_of(cloud)
        body = ec2_body(key, *signed_4(key)[::2])
        answer = await cloud.as_admin("POST", "/v3/ec2tokens", body)
        assert answer.status == 200
        token = answer.headers["X-Subject-Token"]
        assert (await cloud.call("GET", f"/v3/users/{user}", token=token)).status == 200
        exchanged = await cloud.try_login({"methods": ["token"], "token": {"id": token}}, "unscoped")
        assert exchanged.status == 403, "a key of one project opens no other one"
        for name, value in (("verb", "PUT"), ("path", "/bucket/other"), ("host", "evil.example.org"), ("body_hash", "0" * 64),
                            ("params", {"prefix": "y", "max-keys": "2"})):
            wrong = {"credentials": {**body["credentials"], name: value}}
            assert (await cloud.as_admin("POST", "/v3/ec2tokens", wrong)).status == 401, name


async def test_an_old_signature_is_not_taken_again(make_cloud, at_the_clock):
    async with make_cloud() as cloud:
        at_the_clock(cloud.clock)
        _, _, key = await key_of(cloud)
        body = ec2_body(key, *signed_4(key)[::2])
        for jump_us in (901_000_000, -1_802_000_000):
            cloud.clock.advance(jump_us)
            assert (await cloud.as_admin("POST", "/v3/ec2tokens", body)).status == 401


async def test_a_key_ends_with_its_deletion_and_with_the_role_of_its_owner(make_cloud, at_the_clock):
    async with make_cloud() as cloud:
        at_the_clock(cloud.clock)
        user, project, key = await key_of(cloud)
        body = ec2_body(key, *signed_4(key)[::2])
        path = f"/v3/projects/{project}/users/{user}/roles/{await cloud.role('member')}"
        assert (await cloud.as_admin("DELETE", path)).status == 204
        assert (await cloud.as_admin("POST", "/v3/ec2tokens", body)).status == 401
        assert (await cloud.as_admin("PUT", path)).status == 204
        assert (await cloud.as_admin("POST", "/v3/ec2tokens", body)).status == 200
        assert (await cloud.as_admin("DELETE", f"/v3/users/{user}/credentials/OS-EC2/{key['access']}")).status == 204
        assert (await cloud.as_admin("POST", "/v3/ec2tokens", body)).status == 401


async def test_only_services_and_administrators_may_ask(make_cloud, at_the_clock):
    async with make_cloud() as cloud:
        at_the_clock(cloud.clock)
        _, _, key = await key_of(cloud)
        body = ec2_body(key, *signed_4(key)[::2])
        _, _, member = await cloud.member(name="eve")
        _, _, service = await cloud.member("service", name="s3")
        assert (await cloud.call("POST", "/v3/ec2tokens", body)).status == 401
        assert (await cloud.call("POST", "/v3/ec2tokens", body, token=member)).status == 403
        assert (await cloud.call("POST", "/v3/ec2tokens", body, token=service)).status == 200


def test_version_2_of_query_requests(monkeypatch):
    clock = ManualClock()
    monkeypatch.setattr(botocore.auth, "get_current_datetime",
                        lambda remove_tzinfo=True: datetime.fromtimestamp(clock.now_us() / 1e6, UTC).replace(tzinfo=None))
    request = AWSRequest(method="POST", url="https://ec2.example.org/services/Cloud",
                         data={"Action": "DescribeInstances", "A b": "ä/~"})
    botocore.auth.SigV2Auth(Credentials("access", "secret")).add_auth(request)
    params = dict(request.data)
    signature = params.pop("Signature")
    seen = SignedRequest(verb="POST", host="ec2.example.org", path="/services/Cloud", params=params)
    assert matches_request("secret", signature, seen) and not matches_request("other", signature, seen)
    with_port = SignedRequest(verb="POST", host="ec2.example.org:8773", path="/services/Cloud", params=params)
    assert matches_request("secret", signature, with_port)


def test_what_is_no_base64_is_no_string_to_sign():
    assert decode_string("***") is None and decode_string("ä") is None
    assert not matches_string("secret", "x", b"AWS4-HMAC-SHA256\nbroken")


async def test_a_token_from_a_key_ends_no_later_than_what_the_key_was_made_with(make_cloud, at_the_clock):
    async with make_cloud() as cloud:
        at_the_clock(cloud.clock)
        user, project, token = await cloud.member()
        end_us = cloud.clock.now_us() + 100_000_000
        _, weak = await app_credential(cloud, user, token, expires_at=format_time(end_us))
        key = (await cloud.call("POST", f"/v3/users/{user}/credentials/OS-EC2", {"tenant_id": project},
                                token=weak)).body["credential"]
        request, text, signature = signed_4(key)
        given = {"access": key["access"], "signature": signature, "token": base64.urlsafe_b64encode(text.encode()).decode()}
        answer = await cloud.as_admin("POST", "/v3/s3tokens", {"credentials": given})
        assert answer.body["token"]["expires_at"] == format_time(end_us)
        answer = await cloud.as_admin("POST", "/v3/ec2tokens", ec2_body(key, request, signature))
        assert answer.status == 200 and answer.body["token"]["expires_at"] == format_time(end_us)
        made = answer.headers["X-Subject-Token"]
        for _ in range(2):
            assert (await cloud.call("GET", "/v3/auth/projects", token=made)).status == 200
            assert (await cloud.as_admin("GET", "/v3/auth/tokens", X_Subject_Token=made)).status == 200
        cloud.clock.advance(100_000_000)
        assert (await cloud.call("GET", "/v3/auth/projects", token=made)).status == 401
        assert (await cloud.as_admin("GET", "/v3/auth/tokens", X_Subject_Token=made)).status == 404
        assert (await cloud.as_admin("POST", "/v3/ec2tokens", ec2_body(key, request, signature))).status == 401


async def test_a_token_that_says_it_lives_longer_is_not_remembered_longer(make_cloud):
    """As versions that did not cut it made them."""
    async with make_cloud() as cloud:
        user, _, token = await cloud.member()
        end_us = cloud.clock.now_us() + 100_000_000
        _, weak = await app_credential(cloud, user, token, expires_at=format_time(end_us))
        facts = decode_token(weak, cloud.state.keys)
        assert facts.expires_us == end_us
        long = encode_token(replace(facts, expires_us=end_us + 1_000_000_000), cloud.state.keys)
        for _ in range(2):
            assert (await cloud.call("GET", "/v3/auth/projects", token=long)).status == 200
        cloud.clock.advance(100_000_000)
        assert (await cloud.call("GET", "/v3/auth/projects", token=long)).status == 401


async def test_a_token_from_a_key_under_a_trust_ends_with_the_trust(make_cloud, at_the_clock):
    async with make_cloud() as cloud:
        at_the_clock(cloud.clock)
        user, project, key = await key_of(cloud)
        mine = await cloud.login(user, "alice", {"project": {"id": project}})
        end_us = cloud.clock.now_us() + 100_000_000
        answer = await trust(cloud, user, user, project, mine, impersonation=True, expires_at=format_time(end_us))
        made = answer.body["trust"]["id"]
        await cloud.state.database.run(lambda connection: connection.execute(update(credential).values(trust_id=made)))
        request, _, signature = signed_4(key)
        answer = await cloud.as_admin("POST", "/v3/ec2tokens", ec2_body(key, request, signature))
        assert answer.status == 200 and answer.body["token"]["expires_at"] == format_time(end_us)
