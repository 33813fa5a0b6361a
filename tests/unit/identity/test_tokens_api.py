"""Tokens: what they say, when they end, and who may ask."""
from __future__ import annotations

import asyncio

import pytest

from identity.tokens import decode_token


def password(user, word):
    return {"methods": ["password"], "password": {"user": {"id": user, "password": word}}}


async def test_a_token_says_who_where_with_which_roles_and_what_there_is(make_cloud):
    async with make_cloud() as cloud:
        user, project, _ = await cloud.member("manager")
        answer = await cloud.try_login(password(user, "alice"), {"project": {"id": project}})
        token = answer.body["token"]
        assert token["user"]["id"] == user and token["user"]["domain"] == {"id": "default", "name": "Default"}
        assert token["project"]["id"] == project and token["methods"] == ["password"] and len(token["audit_ids"]) == 1
        assert [role["name"] for role in token["roles"]] == ["manager", "member", "reader"]
        urls = {service["type"]: service["endpoints"][0]["url"] for service in token["catalog"]}
        assert urls["object-store"] == f"http://127.0.0.1:8080/v1/AUTH_{project}"
        assert token["expires_at"].endswith("Z") and token["issued_at"] < token["expires_at"]
        assert len(answer.headers["X-Subject-Token"]) < 300


async def test_without_a_scope_there_are_no_roles_and_no_catalog(make_cloud):
    async with make_cloud() as cloud:
        user, _, _ = await cloud.member()
        token = (await cloud.try_login(password(user, "alice"))).body["token"]
        assert not {"roles", "catalog", "project", "domain", "system"} & token.keys()


async def test_the_default_project_is_the_scope_when_none_is_named(make_cloud):
    async with make_cloud() as cloud:
        user, project, _ = await cloud.member()
        await cloud.as_admin("PATCH", f"/v3/users/{user}", {"user": {"default_project_id": project}})
        assert (await cloud.try_login(password(user, "alice"))).body["token"]["project"]["id"] == project
        assert "project" not in (await cloud.try_login(password(user, "alice"), "unscoped")).body["token"]


async def test_nocatalog_leaves_it_out(make_cloud):
    async with make_cloud() as cloud:
        auth = {"auth": {"identity": password("x", "y"), "scope": {"system": {"all": True}}}}
        auth["auth"]["identity"]["password"]["user"] = {"name": "admin", "domain": {"name": "Default"},
                                                        "password": "of the administrator"}
        answer = await cloud.call("POST", "/v3/auth/tokens?nocatalog", auth)
        assert answer.status == 201 and "catalog" not in answer.body["token"] and answer.body["token"]["system"] == {"all": True}


@pytest.mark.parametrize("scope", [
    {"project": {"id": "nowhere"}}, {"project": {"name": "nowhere", "domain": {"id": "default"}}}, {"domain": {"id": "nowhere"}},
    {"domain": {"name": "nowhere"}}, {"system": {"all": True}}, {"domain": {"id": "default"}}])
async def test_a_scope_in_which_the_user_has_no_role_is_refused(make_cloud, scope):
    async with make_cloud() as cloud:
        user, _, _ = await cloud.member()
        answer = await cloud.try_login(password(user, "alice"), scope)
        assert answer.status == 401 and "X-Subject-Token" not in answer.headers


@pytest.mark.parametrize("body", [
    {}, {"auth": {}}, {"auth": {"identity": {"methods": []}}}, {"auth": {"identity": {"methods": ["password"]}}}, [], "x", 7, None,
    {"auth": {"identity": {"methods": ["password"], "password": {"user": {"id": 7, "password": "x"}}}}},
    {"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": "alice", "password": "x"}}}}},
    {"auth": {"identity": {"methods": ["password"], "password": {"user": {"id": "x"}}}}},
    {"auth": {"identity": {"methods": ["password"], "password": {"user": {"id": "x", "password": {"a": 1}}}}}}])
async def test_a_login_that_makes_no_sense_is_400(make_cloud, body):
    import json

    async with make_cloud() as cloud:
        answer = await cloud.call("POST", "/v3/auth/tokens", raw=json.dumps(body).encode())
        assert answer.status == 400 and answer.body["error"]["code"] == 400


@pytest.mark.parametrize("name", ["' OR 1=1 --", "admin'; DROP TABLE user_account; --", "%", "*", "admin\u0000",
                                  "\ud83d\ude00" * 50, "a" * 70_000])
async def test_names_that_look_like_sql_find_nobody_and_harm_nothing(make_cloud, name):
    async with make_cloud() as cloud:
        who = {"name": name, "domain": {"id": "default"}, "password": "' OR '1'='1"}
        answer = await cloud.try_login({"methods": ["password"], "password": {"user": who}})
        assert answer.status in (400, 401)
        assert (await cloud.as_admin("GET", "/v3/users")).status == 200


async def test_nobody_a_wrong_password_and_a_locked_user_look_alike(make_cloud):
    async with make_cloud(lockout_failures=2, lockout_s=60) as cloud:
        user, _, _ = await cloud.member()
        nobody = await cloud.try_login(password("nobody", "x"))
        wrong = [await cloud.try_login(password(user, "wrong")) for _ in range(2)]
        locked = await cloud.try_login(password(user, "alice"))
        assert [one.status for one in (nobody, *wrong, locked)] == [401] * 4
        assert len({str(one.body) for one in (nobody, *wrong, locked)}) == 1
        cloud.clock.advance(61_000_000)
        assert (await cloud.try_login(password(user, "alice"))).status == 201


async def test_failures_at_the_same_moment_are_all_counted(make_cloud):
    async with make_cloud(lockout_failures=5, lockout_s=60) as cloud:
        user, _, _ = await cloud.member()
        await asyncio.gather(*(cloud.try_login(password(user, "wrong")) for _ in range(8)))
        assert (await cloud.try_login(password(user, "alice"))).status == 401


async def test_validate_head_and_revoke(make_cloud):
    async with make_cloud() as cloud:
        _, _, token = await cloud.member()
        assert (await cloud.as_admin("GET", "/v3/auth/tokens", X_Subject_Token=token)).status == 200
        assert (await cloud.call("GET", "/v3/auth/tokens", token=token, X_Subject_Token=token)).status == 200
        head = await cloud.as_admin("HEAD", "/v3/auth/tokens", X_Subject_Token=token)
        assert (head.status, head.body) == (200, b"")
        assert (await cloud.as_admin("DELETE", "/v3/auth/tokens", X_Subject_Token=token)).status == 204
        for method in ("GET", "HEAD", "DELETE"):
            assert (await cloud.as_admin(method, "/v3/auth/tokens", X_Subject_Token=token)).status == 404
        assert (await cloud.call("GET", "/v3/auth/projects", token=token)).status == 401


async def test_a_stranger_may_not_look_at_a_token_nor_end_it(make_cloud):
    async with make_cloud() as cloud:
        _, _, mine = await cloud.member()
        for method in ("GET", "HEAD", "DELETE"):
            assert (await cloud.call(method, "/v3/auth/tokens", token=mine, X_Subject_Token=cloud.admin)).status == 403
        assert (await cloud.as_admin("GET", "/v3/auth/tokens", X_Subject_Token=mine)).status == 200


@pytest.mark.parametrize("token", ["", "x", "gAAAAA", "a" * 5_000, "ä", "../../etc/passwd", "gAAAAABrAC8z" + "A" * 180])
async def test_what_is_no_token_of_ours_is_401_and_as_a_subject_404(make_cloud, token):
    async with make_cloud() as cloud:
        header = token.encode().decode("latin-1")
        assert (await cloud.call("GET", "/v3/users", token=header)).status == 401
        assert (await cloud.as_admin("GET", "/v3/auth/tokens", X_Subject_Token=header)).status == 404


async def test_a_token_with_one_bit_changed_is_forged(make_cloud):
    async with make_cloud() as cloud:
        for at in range(0, len(cloud.admin), 17):
            changed = cloud.admin[:at] + ("A" if cloud.admin[at] != "A" else "B") + cloud.admin[at + 1:]
            assert (await cloud.call("GET", "/v3/auth/projects", token=changed)).status == 401


async def test_a_token_ends_with_its_time_at_once(make_cloud):
    async with make_cloud(token_life_s=600) as cloud:
        _, _, token = await cloud.member()
        cloud.clock.advance(599_000_000)
        assert (await cloud.call("GET", "/v3/auth/projects", token=token)).status == 200
        cloud.clock.advance(1_000_000)
        assert (await cloud.call("GET", "/v3/auth/projects", token=token)).status == 401


async def test_exchanging_a_token_does_not_make_it_live_longer(make_cloud):
    async with make_cloud() as cloud:
        _, project, token = await cloud.member()
        cloud.clock.advance(1_800_000_000)
        answer = await cloud.try_login({"methods": ["token"], "token": {"id": token}}, {"project": {"id": project}})
        old, new = (decode_token(one, cloud.state.keys) for one in (token, answer.headers["X-Subject-Token"]))
        assert answer.status == 201 and new.expires_us == old.expires_us and new.audit_ids[-1] == old.audit_ids[0]
        assert set(new.methods) == {"token", "password"}


@pytest.mark.parametrize("change", ["disable user", "new password", "delete user", "disable project", "take role",
                                    "disable domain"])
@pytest.mark.parametrize("clock_jump_us", [0, -3_600_000_000])
async def test_what_takes_a_right_away_ends_the_token_at_once_whatever_the_clock_does(make_cloud, change, clock_jump_us):
    async with make_cloud() as cloud:
        domain = await cloud.make("domain", name="d")
        user = await cloud.make("user", name="u", password="u", domain_id=domain["id"])
        project = await cloud.make("project", name="p", domain_id=domain["id"])
        await cloud.grant(user["id"], "member", project=project["id"])
        token = await cloud.login(user["id"], "u", {"project": {"id": project["id"]}})
        assert (await cloud.call("GET", "/v3/auth/catalog", token=token)).status == 200
        cloud.clock.advance(clock_jump_us)
        member = await cloud.role("member")
        method, path, body = {
            "disable user": ("PATCH", f"users/{user['id']}", {"user": {"enabled": False}}),
            "new password": ("PATCH", f"users/{user['id']}", {"user": {"password": "new"}}),
            "delete user": ("DELETE", f"users/{user['id']}", None),
            "disable project": ("PATCH", f"projects/{project['id']}", {"project": {"enabled": False}}),
            "disable domain": ("PATCH", f"domains/{domain['id']}", {"domain": {"enabled": False}}),
            "take role": ("DELETE", f"projects/{project['id']}/users/{user['id']}/roles/{member}", None)}[change]
        answer = await cloud.as_admin(method, f"/v3/{path}", body)
        assert answer.status in (200, 204), answer
        assert (await cloud.call("GET", "/v3/auth/catalog", token=token)).status == 401


async def test_a_user_who_is_enabled_again_needs_a_new_token(make_cloud):
    async with make_cloud() as cloud:
        user, project, token = await cloud.member()
        for is_enabled in (False, True):
            await cloud.as_admin("PATCH", f"/v3/users/{user}", {"user": {"enabled": is_enabled}})
        assert (await cloud.call("GET", "/v3/auth/projects", token=token)).status == 401
        await cloud.login(user, "alice", {"project": {"id": project}})


async def test_an_expired_token_is_shown_to_services_that_ask_for_it_for_two_days(make_cloud):
    async with make_cloud() as cloud:
        _, _, token = await cloud.member()
        cloud.clock.advance(4_000_000_000)
        service = await cloud.login({"name": "admin", "domain": {"id": "default"}}, "of the administrator",
                                    {"project": {"name": "admin", "domain": {"id": "default"}}})
        user = await cloud.as_admin("GET", "/v3/users", X_Auth_Token=service)
        assert user.status == 401                       # the old token of the administrator is over as well
        cloud.admin = service
        nova = await cloud.make("user", name="nova", password="nova")
        project = (await cloud.as_admin("GET", "/v3/projects?name=service")).body["projects"][0]
        await cloud.grant(nova["id"], "service", project=project["id"])
        asks = await cloud.login(nova["id"], "nova", {"project": {"id": project["id"]}})
        path = "/v3/auth/tokens?allow_expired=1"
        assert (await cloud.call("GET", path, token=asks, X_Subject_Token=token)).status == 200
        assert (await cloud.call("GET", "/v3/auth/tokens", token=asks, X_Subject_Token=token)).status == 404
        assert (await cloud.as_admin("GET", path, X_Subject_Token=token)).status == 404
        cloud.clock.advance(172_800_000_000)
        asks = await cloud.login(nova["id"], "nova", {"project": {"id": project["id"]}})
        assert (await cloud.call("GET", path, token=asks, X_Subject_Token=token)).status == 404


async def test_several_factors_are_asked_for_where_a_rule_says_so(make_cloud):
    from identity.totp import passcode_at

    async with make_cloud() as cloud:
        user, project, _ = await cloud.member()
        secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
        await cloud.make("credential", user_id=user, type="totp", blob=secret)
        options = {"multi_factor_auth_rules": [["password", "totp"]]}
        await cloud.as_admin("PATCH", f"/v3/users/{user}", {"user": {"options": options}})
        assert (await cloud.try_login(password(user, "alice"))).status == 401
        code = passcode_at(secret, cloud.clock.now_us() // 30_000_000)
        both = {**password(user, "alice"), "methods": ["password", "totp"], "totp": {"user": {"id": user, "passcode": code}}}
        answer = await cloud.try_login(both, {"project": {"id": project}})
        assert answer.status == 201 and set(answer.body["token"]["methods"]) == {"password", "totp"}
        assert (await cloud.try_login(both)).status == 401, "a code works once"


async def test_another_process_on_the_database_learns_of_a_revocation_when_it_looks(make_cloud):
    async with make_cloud() as one, make_cloud() as other:
        _, _, token = await one.member()
        assert (await other.call("GET", "/v3/auth/projects", token=token)).status == 200
        await one.as_admin("DELETE", "/v3/auth/tokens", X_Subject_Token=token)
        await other.state.database.read(other.state.refresh_here)           # what `follow` does twice a second
        assert (await other.call("GET", "/v3/auth/projects", token=token)).status == 401


async def test_a_flood_of_logins_is_refused_with_503_and_a_time_to_come_back(make_cloud):
    async with make_cloud() as cloud:
        cloud.state.passwords.turns.total_max = 0
        answer = await cloud.try_login(password("x", "y"))
        assert answer.status == 503 and answer.headers["Retry-After"] == "1"


async def test_on_a_public_listener_without_tls_no_secret_is_taken(make_cloud):
    async with make_cloud() as cloud:
        cloud.state.refuses_plain_logins = True
        assert (await cloud.try_login(password("x", "y"))).status == 403
        answer = await cloud.call("POST", "/v3/users/x/password", {"user": {"password": "a", "original_password": "b"}})
        assert answer.status == 403
