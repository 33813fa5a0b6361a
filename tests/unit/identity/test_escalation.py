"""Nobody becomes more than they are: members, managers of a domain, confined administrators, and chains of delegation."""
from __future__ import annotations

import pytest

SYSTEM = {"system": {"all": True}}


async def app_credential(cloud, user, token, **fields):
    answer = await cloud.call("POST", f"/v3/users/{user}/application_credentials",
                              {"application_credential": {"name": f"ac {fields}", **fields}}, token=token)
    assert answer.status == 201, answer
    made = answer.body["application_credential"]
    login = await cloud.try_login({"methods": ["application_credential"],
                                   "application_credential": {"id": made["id"], "secret": made["secret"]}})
    assert login.status == 201, login
    return made, login.headers["X-Subject-Token"]


async def trust(cloud, trustor, trustee, project, token, *, roles=("member",), **fields):
    body = {"trustor_user_id": trustor, "trustee_user_id": trustee, "project_id": project, "impersonation": False,
            "roles": [{"name": name} for name in roles], **fields}
    return await cloud.call("POST", "/v3/OS-TRUST/trusts", {"trust": body}, token=token)


async def use_trust(cloud, trust_id, token):
    answer = await cloud.try_login({"methods": ["token"], "token": {"id": token}}, {"OS-TRUST:trust": {"id": trust_id}})
    return answer.headers.get("X-Subject-Token"), answer


OPERATIONS = [
    ("POST", "users", {"user": {"name": "x"}}), ("GET", "users", None), ("POST", "projects", {"project": {"name": "x"}}),
    ("POST", "domains", {"domain": {"name": "x"}}), ("GET", "domains", None), ("POST", "roles", {"role": {"name": "x"}}),
    ("POST", "groups", {"group": {"name": "x"}}), ("POST", "services", {"service": {"type": "x"}}),
    ("POST", "endpoints", {"endpoint": {"service_id": "x", "interface": "public", "url": "http://x"}}),
    ("POST", "regions", {"region": {"id": "x"}}), ("POST", "policies", {"policy": {"type": "x", "blob": "x"}}),
    ("GET", "role_assignments", None), ("GET", "role_inferences", None), ("GET", "OS-REVOKE/events", None),
    ("POST", "OS-OAUTH1/consumers", {"consumer": {}}), ("GET", "OS-TRUST/trusts", None),
    ("POST", "registered_limits", {"registered_limits": [{"service_id": "x", "resource_name": "x", "default_limit": 1}]}),
    ("PUT", "domains/default/config", {"config": {"identity": {"driver": "x"}}}),
    ("POST", "ec2tokens", {"credentials": {"access": "x", "signature": "x"}}),
    ("POST", "s3tokens", {"credentials": {"access": "x", "signature": "x", "token": "eA=="}}),
    ("PATCH", "users/{admin}", {"user": {"password": "mine"}}), ("DELETE", "users/{admin}", None), ("GET", "users/{admin}", None),
    ("GET", "users/{admin}/projects", None), ("GET", "users/{admin}/groups", None),
    ("POST", "users/{admin}/credentials/OS-EC2", {"tenant_id": "{project}"}), ("GET", "users/{admin}/credentials/OS-EC2", None),
    ("GET", "users/{admin}/application_credentials", None), ("GET", "users/{admin}/access_rules", None),
    ("POST", "users/{admin}/application_credentials", {"application_credential": {"name": "x"}}),
    ("POST", "credentials", {"credential": {"type": "totp", "blob": "x", "user_id": "{admin}"}}),
    ("PATCH", "projects/{project}", {"project": {"name": "x"}}), ("DELETE", "projects/{project}", None),
    ("PUT", "projects/{project}/users/{me}/roles/{role}", None),
    ("PUT", "domains/default/users/{me}/roles/{role}", None),
    ("PUT", "system/users/{me}/roles/{role}", None),
    ("PUT", "OS-INHERIT/domains/default/users/{me}/roles/{role}/inherited_to_projects", None),
    ("PUT", "roles/{member}/implies/{role}", None), ("PATCH", "roles/{member}", {"role": {"name": "admin"}}),
]


def fill(thing, names):
    if isinstance(thing, str):
        return thing.format(**names)
    if isinstance(thing, dict):
        return {key: fill(value, names) for key, value in thing.items()}
    return [fill(item, names) for item in thing] if isinstance(thing, list) else thing


async def everything_is_refused(cloud, me, token, project):
    admin = (await cloud.as_admin("GET", "/v3/users?name=admin")).body["users"][0]["id"]
    names = {"admin": admin, "project": project, "me": me, "role": await cloud.role("admin"), "member": await cloud.role("member")}
    allowed = []
    for method, path, body in OPERATIONS:
        answer = await cloud.call(method, "/v3/" + fill(path, names), fill(body, names), token=token)
        if answer.status != 403:
            allowed.append((method, path, answer.status))
    return allowed


@pytest.mark.parametrize("role", ["reader", "member", "manager", "service"])
async def test_a_role_in_a_project_gives_no_say_over_identity(make_cloud, role):
    async with make_cloud() as cloud:
        me, project, token = await cloud.member(role)
        expected = [("POST", "ec2tokens", 401), ("POST", "s3tokens", 401)] if role == "service" else []
        assert await everything_is_refused(cloud, me, token, project) == expected


async def test_the_administrator_of_an_account_administers_nothing_else(make_cloud):
    async with make_cloud() as cloud:
        token = await cloud.login({"name": "demo", "domain": {"id": "default"}}, "demo key",
                                  {"project": {"id": "demo"}})
        me = (await cloud.as_admin("GET", "/v3/users?name=demo")).body["users"][0]["id"]
        shown = (await cloud.as_admin("GET", "/v3/auth/tokens", X_Subject_Token=token)).body["token"]
        assert "admin" in [role["name"] for role in shown["roles"]]
        assert await everything_is_refused(cloud, me, token, "demo") == []


async def test_an_account_cannot_free_itself_by_an_option_or_an_attribute(make_cloud):
    async with make_cloud() as cloud:
        for given in ({"options": {"confined": False}}, {"options": {"immutable": False}}, {"confined": False}):
            await cloud.as_admin("PATCH", "/v3/projects/demo", {"project": given})
        token = await cloud.login({"name": "demo", "domain": {"id": "default"}}, "demo key", {"project": {"id": "demo"}})
        assert (await cloud.call("GET", "/v3/users", token=token)).status == 403


async def test_an_unscoped_token_can_do_nothing_but_ask_for_a_scope(make_cloud):
    async with make_cloud() as cloud:
        admin = (await cloud.as_admin("GET", "/v3/users?name=admin")).body["users"][0]["id"]
        token = (await cloud.try_login({"methods": ["password"], "password": {"user": {
            "id": admin, "password": "of the administrator"}}}, "unscoped")).headers["X-Subject-Token"]
        assert (await cloud.call("GET", "/v3/users", token=token)).status == 403
        assert (await cloud.call("GET", "/v3/auth/catalog", token=token)).status == 403
        assert (await cloud.call("GET", "/v3/auth/projects", token=token)).status == 200


async def domain_manager(cloud):
    domain = await cloud.make("domain", name="d")
    user = await cloud.make("user", name="m", password="m", domain_id=domain["id"])
    await cloud.grant(user["id"], "manager", domain=domain["id"])
    return domain["id"], user["id"], await cloud.login(user["id"], "m", {"domain": {"id": domain["id"]}})


async def test_a_manager_of_a_domain_manages_it_and_no_other(make_cloud):
    async with make_cloud() as cloud:
        domain, me, token = await domain_manager(cloud)
        user = await cloud.make("user", token=token, name="u", domain_id=domain)
        project = await cloud.make("project", token=token, name="p", domain_id=domain)
        path = f"/v3/projects/{project['id']}/users/{user['id']}/roles/"
        assert (await cloud.call("PUT", path + await cloud.role("member"), token=token)).status == 204
        assert (await cloud.call("GET", "/v3/users", token=token)).body["users"][0]["domain_id"] == domain
        for role in ("admin", "service"):
            assert (await cloud.call("PUT", path + await cloud.role(role), token=token)).status == 403
        for kind in ("user", "project", "group"):
            answer = await cloud.call("POST", f"/v3/{kind}s", {kind: {"name": "x", "domain_id": "default"}}, token=token)
            assert answer.status == 403, kind
        foreign = (await cloud.as_admin("GET", "/v3/users?name=demo")).body["users"][0]["id"]
        assert (await cloud.call("GET", f"/v3/users/{foreign}", token=token)).status == 403
        path = f"/v3/projects/{project['id']}/users/{foreign}/roles/{await cloud.role('member')}"
        assert (await cloud.call("PUT", path, token=token)).status == 403
        assert (await cloud.call("PUT", f"/v3/system/users/{me}/roles/{await cloud.role('reader')}", token=token)).status == 403


async def test_a_manager_of_a_domain_has_no_power_over_an_administrator_in_it(make_cloud):
    async with make_cloud() as cloud:
        domain, me, token = await domain_manager(cloud)
        boss = await cloud.make("user", name="boss", password="boss", domain_id=domain)
        group = await cloud.make("group", name="bosses", domain_id=domain)
        admin = await cloud.role("admin")
        assert (await cloud.as_admin("PUT", f"/v3/system/users/{boss['id']}/roles/{admin}")).status == 204
        assert (await cloud.as_admin("PUT", f"/v3/system/groups/{group['id']}/roles/{admin}")).status == 204
        assert (await cloud.call("PATCH", f"/v3/users/{boss['id']}", {"user": {"password": "x"}}, token=token)).status == 403
        assert (await cloud.call("DELETE", f"/v3/users/{boss['id']}", token=token)).status == 403
        assert (await cloud.call("PUT", f"/v3/groups/{group['id']}/users/{me}", token=token)).status == 403


@pytest.mark.parametrize(("role", "place"), [
    ("service", "projects/admin"), ("operator", "projects/admin"), ("implying", "projects/admin"), ("service", "domains/default"),
    ("reader", "system"), ("member", "system"), ("local", "projects/own")])
async def test_a_manager_of_a_domain_has_no_power_over_who_has_a_role_that_it_may_not_give(make_cloud, role, place):
    async with make_cloud() as cloud:
        domain, me, token = await domain_manager(cloud)
        if role == "local":
            role_id = (await cloud.make("role", name="member", domain_id=domain))["id"]
        else:
            if role in ("operator", "implying"):
                await cloud.make("role", name=role)
            role_id = await cloud.role(role)
        if role == "implying":
            await cloud.as_admin("PUT", f"/v3/roles/{role_id}/implies/{await cloud.role('service')}")
        if place.startswith("projects"):
            found = await cloud.as_admin("GET", "/v3/projects?name=admin")
            own = await cloud.make("project", name="own", domain_id=domain)
            place = f"projects/{own['id'] if place.endswith('own') else found.body['projects'][0]['id']}"
        group = await cloud.make("group", name="g", domain_id=domain)
        direct = await cloud.make("user", name="direct", password="x", domain_id=domain)
        by_group = await cloud.make("user", name="by group", password="x", domain_id=domain)
        for actor in (f"users/{direct['id']}", f"groups/{group['id']}"):
            assert (await cloud.as_admin("PUT", f"/v3/{place}/{actor}/roles/{role_id}")).status == 204
        assert (await cloud.as_admin("PUT", f"/v3/groups/{group['id']}/users/{by_group['id']}")).status == 204
        for user in (direct, by_group):
            assert (await cloud.call("PATCH", f"/v3/users/{user['id']}", {"user": {"password": "mine"}}, token=token)).status == 403
            assert (await cloud.call("DELETE", f"/v3/users/{user['id']}", token=token)).status == 403
        assert (await cloud.call("PUT", f"/v3/groups/{group['id']}/users/{me}", token=token)).status == 403
        assert (await cloud.call("PATCH", f"/v3/groups/{group['id']}", {"group": {"name": "x"}}, token=token)).status == 403
        assert (await cloud.call("DELETE", f"/v3/groups/{group['id']}", token=token)).status == 403


@pytest.mark.parametrize("role", ["manager", "member", "reader"])
async def test_a_manager_of_a_domain_manages_those_with_the_roles_that_it_gives(make_cloud, role):
    async with make_cloud() as cloud:
        domain, me, token = await domain_manager(cloud)
        user = await cloud.make("user", name="u", password="u", domain_id=domain)
        group = await cloud.make("group", name="g", domain_id=domain)
        for actor in (f"users/{user['id']}", f"groups/{group['id']}"):
            path = f"/v3/domains/{domain}/{actor}/roles/{await cloud.role(role)}"
            assert (await cloud.call("PUT", path, token=token)).status == 204
        assert (await cloud.call("PATCH", f"/v3/users/{user['id']}", {"user": {"password": "v"}}, token=token)).status == 200
        assert (await cloud.call("PUT", f"/v3/groups/{group['id']}/users/{me}", token=token)).status == 204


async def test_a_restricted_application_credential_makes_nothing_that_outlives_it(make_cloud):
    async with make_cloud() as cloud:
        me, project, token = await cloud.member()
        other = await cloud.make("user", name="other")
        made, weak = await app_credential(cloud, me, token)
        base = f"/v3/users/{me}/application_credentials"
        assert (await cloud.call("POST", base, {"application_credential": {"name": "x"}}, token=weak)).status == 403
        assert (await cloud.call("DELETE", f"{base}/{made['id']}", token=weak)).status == 403
        assert (await trust(cloud, me, other["id"], project, weak)).status == 403
        totp = {"credential": {"type": "totp", "blob": "x", "user_id": me}}
        assert (await cloud.call("POST", "/v3/credentials", totp, token=weak)).status == 403
        exchanged = await cloud.try_login({"methods": ["token"], "token": {"id": weak}}, {"project": {"id": project}})
        assert exchanged.status == 403
        assert (await cloud.call("POST", f"/v3/users/{me}/credentials/OS-EC2", {"tenant_id": "demo"}, token=weak)).status == 403


async def test_keys_made_by_an_application_credential_stay_under_it(make_cloud):
    async with make_cloud() as cloud:
        me, project, token = await cloud.member()
        strong = (await cloud.call("POST", f"/v3/users/{me}/credentials/OS-EC2", {"tenant_id": project}, token=token)).body
        made, weak = await app_credential(cloud, me, token, roles=[{"name": "reader"}])
        key = (await cloud.call("POST", f"/v3/users/{me}/credentials/OS-EC2", {"tenant_id": project},
                                token=weak)).body["credential"]
        assert key["app_cred_id"] == made["id"]
        listed = (await cloud.call("GET", f"/v3/users/{me}/credentials/OS-EC2", token=weak)).body["credentials"]
        assert [one["access"] for one in listed] == [key["access"]]
        path = f"/v3/users/{me}/credentials/OS-EC2/{strong['credential']['access']}"
        assert (await cloud.call("GET", path, token=weak)).status == 404
        assert [one["id"] for one in (await cloud.call("GET", "/v3/credentials", token=weak)).body["credentials"]] != []
        from identity.base import find_row
        from identity.ec2_tokens import _meaning
        from identity.model import credential

        row = await cloud.state.database.read(find_row, credential, (await cloud.call(
            "GET", "/v3/credentials", token=weak)).body["credentials"][0]["id"])
        found = await cloud.state.database.read(_meaning, cloud.state, row, 1)
        assert set(found.roles.values()) == {"reader"}


async def test_an_unrestricted_application_credential_gives_away_no_more_than_it_has(make_cloud):
    async with make_cloud() as cloud:
        me, _, token = await cloud.member()
        _, strong = await app_credential(cloud, me, token, unrestricted=True, roles=[{"name": "reader"}])
        base = f"/v3/users/{me}/application_credentials"
        asked = {"application_credential": {"name": "x", "roles": [{"name": "member"}]}}
        assert (await cloud.call("POST", base, asked, token=strong)).status == 400
        asked = {"application_credential": {"name": "y", "roles": [{"id": await cloud.role("member")}]}}
        assert (await cloud.call("POST", base, asked, token=strong)).status == 400
        made, _ = await app_credential(cloud, me, strong)
        assert [role["name"] for role in made["roles"]] == ["reader"]


async def test_a_role_that_was_taken_is_gone_from_application_credentials(make_cloud):
    async with make_cloud() as cloud:
        me, project, token = await cloud.member()
        _, weak = await app_credential(cloud, me, token)
        path = f"/v3/projects/{project}/users/{me}/roles/{await cloud.role('member')}"
        assert (await cloud.as_admin("DELETE", path)).status == 204
        assert (await cloud.call("GET", "/v3/auth/catalog", token=weak)).status == 401


async def test_an_application_credential_ends_with_its_deletion_and_its_time(make_cloud):
    async with make_cloud() as cloud:
        me, _, token = await cloud.member()
        made, weak = await app_credential(cloud, me, token)
        path = f"/v3/users/{me}/application_credentials/{made['id']}"
        assert (await cloud.call("DELETE", path, token=token)).status == 204
        assert (await cloud.call("GET", "/v3/auth/catalog", token=weak)).status == 401
        from control.times import format_time

        _, short = await app_credential(cloud, me, token, expires_at=format_time(cloud.clock.now_us() + 10_000_000))
        cloud.clock.advance(10_000_000)
        assert (await cloud.call("GET", "/v3/auth/catalog", token=short)).status == 401


async def test_access_rules_hold_for_every_request(make_cloud):
    async with make_cloud() as cloud:
        me, _, token = await cloud.member()
        rules = [{"service": "identity", "method": "GET", "path": "/v3/users/*"},
                 {"service": "compute", "method": "GET", "path": "/**"}]
        _, weak = await app_credential(cloud, me, token, access_rules=rules)
        assert (await cloud.call("GET", f"/v3/users/{me}", token=weak)).status == 200
        for method, path in (("GET", "/v3/auth/projects"), ("DELETE", f"/v3/users/{me}"), ("GET", f"/v3/users/{me}/projects")):
            assert (await cloud.call(method, path, token=weak)).status == 401


@pytest.mark.parametrize("path", ["/a/**/b/**", "/" + "*/" * 9, "/**" * 5, "/a*b*c", "/***"])
async def test_a_rule_whose_matching_could_take_for_ever_is_refused(make_cloud, path):
    async with make_cloud() as cloud:
        me, _, token = await cloud.member()
        body = {"application_credential": {"name": "x", "access_rules": [{"service": "identity", "method": "GET", "path": path}]}}
        assert (await cloud.call("POST", f"/v3/users/{me}/application_credentials", body, token=token)).status == 400


async def test_a_trust_gives_what_it_says_and_its_token_makes_nothing_new(make_cloud):
    async with make_cloud() as cloud:
        me, project, token = await cloud.member("manager")
        other = await cloud.make("user", name="other", password="other")
        theirs = await cloud.login(other["id"], "other")
        made = (await trust(cloud, me, other["id"], project, token, impersonation=True)).body["trust"]
        trusted, _ = await use_trust(cloud, made["id"], theirs)
        shown = (await cloud.as_admin("GET", "/v3/auth/tokens", X_Subject_Token=trusted)).body["token"]
        assert shown["user"]["id"] == me and {role["name"] for role in shown["roles"]} == {"member", "reader"}
        assert (await cloud.call("POST", f"/v3/users/{me}/application_credentials", {"application_credential": {"name": "x"}},
                                 token=trusted)).status == 403
        assert (await cloud.call("POST", f"/v3/users/{me}/credentials/OS-EC2", {"tenant_id": project}, token=trusted)).status == 403
        assert (await cloud.call("GET", "/v3/credentials", token=trusted)).status == 403
        assert (await trust(cloud, me, other["id"], project, trusted, impersonation=True)).status == 403
        assert (await cloud.try_login({"methods": ["token"], "token": {"id": trusted}}, {"project": {"id": project}})).status == 403
        again, answer = await use_trust(cloud, made["id"], trusted)
        assert again is None and answer.status == 403
        assert (await cloud.call("DELETE", f"/v3/OS-TRUST/trusts/{made['id']}", token=token)).status == 204
        assert (await cloud.call("GET", "/v3/auth/catalog", token=trusted)).status == 401


async def test_nobody_gives_away_what_others_have_or_what_they_do_not_have(make_cloud):
    async with make_cloud() as cloud:
        me, project, token = await cloud.member()
        other = await cloud.make("user", name="other")
        admin = (await cloud.as_admin("GET", "/v3/users?name=admin")).body["users"][0]["id"]
        assert (await trust(cloud, admin, me, project, token)).status == 403
        for roles in (("admin",), ("manager",), ("member", "admin")):
            assert (await trust(cloud, me, other["id"], project, token, roles=roles)).status == 403
        assert (await trust(cloud, me, other["id"], "demo", token, roles=("admin",))).status == 403
        by_id = [{"id": await cloud.role("admin")}]
        assert (await cloud.call("POST", "/v3/OS-TRUST/trusts", {"trust": {
            "trustor_user_id": me, "trustee_user_id": other["id"], "project_id": project, "impersonation": False,
            "roles": by_id}}, token=token)).status == 403
        assert (await trust(cloud, me, other["id"], project, token, roles=())).status == 403


async def test_a_trust_is_for_its_trustee_alone_and_ends_when_the_trustor_loses_the_role(make_cloud):
    async with make_cloud() as cloud:
        me, project, token = await cloud.member()
        other, third = await cloud.make("user", name="other", password="o"), await cloud.make("user", name="third", password="t")
        made = (await trust(cloud, me, other["id"], project, token)).body["trust"]
        assert (await use_trust(cloud, made["id"], await cloud.login(third["id"], "t")))[1].status == 403
        assert (await cloud.call("GET", f"/v3/OS-TRUST/trusts/{made['id']}",
                                 token=await cloud.login(third["id"], "t"))).status == 403
        theirs = await cloud.login(other["id"], "o")
        trusted, _ = await use_trust(cloud, made["id"], theirs)
        await cloud.as_admin("DELETE", f"/v3/projects/{project}/users/{me}/roles/{await cloud.role('member')}")
        assert (await cloud.call("GET", "/v3/auth/catalog", token=trusted)).status == 401
        assert (await use_trust(cloud, made["id"], theirs))[1].status == 403


async def test_uses_of_a_trust_are_counted_when_many_log_in_at_once(make_cloud):
    import asyncio

    async with make_cloud() as cloud:
        me, project, token = await cloud.member()
        other = await cloud.make("user", name="other", password="o")
        made = (await trust(cloud, me, other["id"], project, token, remaining_uses=3)).body["trust"]
        theirs = await cloud.login(other["id"], "o")
        answers = await asyncio.gather(*(use_trust(cloud, made["id"], theirs) for _ in range(8)))
        assert sorted(answer.status for _, answer in answers) == [201] * 3 + [403] * 5


async def test_a_trust_is_passed_on_as_often_as_it_says_and_never_grows(make_cloud):
    async with make_cloud() as cloud:
        me, project, token = await cloud.member("manager")
        people = [await cloud.make("user", name=f"p{n}", password="p") for n in range(3)]
        tokens = [await cloud.login(one["id"], "p") for one in people]
        first = (await trust(cloud, me, people[0]["id"], project, token, impersonation=True, allow_redelegation=True,
                             redelegation_count=1)).body["trust"]
        trusted, _ = await use_trust(cloud, first["id"], tokens[0])
        more = await trust(cloud, me, people[1]["id"], project, trusted, impersonation=True, roles=("manager",))
        assert more.status == 403, "a role that the trust did not give"
        second = (await trust(cloud, me, people[1]["id"], project, trusted, impersonation=True)).body["trust"]
        assert second["redelegated_trust_id"] == first["id"] and second["redelegation_count"] == 0
        passed, _ = await use_trust(cloud, second["id"], tokens[1])
        assert (await trust(cloud, me, people[2]["id"], project, passed, impersonation=True)).status == 403
        assert (await cloud.call("DELETE", f"/v3/OS-TRUST/trusts/{first['id']}", token=token)).status == 204
        assert (await cloud.call("GET", "/v3/auth/catalog", token=passed)).status == 401
        assert (await use_trust(cloud, second["id"], tokens[1]))[1].status == 403


async def test_ec2_keys_of_others_stay_theirs(make_cloud):
    async with make_cloud() as cloud:
        alice, project, token = await cloud.member()
        _, _, eve = await cloud.member(name="eve")
        key = (await cloud.call("POST", f"/v3/users/{alice}/credentials/OS-EC2", {"tenant_id": project},
                                token=token)).body["credential"]
        base = f"/v3/users/{alice}/credentials/OS-EC2"
        for method, path in (("GET", base), ("GET", f"{base}/{key['access']}"), ("DELETE", f"{base}/{key['access']}")):
            assert (await cloud.call(method, path, token=eve)).status == 403
        row = (await cloud.call("GET", "/v3/credentials", token=token)).body["credentials"][0]
        for method, body in (("GET", None), ("PATCH", {"credential": {"blob": "{}"}}), ("DELETE", None)):
            assert (await cloud.call(method, f"/v3/credentials/{row['id']}", body, token=eve)).status == 403
        assert (await cloud.call("GET", "/v3/credentials", token=eve)).body["credentials"] == []
        assert (await cloud.call("GET", f"/v3/credentials?user_id={alice}", token=eve)).body["credentials"] == []


async def test_a_credential_does_not_change_hands_or_projects(make_cloud):
    async with make_cloud() as cloud:
        alice, project, token = await cloud.member()
        eve, _, _ = await cloud.member(name="eve")
        await cloud.call("POST", f"/v3/users/{alice}/credentials/OS-EC2", {"tenant_id": project}, token=token)
        row = (await cloud.call("GET", "/v3/credentials", token=token)).body["credentials"][0]
        for given in ({"user_id": eve}, {"project_id": "demo"}, {"type": "totp"}):
            assert (await cloud.call("PATCH", f"/v3/credentials/{row['id']}", {"credential": given}, token=token)).status == 400


async def test_keys_need_a_role_in_the_project(make_cloud):
    async with make_cloud() as cloud:
        alice, _, token = await cloud.member()
        answer = await cloud.call("POST", f"/v3/users/{alice}/credentials/OS-EC2", {"tenant_id": "demo"}, token=token)
        assert answer.status == 403


async def test_admin_is_implied_by_nothing(make_cloud):
    async with make_cloud() as cloud:
        made = await cloud.make("role", name="helper")
        assert (await cloud.as_admin("PUT", f"/v3/roles/{made['id']}/implies/{await cloud.role('admin')}")).status == 403
        assert (await cloud.as_admin("PUT",
                                     f"/v3/roles/{await cloud.role('reader')}/implies/{await cloud.role('member')}")).status == 400
        assert (await cloud.as_admin("DELETE", f"/v3/roles/{await cloud.role('admin')}")).status == 403


async def _owned(cloud):
    """A user with one of everything that users own. (id, project, token, paths of what is owned)"""
    me, project, token = await cloud.member()
    other = await cloud.make("user", name="other", password="other")
    rules = [{"service": "compute", "method": "GET", "path": "/**"}]
    made, _ = await app_credential(cloud, me, token, access_rules=rules)
    given = (await trust(cloud, me, other["id"], project, token, impersonation=True)).body["trust"]
    rule = (await cloud.call("GET", f"/v3/users/{me}/access_rules", token=token)).body["access_rules"][0]["id"]
    key = (await cloud.call("POST", f"/v3/users/{me}/credentials/OS-EC2", {"tenant_id": project}, token=token)).body["credential"]
    paths = {"trust": f"/v3/OS-TRUST/trusts/{given['id']}", "rule": f"/v3/users/{me}/access_rules/{rule}",
             "app": f"/v3/users/{me}/application_credentials/{made['id']}",
             "key": f"/v3/users/{me}/credentials/OS-EC2/{key['access']}"}
    theirs = await cloud.login(other["id"], "other")
    trusted, _ = await use_trust(cloud, given["id"], theirs)
    return me, token, trusted, paths


@pytest.mark.parametrize("kind", ["trust", "restricted", "unrestricted"])
async def test_a_token_that_was_handed_out_neither_sees_nor_changes_what_its_user_owns(make_cloud, kind):
    async with make_cloud() as cloud:
        me, token, handed, paths = await _owned(cloud)
        if kind != "trust":
            _, handed = await app_credential(cloud, me, token, unrestricted=kind == "unrestricted")
        trusts = f"/v3/OS-TRUST/trusts?trustor_user_id={me}"
        refused = [("GET", trusts), ("GET", paths["trust"]), ("GET", paths["trust"] + "/roles"), ("DELETE", paths["trust"]),
                   ("GET", f"/v3/users/{me}/OS-OAUTH1/access_tokens")]
        managed = [("GET", paths["app"]), ("GET", paths["app"].rpartition("/")[0]), ("GET", paths["rule"]),
                   ("GET", paths["rule"].rpartition("/")[0]), ("DELETE", paths["app"]), ("DELETE", paths["rule"])]
        for method, path in refused:
            assert (await cloud.call(method, path, token=handed)).status == 403, (method, path)
        for method, path in managed:
            wanted = 403 if kind != "unrestricted" else 200 if method == "GET" else 204
            assert (await cloud.call(method, path, token=handed)).status == wanted, (method, path)
        for method in ("GET", "DELETE"):
            assert (await cloud.call(method, paths["key"], token=handed)).status == (403 if kind == "trust" else 404)
        assert (await cloud.call("GET", paths["trust"], token=token)).status == 200
        assert (await cloud.call("GET", paths["key"], token=token)).status == 200


@pytest.mark.parametrize("kind", ["trust", "restricted", "unrestricted"])
async def test_a_token_that_was_handed_out_ends_itself_and_no_other(make_cloud, kind):
    async with make_cloud() as cloud:
        me, token, handed, _ = await _owned(cloud)
        if kind != "trust":
            _, handed = await app_credential(cloud, me, token, unrestricted=kind == "unrestricted")
        assert (await cloud.call("DELETE", "/v3/auth/tokens", token=handed, X_Subject_Token=token)).status == 403
        assert (await cloud.call("GET", "/v3/auth/projects", token=token)).status == 200
        assert (await cloud.call("DELETE", "/v3/auth/tokens", token=handed, X_Subject_Token=handed)).status == 204
        assert (await cloud.call("GET", "/v3/auth/projects", token=handed)).status == 401


async def test_a_user_makes_s3_keys_only_for_projects_in_which_it_has_a_role(make_cloud):
    async with make_cloud() as cloud:
        alice, project, token = await cloud.member()
        bob = (await cloud.make("user", name="bob of none", password="b"))["id"]

        async def make(project_id):
            given = {"type": "ec2", "blob": {"access": f"of {project_id}", "secret": "s"}, "project_id": project_id}
            return await cloud.call("POST", "/v3/credentials", {"credential": given}, token=token)

        foreign = (await cloud.as_admin("GET", "/v3/projects?name=admin")).body["projects"][0]["id"]
        for project_id in (foreign, "demo", "not there", "default"):
            assert (await make(project_id)).status == 403
        assert (await make(project)).status == 201
        given = {"type": "ec2", "blob": {"access": "b", "secret": "s"}, "project_id": project, "user_id": bob}
        assert (await cloud.as_admin("POST", "/v3/credentials", {"credential": given})).status == 201, "an administrator knows"
        stored = (await cloud.as_admin("GET", f"/v3/credentials?user_id={alice}")).body["credentials"]
        assert [one["project_id"] for one in stored] == [project]
