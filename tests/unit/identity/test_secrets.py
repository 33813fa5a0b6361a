"""Secrets of users are shown to their owners and to administrators of the cloud."""
from __future__ import annotations

SEED = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"


async def test_a_reader_of_the_system_sees_no_secrets_but_its_own(make_cloud):
    async with make_cloud() as cloud:
        alice, project, token = await cloud.member()
        await cloud.call("POST", f"/v3/users/{alice}/credentials/OS-EC2", {"tenant_id": project}, token=token)
        await cloud.make("credential", user_id=alice, type="totp", blob=SEED)
        auditor = await cloud.make("user", name="auditor", password="a")
        await cloud.as_admin("PUT", f"/v3/system/users/{auditor['id']}/roles/{await cloud.role('reader')}")
        own = await cloud.make("credential", user_id=auditor["id"], type="totp", blob=SEED)
        reads = await cloud.login(auditor["id"], "a", {"system": {"all": True}})
        assert (await cloud.call("GET", "/v3/users", token=reads)).status == 200
        listed = (await cloud.call("GET", "/v3/credentials", token=reads)).body["credentials"]
        assert [one["id"] for one in listed] == [own["id"]]
        for query in (f"user_id={alice}", "type=ec2", f"user_id={alice}&type=totp"):
            assert (await cloud.call("GET", f"/v3/credentials?{query}", token=reads)).body["credentials"] == []
        everything = (await cloud.as_admin("GET", "/v3/credentials")).body["credentials"]
        assert {(one["user_id"], one["type"]) for one in everything} >= {(alice, "ec2"), (alice, "totp"), (auditor["id"], "totp")}
        for one in everything:
            wanted = 200 if one["user_id"] == auditor["id"] else 403
            assert (await cloud.call("GET", f"/v3/credentials/{one['id']}", token=reads)).status == wanted
        assert (await cloud.call("GET", f"/v3/users/{alice}/credentials/OS-EC2", token=reads)).status == 403
