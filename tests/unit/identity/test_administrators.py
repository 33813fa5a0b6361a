"""Nobody locks everybody out: the default domain stays, the last administrator stays, by whichever path it is tried."""
from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import update

from control.policy import Policy
from identity.administrators import has_administrator
from identity.model import role as role_table
from identity.rules import DEFAULTS


async def found(cloud, kind, name="admin"):
    return (await cloud.as_admin("GET", f"/v3/{kind}s?name={name}")).body[f"{kind}s"][0]["id"]


async def is_there(cloud):
    return await cloud.state.database.read(has_administrator)


async def second(cloud, **place):
    """Another administrator, with a password."""
    user = await cloud.make("user", name="second", password="second")
    await cloud.grant(user["id"], "admin", **place)
    return user["id"]


@pytest.mark.parametrize("path, word", [("domains/default", "domain"), ("projects/default", "project")])
async def test_the_default_domain_is_neither_disabled_nor_deleted_by_any_path(make_cloud, path, word):
    async with make_cloud() as cloud:
        await second(cloud, domain=(await cloud.make("domain", name="d"))["id"])
        answer = await cloud.as_admin("PATCH", f"/v3/{path}", {word: {"enabled": False}})
        assert answer.status == 403 and "default domain" in answer.body["error"]["message"]
        answer = await cloud.as_admin("DELETE", f"/v3/{path}")
        assert answer.status == 403 and "default domain" in answer.body["error"]["message"]
        assert (await cloud.as_admin("PATCH", f"/v3/{path}", {word: {"description": "x", "enabled": True}})).status == 200
        await cloud.login({"name": "demo", "domain": {"id": "default"}}, "demo key")


@pytest.mark.parametrize("path, word", [("domains", "domain"), ("projects", "project")])
async def test_a_domain_obeys_the_same_rules_by_both_paths(make_cloud, path, word):
    async with make_cloud() as cloud:
        made = await cloud.make("domain", name="d", options={"immutable": True})
        where = f"/v3/{path}/{made['id']}"
        assert (await cloud.as_admin("PATCH", where, {word: {"enabled": False}})).status == 403
        assert (await cloud.as_admin("DELETE", where)).status == 403
        assert (await cloud.as_admin("PATCH", where, {word: {"options": {"immutable": False}}})).status == 200
        assert (await cloud.as_admin("DELETE", where)).status == 403, "it is enabled still"
        assert (await cloud.as_admin("PATCH", where, {word: {"enabled": False}})).status == 200
        assert (await cloud.as_admin("DELETE", where)).status == 204


async def last_ways(cloud):
    """What would leave nobody with the role admin."""
    user, project, role = [await found(cloud, kind) for kind in ("user", "project", "role")]
    for path in (f"/v3/system/users/{user}/roles/{role}", f"/v3/domains/default/users/{user}/roles/{role}"):
        await cloud.as_admin("DELETE", path)
    return [("PATCH", f"/v3/users/{user}", {"user": {"enabled": False}}), ("DELETE", f"/v3/users/{user}", None),
            ("PATCH", f"/v3/users/{user}", {"user": {"password": None}}),
            ("PATCH", f"/v3/projects/{project}", {"project": {"enabled": False}}), ("DELETE", f"/v3/projects/{project}", None),
            ("DELETE", f"/v3/projects/{project}/users/{user}/roles/{role}", None)]


async def test_nothing_takes_the_power_from_the_last_administrator(make_cloud):
    async with make_cloud() as cloud:
        for method, path, body in await last_ways(cloud):
            answer = await cloud.as_admin(method, path, body)
            assert answer.status == 403 and "last administrator" in answer.body["error"]["message"], (method, path, answer)
        assert await is_there(cloud)
        assert (await cloud.as_admin("GET", "/v3/users")).status == 200, "the refused change was rolled back"


@pytest.mark.parametrize("way", range(6))
async def test_with_a_second_administrator_the_first_one_may_go(make_cloud, way):
    async with make_cloud() as cloud:
        method, path, body = (await last_ways(cloud))[way]
        await second(cloud, domain=(await cloud.make("domain", name="d"))["id"])
        assert (await cloud.as_admin(method, path, body)).status in (200, 204)
        assert await is_there(cloud)


async def test_the_role_admin_is_neither_renamed_nor_deleted_once_it_is_not_immutable(make_cloud):
    async with make_cloud() as cloud:
        role = await found(cloud, "role")
        assert (await cloud.as_admin("PATCH", f"/v3/roles/{role}", {"role": {"options": {"immutable": False}}})).status == 200
        assert (await cloud.as_admin("PATCH", f"/v3/roles/{role}", {"role": {"name": "boss"}})).status == 403
        assert (await cloud.as_admin("DELETE", f"/v3/roles/{role}")).status == 403
        assert (await cloud.as_admin("PATCH", f"/v3/roles/{role}", {"role": {"description": "x"}})).status == 200


async def test_the_last_administrator_by_a_group_stays_in_it(make_cloud):
    async with make_cloud() as cloud:
        ways = await last_ways(cloud)
        group, user = (await cloud.make("group", name="g"))["id"], (await cloud.make("user", name="u", password="u"))["id"]
        project = (await cloud.make("project", name="p"))["id"]
        role = await found(cloud, "role")
        assert (await cloud.as_admin("PUT", f"/v3/OS-INHERIT/domains/default/groups/{group}/roles/{role}/inherited_to_projects")
                ).status == 204
        assert (await cloud.as_admin("PUT", f"/v3/groups/{group}/users/{user}")).status == 204
        token = await cloud.login(user, "u", {"project": {"id": project}})
        method, path, body = ways[0]
        assert (await cloud.call(method, path, body, token=token)).status == 200
        for path in (f"/v3/groups/{group}/users/{user}", f"/v3/groups/{group}", f"/v3/users/{user}"):
            assert (await cloud.call("DELETE", path, token=token)).status == 403


@pytest.mark.parametrize("place", ["confined", "disabled project", "disabled domain", "no password"])
async def test_who_could_not_log_in_as_administrator_does_not_count_as_one(make_cloud, place):
    async with make_cloud() as cloud:
        ways = await last_ways(cloud)
        user = await cloud.make("user", name="u", **({} if place == "no password" else {"password": "u"}))
        project = (await cloud.make("project", name="p"))["id"]
        domain = (await cloud.make("domain", name="d"))["id"]
        if place == "disabled domain":
            await cloud.grant(user["id"], "admin", domain=domain)
            assert (await cloud.as_admin("PATCH", f"/v3/domains/{domain}", {"domain": {"enabled": False}})).status == 200
        else:
            await cloud.grant(user["id"], "admin", project="demo" if place == "confined" else project)
        if place == "disabled project":
            assert (await cloud.as_admin("PATCH", f"/v3/projects/{project}", {"project": {"enabled": False}})).status == 200
        assert (await cloud.as_admin(*ways[0])).status == 403


async def test_where_no_role_is_admin_nothing_is_refused(make_cloud):
    async with make_cloud() as cloud:
        user = (await cloud.make("user", name="u"))["id"]
        await cloud.state.database.run(lambda connection: connection.execute(
            update(role_table).where(role_table.c.name == "admin").values(name="operator")))
        assert not await is_there(cloud)
        cloud.service.policy = Policy(DEFAULTS, {"admin_required": "role:operator"})
        cloud.state.forget_contexts()
        assert (await cloud.as_admin("DELETE", f"/v3/users/{user}")).status == 204


@pytest.mark.parametrize("by", ["disabling", "role", "group"])
async def test_of_two_administrators_that_go_at_the_same_moment_one_stays(make_cloud, by):
    async with make_cloud() as cloud:
        disable_first, *_ = await last_ways(cloud)
        role = await found(cloud, "role")
        domain, group = (await cloud.make("domain", name="d"))["id"], (await cloud.make("group", name="g"))["id"]
        user = (await cloud.make("user", name="second", password="second"))["id"]
        grant = f"/v3/domains/{domain}/users/{user}/roles/{role}"
        if by == "group":
            grant = f"/v3/domains/{domain}/groups/{group}/roles/{role}"
            await cloud.as_admin("PUT", f"/v3/groups/{group}/users/{user}")
        await cloud.as_admin("PUT", grant)
        disable_second = {"disabling": ("PATCH", f"/v3/users/{user}", {"user": {"enabled": False}}),
                          "role": ("DELETE", grant, None), "group": ("DELETE", f"/v3/groups/{group}/users/{user}", None)}[by]
        answers = await asyncio.gather(*(cloud.as_admin(*way) for way in (disable_first, disable_second)))
        assert await is_there(cloud), answers


SEED32 = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
BOTH = {"user": {"options": {"multi_factor_auth_rules": [["password", "totp"]]}}}


@pytest.mark.parametrize("rules, status", [
    ([["password", "totp"]], 403), ([["totp"]], 403), ([["password", "token"]], 403), ([["password", "totp"], ["password"]], 200),
    ([["password"]], 200), ([], 200)])
async def test_the_last_administrator_takes_no_rules_that_it_cannot_meet(make_cloud, rules, status):
    async with make_cloud() as cloud:
        user = await found(cloud, "user")
        answer = await cloud.as_admin("PATCH", f"/v3/users/{user}", {"user": {"options": {"multi_factor_auth_rules": rules}}})
        assert answer.status == status, answer
        assert await is_there(cloud)
        await cloud.login(user, "of the administrator")


async def test_rules_that_are_not_in_force_are_enabled_only_if_they_can_be_met(make_cloud):
    async with make_cloud() as cloud:
        path = f"/v3/users/{await found(cloud, 'user')}"
        off = {"user": {"options": {**BOTH["user"]["options"], "multi_factor_auth_enabled": False}}}
        assert (await cloud.as_admin("PATCH", path, off)).status == 200
        for value in (True, None):
            body = {"user": {"options": {"multi_factor_auth_enabled": value}}}
            assert (await cloud.as_admin("PATCH", path, body)).status == 403


async def test_the_last_administrator_keeps_the_seed_that_its_rules_ask_for(make_cloud):
    async with make_cloud() as cloud:
        user = await found(cloud, "user")
        project = (await cloud.make("project", name="p"))["id"]
        seeds = [(await cloud.make("credential", user_id=user, type="totp", blob=SEED32, **more))["id"]
                 for more in ({}, {"project_id": project})]
        assert (await cloud.as_admin("PATCH", f"/v3/users/{user}", BOTH)).status == 200
        assert (await cloud.as_admin("DELETE", f"/v3/credentials/{seeds[0]}")).status == 204, "there is another one"
        assert (await cloud.as_admin("DELETE", f"/v3/credentials/{seeds[1]}")).status == 403
        assert (await cloud.as_admin("DELETE", f"/v3/projects/{project}")).status == 403, "the seed would go with it"
        assert (await cloud.as_admin("GET", f"/v3/credentials/{seeds[1]}")).status == 200
        await second(cloud, domain=(await cloud.make("domain", name="d"))["id"])
        assert (await cloud.as_admin("DELETE", f"/v3/credentials/{seeds[1]}")).status == 204


async def test_who_cannot_meet_its_own_rules_is_no_other_administrator(make_cloud):
    async with make_cloud() as cloud:
        ways = await last_ways(cloud)
        other = await second(cloud, domain=(await cloud.make("domain", name="d"))["id"])
        assert (await cloud.as_admin("PATCH", f"/v3/users/{other}", BOTH)).status == 200
        assert (await cloud.as_admin(*ways[0])).status == 403
