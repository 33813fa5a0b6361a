"""What an unrestricted application credential makes is never wider than it is and never outlives it."""
from __future__ import annotations

from control.times import format_time
from tests.unit.identity.test_escalation import app_credential


async def ask(cloud, user, token, **fields):
    body = {"application_credential": {"name": "child", **fields}}
    return await cloud.call("POST", f"/v3/users/{user}/application_credentials", body, token=token)


async def test_what_an_application_credential_made_is_deleted_with_it_through_all_generations(make_cloud):
    async with make_cloud() as cloud:
        me, _, token = await cloud.member()
        other, kept = await app_credential(cloud, me, token, name="beside")
        parent, strong = await app_credential(cloud, me, token, unrestricted=True, name="parent")
        child, strong = await app_credential(cloud, me, strong, unrestricted=True, name="child")
        grandchild, weak = await app_credential(cloud, me, strong, name="grandchild")
        for one in (strong, weak, kept):
            assert (await cloud.call("GET", "/v3/auth/projects", token=one)).status == 200
        base = f"/v3/users/{me}/application_credentials"
        assert (await cloud.call("DELETE", f"{base}/{parent['id']}", token=token)).status == 204
        for one in (strong, weak):
            assert (await cloud.call("GET", "/v3/auth/projects", token=one)).status == 401
        for made in (child, grandchild):
            login = await cloud.try_login({"methods": ["application_credential"],
                                           "application_credential": {"id": made["id"], "secret": made["secret"]}})
            assert login.status == 401
        left = (await cloud.call("GET", base, token=token)).body["application_credentials"]
        assert [row["id"] for row in left] == [other["id"]]
        assert (await cloud.call("GET", "/v3/auth/projects", token=kept)).status == 200


async def test_what_an_application_credential_made_expires_no_later(make_cloud):
    async with make_cloud() as cloud:
        me, _, token = await cloud.member()
        end_us = cloud.clock.now_us() + 100_000_000
        parent, strong = await app_credential(cloud, me, token, unrestricted=True, expires_at=format_time(end_us))
        child, _ = await app_credential(cloud, me, strong)
        assert child["expires_at"] == parent["expires_at"] is not None
        sooner, _ = await app_credential(cloud, me, strong, expires_at=format_time(end_us - 50_000_000))
        assert sooner["expires_at"] < parent["expires_at"]
        assert (await ask(cloud, me, strong, expires_at=format_time(end_us + 1_000_000))).status == 400


async def test_what_an_application_credential_made_has_its_access_rules_or_fewer(make_cloud):
    async with make_cloud() as cloud:
        me, _, token = await cloud.member()
        rules = [{"service": "identity", "method": "POST", "path": f"/v3/users/{me}/application_credentials"},
                 {"service": "identity", "method": "GET", "path": "/v3/auth/projects"}]
        parent, strong = await app_credential(cloud, me, token, unrestricted=True, access_rules=rules)
        child, weak = await app_credential(cloud, me, strong)
        assert child["access_rules"] == parent["access_rules"] and len(child["access_rules"]) == 2
        assert (await cloud.call("GET", "/v3/auth/projects", token=weak)).status == 200
        assert (await cloud.call("GET", "/v3/auth/catalog", token=weak)).status == 401
        fewer, _ = await app_credential(cloud, me, strong, access_rules=rules[1:])
        assert [rule["path"] for rule in fewer["access_rules"]] == ["/v3/auth/projects"]
        wider = {"service": "identity", "method": "GET", "path": "/v3/**"}
        assert (await ask(cloud, me, strong, access_rules=[wider])).status == 400
        assert (await ask(cloud, me, strong, access_rules=[*rules, wider])).status == 400
