"""The manager of a domain and what is not for it: projects, groups and users that reach beyond the domain."""
from __future__ import annotations

import pytest

PASSWORD = "of the manager"


async def manager_of_default(cloud):
    """(id, token): role manager on the domain in which the administrator is at home."""
    user = await cloud.make("user", name="m", password=PASSWORD)
    await cloud.grant(user["id"], "manager", domain="default")
    return user["id"], await cloud.login(user["id"], PASSWORD, {"domain": {"id": "default"}})


async def project_of_admin(cloud):
    return (await cloud.as_admin("GET", "/v3/projects?name=admin")).body["projects"][0]["id"]


CHANGES = [("PATCH", "", {"project": {"enabled": False}}), ("PATCH", "", {"project": {"name": "x"}}), ("DELETE", "", None),
           ("PUT", "/tags", {"tags": ["x"]}), ("PUT", "/tags/x", None), ("DELETE", "/tags", None), ("DELETE", "/tags/x", None)]


@pytest.mark.parametrize("role", ["admin", "service", "operator"])
@pytest.mark.parametrize("change", CHANGES, ids=str)
async def test_a_manager_changes_no_project_in_which_somebody_has_a_role_that_it_may_not_give(make_cloud, role, change):
    method, path, body = change
    async with make_cloud() as cloud:
        _, token = await manager_of_default(cloud)
        if role == "operator":
            await cloud.make("role", name=role)
        project = await cloud.make("project", name="p", tags=["x"])
        boss = await cloud.make("user", name="boss")
        await cloud.grant(boss["id"], role, project=project["id"])
        assert (await cloud.call(method, f"/v3/projects/{project['id']}{path}", body, token=token)).status == 403
        assert (await cloud.as_admin("GET", f"/v3/projects/{project['id']}")).body["project"] == project
        free = await cloud.make("project", name="free", tags=["x"])
        await cloud.grant(boss["id"], "member", project=free["id"])
        assert (await cloud.call(method, f"/v3/projects/{free['id']}{path}", body, token=token)).status in (200, 201, 204)


async def test_a_manager_has_no_way_into_the_project_of_the_administrator(make_cloud):
    async with make_cloud() as cloud:
        me, token = await manager_of_default(cloud)
        admin = await project_of_admin(cloud)
        group = await cloud.make("group", name="g", token=token)
        for role in ("manager", "member", "reader"):
            for actor in (f"users/{me}", f"groups/{group['id']}"):
                for place in (f"/v3/projects/{admin}/{actor}/roles/{await cloud.role(role)}",
                              f"/v3/OS-INHERIT/projects/{admin}/{actor}/roles/{await cloud.role(role)}/inherited_to_projects",
                              f"/v3/OS-INHERIT/domains/default/{actor}/roles/{await cloud.role(role)}/inherited_to_projects"):
                    assert (await cloud.call("PUT", place, token=token)).status == 403, place
                    assert (await cloud.call("DELETE", place, token=token)).status == 403, place
        answer = await cloud.call("POST", "/v3/projects", {"project": {"name": "below", "parent_id": admin}}, token=token)
        assert answer.status == 403
        for scope in ({"project": {"id": admin}}, {"project": {"id": "demo"}}):
            answer = await cloud.try_login({"methods": ["password"], "password": {"user": {"id": me, "password": PASSWORD}}}, scope)
            assert answer.status == 401


async def test_a_role_that_is_inherited_to_a_project_of_the_administrator_is_refused_further_up(make_cloud):
    async with make_cloud() as cloud:
        me, token = await manager_of_default(cloud)
        above = await cloud.make("project", name="above")
        below = await cloud.make("project", name="below", parent_id=above["id"])
        path = f"/v3/OS-INHERIT/projects/{above['id']}/users/{me}/roles/{await cloud.role('member')}/inherited_to_projects"
        assert (await cloud.call("PUT", path, token=token)).status == 204
        assert (await cloud.call("DELETE", path, token=token)).status == 204
        boss = await cloud.make("user", name="boss")
        await cloud.grant(boss["id"], "admin", project=below["id"])
        assert (await cloud.call("PUT", path, token=token)).status == 403
        plain = f"/v3/projects/{above['id']}/users/{me}/roles/{await cloud.role('member')}"
        assert (await cloud.call("PUT", plain, token=token)).status == 204


async def test_an_administrator_by_inheritance_from_the_domain_leaves_the_projects_to_their_manager(make_cloud):
    async with make_cloud() as cloud:
        _, token = await manager_of_default(cloud)
        boss = await cloud.make("user", name="boss")
        path = f"/v3/OS-INHERIT/domains/default/users/{boss['id']}/roles/{await cloud.role('admin')}/inherited_to_projects"
        assert (await cloud.as_admin("PUT", path)).status == 204
        project = await cloud.make("project", name="p")
        answer = await cloud.call("PATCH", f"/v3/projects/{project['id']}", {"project": {"enabled": False}}, token=token)
        assert answer.status == 200


async def test_a_manager_changes_neither_its_domain_nor_the_groups_of_an_administrator(make_cloud):
    async with make_cloud() as cloud:
        _, token = await manager_of_default(cloud)
        for path, word in (("domains/default", "domain"), ("projects/default", "project")):
            assert (await cloud.call("PATCH", f"/v3/{path}", {word: {"description": "x"}}, token=token)).status == 403
            assert (await cloud.call("DELETE", f"/v3/{path}", token=token)).status == 403
        admin = (await cloud.as_admin("GET", "/v3/users?name=admin")).body["users"][0]["id"]
        group = await cloud.make("group", name="g", token=token)
        member = f"/v3/groups/{group['id']}/users/{admin}"
        assert (await cloud.call("PUT", member, token=token)).status == 403
        assert (await cloud.as_admin("PUT", member)).status == 204
        assert (await cloud.call("DELETE", member, token=token)).status == 403


async def trust_of_admin(cloud, trustee, **fields):
    admin = (await cloud.as_admin("GET", "/v3/users?name=admin")).body["users"][0]["id"]
    body = {"trustor_user_id": admin, "trustee_user_id": trustee, "project_id": await project_of_admin(cloud),
            "impersonation": True, "roles": [{"name": "admin"}], **fields}
    answer = await cloud.as_admin("POST", "/v3/OS-TRUST/trusts", {"trust": body})
    assert answer.status == 201, answer
    return answer.body["trust"]["id"]


async def may_set_password(cloud, user, token):
    return (await cloud.call("PATCH", f"/v3/users/{user}", {"user": {"password": "mine"}}, token=token)).status == 200


async def test_who_holds_a_trust_of_an_administrator_is_out_of_reach_as_long_as_it_lives(make_cloud):
    async with make_cloud() as cloud:
        _, token = await manager_of_default(cloud)
        trustee = (await cloud.make("user", name="trustee", password="t"))["id"]
        assert await may_set_password(cloud, trustee, token)
        made = await trust_of_admin(cloud, trustee)
        assert not await may_set_password(cloud, trustee, token)
        assert (await cloud.as_admin("DELETE", f"/v3/OS-TRUST/trusts/{made}")).status == 204
        assert await may_set_password(cloud, trustee, token)
        await trust_of_admin(cloud, trustee, roles=[{"name": "member"}], expires_at=cloud_time(cloud, after_s=600))
        assert not await may_set_password(cloud, trustee, token)
        cloud.clock.advance(601_000_000)
        assert await may_set_password(cloud, trustee, token)


async def test_whoever_has_any_role_in_the_project_of_an_administrator_is_out_of_reach(make_cloud):
    async with make_cloud() as cloud:
        _, token = await manager_of_default(cloud)
        user = (await cloud.make("user", name="u", password="u"))["id"]
        group = (await cloud.make("group", name="g"))["id"]
        own = (await cloud.make("project", name="own"))["id"]
        await cloud.grant(user, "member", project=own)
        assert await may_set_password(cloud, user, token)
        await cloud.grant(user, "member", project=await project_of_admin(cloud))
        assert not await may_set_password(cloud, user, token)
        inherited = f"/v3/OS-INHERIT/domains/default/groups/{group}/roles/{await cloud.role('reader')}/inherited_to_projects"
        assert (await cloud.as_admin("PUT", inherited)).status == 204
        assert (await cloud.call("DELETE", f"/v3/groups/{group}", token=token)).status == 403


def cloud_time(cloud, *, after_s):
    from control.times import format_time
    return format_time(cloud.clock.now_us() + after_s * 1_000_000)


async def reach(cloud, token, user):
    """Statuses of what would be a way to act as a user, or to shut it out."""
    path = f"/v3/users/{user}"
    return {(await cloud.call("PATCH", path, {"user": given}, token=token)).status
            for given in ({"password": "mine"}, {"enabled": False}, {"enabled": True}, {"name": "new"},
                          {"options": {"multi_factor_auth_enabled": False}})}


@pytest.mark.parametrize("where", ["domain", "project", "inherited", "group", "trust"])
async def test_a_user_with_a_role_in_another_domain_is_out_of_the_reach_of_the_manager_at_home(make_cloud, where):
    async with make_cloud() as cloud:
        _, token = await manager_of_default(cloud)
        victim = (await cloud.make("user", name="victim", password="v"))["id"]
        own = (await cloud.make("project", name="own"))["id"]
        await cloud.grant(victim, "member", project=own)
        await cloud.grant(victim, "manager", domain="default")
        assert await reach(cloud, token, victim) == {200}, "roles at home alone"
        other = (await cloud.make("domain", name="other"))["id"]
        project = (await cloud.make("project", name="p", domain_id=other))["id"]
        group = (await cloud.make("group", name="g"))["id"]
        role = await cloud.role("member")
        if where == "trust":
            trustor = (await cloud.make("user", name="t", password="t"))["id"]
            await cloud.grant(trustor, "member", project=project)
            given = {"trustor_user_id": trustor, "trustee_user_id": victim, "project_id": project, "impersonation": False,
                     "roles": [{"id": role}]}
            answer = await cloud.call("POST", "/v3/OS-TRUST/trusts", {"trust": given},
                                      token=await cloud.login(trustor, "t", {"project": {"id": project}}))
            assert answer.status == 201, answer
        else:
            path = {"domain": f"/v3/domains/{other}/users/{victim}/roles/{role}",
                    "project": f"/v3/projects/{project}/users/{victim}/roles/{role}",
                    "inherited": f"/v3/OS-INHERIT/domains/{other}/users/{victim}/roles/{role}/inherited_to_projects",
                    "group": f"/v3/projects/{project}/groups/{group}/roles/{role}"}[where]
            assert (await cloud.as_admin("PUT", path)).status == 204
            if where == "group":
                assert (await cloud.as_admin("PUT", f"/v3/groups/{group}/users/{victim}")).status == 204
        assert await reach(cloud, token, victim) == {403}
        assert (await cloud.call("DELETE", f"/v3/users/{victim}", token=token)).status == 403
        path = f"/v3/projects/{own}/users/{victim}/roles/{role}"
        for method in ("PUT", "DELETE"):
            assert (await cloud.call(method, path, token=token)).status == 204, "roles at home are the manager's to give"


async def test_a_group_with_a_role_in_another_domain_takes_no_members_from_the_manager_at_home(make_cloud):
    async with make_cloud() as cloud:
        me, token = await manager_of_default(cloud)
        group = (await cloud.make("group", name="g"))["id"]
        member = f"/v3/groups/{group}/users/{me}"
        assert (await cloud.call("PUT", member, token=token)).status == 204
        assert (await cloud.call("DELETE", member, token=token)).status == 204
        other = (await cloud.make("domain", name="other"))["id"]
        role = await cloud.role("reader")
        assert (await cloud.as_admin("PUT", f"/v3/domains/{other}/groups/{group}/roles/{role}")).status == 204
        for method, path, body in (("PUT", member, None), ("DELETE", member, None), ("DELETE", f"/v3/groups/{group}", None),
                                   ("PATCH", f"/v3/groups/{group}", {"group": {"name": "x"}})):
            assert (await cloud.call(method, path, body, token=token)).status == 403
