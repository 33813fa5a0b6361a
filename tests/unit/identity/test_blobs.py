"""JSON inside a string is judged as a body is: what could not be stored or sent on is refused before it is stored."""
from __future__ import annotations

import base64
import json

import pytest
from sqlalchemy import update

from control.times import format_second
from identity.model import credential

BAD = ['{"access": "k", "secret": "\\ud800"}', '{"access": "\\udfff", "secret": "s"}', '{"access": "k", "secret": "a\\u0000"}',
       "[" * 16_000, '{"access":' * 3_000 + "1" + "}" * 3_000, '{"access": "k", "secret": "s", "x": NaN}',
       '{"access": "k", "secret": "s", "x": 1e999}', '{"access": "k", "secret": "s", "x": ' + "9" * 5_000 + "}",
       "", "null", "[]", "7"]


@pytest.mark.parametrize("blob", BAD, ids=lambda blob: blob[:40])
async def test_a_key_that_could_not_be_sent_to_a_gateway_is_refused(make_cloud, blob):
    async with make_cloud() as cloud:
        user, project, token = await cloud.member()
        given = {"type": "ec2", "blob": blob, "project_id": project}
        answer = await cloud.call("POST", "/v3/credentials", {"credential": given}, token=token)
        assert answer.status == 400, answer
        assert "request body" not in answer.body["error"]["message"]
        good = await cloud.make("credential", token=token, **{**given, "blob": '{"access": "k", "secret": "s"}'})
        answer = await cloud.call("PATCH", f"/v3/credentials/{good['id']}", {"credential": {"blob": blob}}, token=token)
        assert answer.status == 400, answer
        shown = (await cloud.call("GET", f"/v3/users/{user}/credentials/OS-EC2/k", token=token)).body["credential"]
        assert shown["secret"] == "s"


@pytest.mark.parametrize("blob", ["é" * 16, "A" * 7 + "\u2028", "\ud7ff", "[" * 16_000, "="])
async def test_a_seed_that_is_none_is_refused(make_cloud, blob):
    async with make_cloud() as cloud:
        user, _, token = await cloud.member()
        given = {"type": "totp", "blob": blob, "user_id": user}
        assert (await cloud.call("POST", "/v3/credentials", {"credential": given}, token=token)).status == 400


@pytest.mark.parametrize("kind", ["cert", "x"])
async def test_a_blob_that_nobody_reads_may_say_anything(make_cloud, kind):
    async with make_cloud() as cloud:
        for blob in ("[" * 16_000, '{"a": "\\ud800"}', "NaN"):
            made = await cloud.make("credential", type=kind, blob=blob)
            assert (await cloud.as_admin("GET", f"/v3/credentials/{made['id']}")).body["credential"]["blob"] == blob
            made = await cloud.make("policy", type=kind, blob=blob)
            assert (await cloud.as_admin("GET", f"/v3/policies/{made['id']}")).body["policy"]["blob"] == blob


@pytest.mark.parametrize("stored", [json.dumps({"access": "k", "secret": "\ud800"}), "no JSON", "[]", '{"secret": 7}'])
async def test_a_stored_key_that_signs_nothing_is_401_and_can_be_seen_and_deleted(make_cloud, stored):
    async with make_cloud() as cloud:
        user, project, token = await cloud.member()
        made = await cloud.make("credential", type="ec2", blob='{"access": "k", "secret": "s"}', project_id=project, token=token)
        await cloud.state.database.run(lambda connection: connection.execute(
            update(credential).where(credential.c.id == made["id"]).values(sealed=cloud.state.vault.seal_text(stored))))
        given = {"access": "k", "signature": "x", "token": base64.b64encode(b"text").decode(),
                 "params": {"SignatureVersion": "0", "Timestamp": format_second(cloud.clock.now_us())}}
        for path in ("/v3/ec2tokens", "/v3/s3tokens"):
            answer = await cloud.as_admin("POST", path, {"credentials": given})
            assert answer.status == 401, answer
        base = f"/v3/users/{user}/credentials/OS-EC2"
        assert (await cloud.call("GET", base, token=token)).status == 200
        assert (await cloud.call("GET", f"{base}/k", token=token)).status == 200
        assert (await cloud.call("GET", "/v3/credentials", token=token)).status == 200
        assert (await cloud.call("DELETE", f"{base}/k", token=token)).status == 204
