"""Users, projects, domains, groups, roles, grants, catalog: what the API promises beyond what clients happen to try."""
from __future__ import annotations

import pytest
from yarl import URL


@pytest.mark.parametrize(("kind", "fields"), [
    ("user", {"name": "u"}), ("project", {"name": "p"}), ("group", {"name": "g"}), ("domain", {"name": "d"}), ("role",
                                                                                                               {"name": "r"}),
    ("region", {"id": "r"})])
async def test_a_name_is_there_once(make_cloud, kind, fields):
    async with make_cloud() as cloud:
        await cloud.make(kind, **fields)
        answer = await cloud.as_admin("POST", f"/v3/{kind}s", {kind: fields})
        assert answer.status == 409 and answer.body["error"]["title"] == "Conflict"


@pytest.mark.parametrize("kind", ["user", "project", "group"])
async def test_the_same_name_may_be_in_two_domains(make_cloud, kind):
    async with make_cloud() as cloud:
        domain = await cloud.make("domain", name="d")
        await cloud.make(kind, name="same")
        assert (await cloud.make(kind, name="same", domain_id=domain["id"]))["domain_id"] == domain["id"]


@pytest.mark.parametrize("path", ["users", "projects", "domains", "groups", "roles", "services", "endpoints", "regions",
                                  "credentials",
                                  "policies", "limits", "registered_limits", "OS-TRUST/trusts", "OS-OAUTH1/consumers"])
async def test_what_is_not_there_is_404(make_cloud, path):
    async with make_cloud() as cloud:
        for method in ("GET", "DELETE"):
            answer = await cloud.as_admin(method, f"/v3/{path}/nothing")
            assert answer.status == 404 and answer.body["error"]["code"] == 404, answer


@pytest.mark.parametrize(("kind", "fields"), [
    ("user", {"name": ""}), ("user", {"name": "x" * 256}), ("user", {"name": 7}), ("user", {}), ("user", {"name": " "}),
    ("user", {"name": "x", "enabled": "yes"}), ("user", {"name": "x", "password": 7}), ("user", {"name": "x", "options": {"a": 1}}),
    ("project", {"name": "x" * 65}), ("project", {"name": "x", "tags": ["a,b"]}), ("project", {"name": "x", "tags": ["a", "a"]}),
    ("project", {"name": "x", "is_domain": True, "parent_id": "default"}), ("domain", {"name": "x" * 65}), ("role", {"name": ""}),
    ("group", {"name": "x" * 65}), ("service", {}), ("service", {"type": ""}), ("region", {"id": "r", "parent_region_id": 7}),
    ("endpoint", {"service_id": "nothing", "interface": "public", "url": "http://x"}), ("policy", {"type": "x"}),
    ("endpoint", {"service_id": "x", "interface": "everybody", "url": "http://x"}), ("credential", {"type": "ec2", "blob": "x"})])
async def test_what_cannot_be_is_400_and_the_answer_names_the_field_not_the_value(make_cloud, kind, fields):
    async with make_cloud() as cloud:
        many = {"policy": "policies"}.get(kind, kind + "s")
        answer = await cloud.as_admin("POST", f"/v3/{many}", {kind: fields})
        assert answer.status == 400 and len(answer.body["error"]["message"]) < 300


async def test_pages_are_complete_in_order_and_without_doubles(make_cloud):
    async with make_cloud() as cloud:
        for number in range(25):
            await cloud.make("user", name=f"u{number:02}")
        whole = [row["id"] for row in (await cloud.as_admin("GET", "/v3/users")).body["users"]]
        pages, url = [], "/v3/users?limit=7"
        while url is not None:
            body = (await cloud.as_admin("GET", url)).body
            assert len(body["users"]) <= 7
            pages += [row["id"] for row in body["users"]]
            url = body["links"]["next"] and body["links"]["next"].partition("127.0.0.1")[2].partition("/")[2].join(["/", ""])
        assert pages == whole
        by_name = (await cloud.as_admin("GET", "/v3/users?sort_key=name&sort_dir=desc&limit=3&name__startswith=u")).body["users"]
        assert [row["name"] for row in by_name] == ["u24", "u23", "u22"]


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "limit=1e3", "limit=99999999999999", "sort_key=password_hash",
                                   "enabled=perhaps",
                                   "sort_dir=up", "name__regex=x", "limit=1&marker=nope", "marker=nope",
                                   "sort_key=name&marker=nope"])
async def test_a_question_that_makes_no_sense_is_400(make_cloud, query):
    async with make_cloud() as cloud:
        assert (await cloud.as_admin("GET", f"/v3/users?{query}")).status == 400


async def test_a_page_of_none_is_empty(make_cloud):
    async with make_cloud() as cloud:
        assert (await cloud.as_admin("GET", "/v3/users?limit=0")).body["users"] == []


async def test_filters_with_wildcards_in_them_match_themselves(make_cloud):
    async with make_cloud() as cloud:
        await cloud.make("user", name="50%_off")
        await cloud.make("user", name="50 is off")
        found = (await cloud.as_admin("GET", "/v3/users?name__contains=%25_")).body["users"]
        assert [row["name"] for row in found] == ["50%_off"]
        found = (await cloud.as_admin("GET", "/v3/users?name__icontains=OFF")).body["users"]
        assert len(found) == 2


async def test_a_project_stands_in_its_tree_and_the_tree_has_a_depth(make_cloud):
    async with make_cloud() as cloud:
        above, ids = None, []
        for level in range(5):
            row = await cloud.make("project", name=f"p{level}", **({"parent_id": above} if above else {}))
            above = row["id"]
            ids.append(above)
        answer = await cloud.as_admin("POST", "/v3/projects", {"project": {"name": "deeper", "parent_id": above}})
        assert answer.status == 403
        shown = (await cloud.as_admin("GET", f"/v3/projects/{ids[0]}?subtree_as_ids")).body["project"]
        assert shown["subtree"] == {ids[1]: {ids[2]: {ids[3]: {ids[4]: None}}}}
        shown = (await cloud.as_admin("GET", f"/v3/projects/{ids[2]}?parents_as_ids")).body["project"]
        assert shown["parents"] == {ids[1]: {ids[0]: {"default": None}}}
        assert (await cloud.as_admin("DELETE", f"/v3/projects/{ids[3]}")).status == 403
        assert (await cloud.as_admin("PATCH", f"/v3/projects/{ids[3]}", {"project": {"enabled": False}})).status == 403


async def test_inherited_roles_count_below_and_not_where_they_are(make_cloud):
    async with make_cloud() as cloud:
        user = await cloud.make("user", name="u", password="u")
        top = await cloud.make("project", name="top")
        low = await cloud.make("project", name="low", parent_id=top["id"])
        path = f"/v3/OS-INHERIT/projects/{top['id']}/users/{user['id']}/roles/{await cloud.role('member')}/inherited_to_projects"
        assert (await cloud.as_admin("PUT", path)).status == 204
        await cloud.login(user["id"], "u", {"project": {"id": low["id"]}})
        identity = {"methods": ["password"], "password": {"user": {"id": user["id"], "password": "u"}}}
        assert (await cloud.try_login(identity, {"project": {"id": top["id"]}})).status == 401
        listed = (await cloud.as_admin("GET", f"/v3/role_assignments?effective&user.id={user['id']}&include_names")).body
        assert {(row["scope"]["project"]["name"], row["role"]["name"]) for row in listed["role_assignments"]} == {
            ("low", "member"), ("low", "reader")}


async def test_groups_give_their_roles_as_long_as_one_is_in_them(make_cloud):
    async with make_cloud() as cloud:
        user = await cloud.make("user", name="u", password="u")
        group, project = await cloud.make("group", name="g"), await cloud.make("project", name="p")
        await cloud.as_admin("PUT", f"/v3/projects/{project['id']}/groups/{group['id']}/roles/{await cloud.role('member')}")
        await cloud.as_admin("PUT", f"/v3/groups/{group['id']}/users/{user['id']}")
        token = await cloud.login(user["id"], "u", {"project": {"id": project["id"]}})
        assert (await cloud.call("GET", "/v3/auth/catalog", token=token)).status == 200
        await cloud.as_admin("DELETE", f"/v3/groups/{group['id']}/users/{user['id']}")
        assert (await cloud.call("GET", "/v3/auth/catalog", token=token)).status == 401


async def test_a_domain_goes_with_all_that_is_in_it_and_only_when_disabled(make_cloud):
    async with make_cloud() as cloud:
        domain = await cloud.make("domain", name="d")
        made = {kind: await cloud.make(kind, name="x", domain_id=domain["id"]) for kind in ("user", "group", "project", "role")}
        below = await cloud.make("project", name="below", parent_id=made["project"]["id"], domain_id=domain["id"])
        assert (await cloud.as_admin("DELETE", f"/v3/domains/{domain['id']}")).status == 403
        await cloud.as_admin("PATCH", f"/v3/domains/{domain['id']}", {"domain": {"enabled": False}})
        assert (await cloud.as_admin("DELETE", f"/v3/domains/{domain['id']}")).status == 204
        for kind, row in (*made.items(), ("project", below)):
            assert (await cloud.as_admin("GET", f"/v3/{kind}s/{row['id']}")).status == 404
        for method, body in (("PATCH", {"domain": {"enabled": False}}), ("DELETE", None)):
            assert (await cloud.as_admin(method, "/v3/domains/default", body)).status == 403


async def test_a_password_is_never_shown_and_an_expired_one_can_be_changed(make_cloud):
    async with make_cloud(password_days=1, password_history=2, password_regex=r"^(?=.*\d).{4,}$") as cloud:
        user = await cloud.make("user", name="u", password="word1")
        assert "password" not in user and user["password_expires_at"] is not None
        cloud.clock.advance(86_400_000_000)
        identity = {"methods": ["password"], "password": {"user": {"id": user["id"], "password": "word1"}}}
        assert (await cloud.try_login(identity)).status == 401

        async def change(old, new):
            return (await cloud.call("POST", f"/v3/users/{user['id']}/password",
                                     {"user": {"original_password": old, "password": new}})).status

        assert await change("wrong", "word2") == 401
        assert await change("word1", "no") == 400
        assert await change("word1", "word1") == 400
        assert await change("word1", "word2") == 204
        assert await change("word2", "word1") == 400
        assert await change("word2", "word3") == 204
        assert await change("word3", "word1") == 204
        await cloud.login(user["id"], "word1")


async def test_a_catalog_has_only_what_works_for_its_token(make_cloud):
    async with make_cloud() as cloud:
        user, project, token = await cloud.member()
        await cloud.grant(user, "member", domain="default")
        by_domain = await cloud.login(user, "alice", {"domain": {"id": "default"}})
        catalog = (await cloud.call("GET", "/v3/auth/catalog", token=by_domain)).body["catalog"]
        assert [service["type"] for service in catalog] == ["identity"]
        endpoints = (await cloud.as_admin("GET", "/v3/endpoints?interface=public")).body["endpoints"]
        identity = next(row for row in endpoints if row["url"].endswith("/v3"))
        tie = f"/v3/OS-EP-FILTER/projects/{project}/endpoints/{identity['id']}"
        assert (await cloud.as_admin("PUT", tie)).status == 204
        catalog = (await cloud.call("GET", "/v3/auth/catalog", token=token)).body["catalog"]
        assert [[one["id"] for one in service["endpoints"]] for service in catalog] == [[identity["id"]]]
        assert (await cloud.as_admin("DELETE", tie)).status == 204
        assert len((await cloud.call("GET", "/v3/auth/catalog", token=token)).body["catalog"]) == 2


async def test_limits_belong_to_registered_ones_and_everybody_sees_the_own(make_cloud):
    async with make_cloud() as cloud:
        _, project, token = await cloud.member()
        service = await cloud.make("service", type="compute")
        base = {"service_id": service["id"], "resource_name": "cores"}
        assert (await cloud.as_admin("POST", "/v3/limits",
                                     {"limits": [{**base, "project_id": project, "resource_limit": 5}]})).status == 400
        made = await cloud.as_admin("POST", "/v3/registered_limits", {"registered_limits": [{**base, "default_limit": 10}]})
        registered = made.body["registered_limits"][0]["id"]
        for owner, status in ((project, 201), (project, 409), ("demo", 201)):
            body = {"limits": [{**base, "project_id": owner, "resource_limit": 5}]}
            assert (await cloud.as_admin("POST", "/v3/limits", body)).status == status
        seen = (await cloud.call("GET", "/v3/limits", token=token)).body["limits"]
        assert [row["project_id"] for row in seen] == [project]
        assert (await cloud.as_admin("DELETE", f"/v3/registered_limits/{registered}")).status == 403
        assert (await cloud.call("GET", "/v3/limits/model", token=token)).body["model"]["name"] == "flat"


async def test_many_creations_of_one_name_at_once_make_one(make_cloud):
    import asyncio

    async with make_cloud() as cloud:
        answers = await asyncio.gather(*(cloud.as_admin("POST", "/v3/projects", {"project": {"name": "same"}}) for _ in range(8)))
        assert sorted(answer.status for answer in answers) == [201] + [409] * 7


@pytest.mark.parametrize("name", ["a b", "a/b", "a?b=c#d", "100%", "%2F", "ö", "a;b", "../x"])
async def test_links_lead_to_what_a_client_named_whatever_is_in_the_name(make_cloud, name):
    async with make_cloud() as cloud:
        made = await cloud.make("region", id=name)
        key = {"type": "ec2", "blob": {"access": name, "secret": "s"}, "project_id": "demo"}
        admin = (await cloud.make("credential", **key))["user_id"]
        ec2 = (await cloud.as_admin("GET", f"/v3/users/{admin}/credentials/OS-EC2")).body["credentials"][0]
        for link, word in ((made["links"]["self"], "region"), (ec2["links"]["self"], "credential")):
            path = URL(link[link.index("/v3/"):], encoded=True)
            answer = await cloud.as_admin("GET", path)
            assert answer.status == 200 and answer.body[word]["links"]["self"] == link
            assert name in (answer.body[word].get("id"), answer.body[word].get("access"))


async def test_an_answer_never_shows_hashes_or_sealed_columns(make_cloud):
    async with make_cloud() as cloud:
        await cloud.member()
        for path in ("users", "credentials", "projects", "OS-OAUTH1/consumers", "domains/default/config"):
            text = str((await cloud.as_admin("GET", f"/v3/{path}")).body)
            assert "argon2" not in text and "sealed" not in text and "password_hash" not in text


async def test_every_route_with_a_rule_asks_it(make_cloud):
    """Without any role each operation that has a rule refuses, whatever its path names: none answers with data, none fails."""
    async with make_cloud() as cloud:
        user = await cloud.make("user", name="nobody", password="n")
        token = await cloud.login(user["id"], "n", "unscoped")
        from identity.app import ROUTES

        wrong = []
        for route in ROUTES:
            path = "/".join("x" if part.startswith("{") else part for part in route.path.split("/"))
            answer = await cloud.call(route.method, path, {"x": {}} if route.body is not None else None, token=token)
            if answer.status >= 500 or (route.policy is not None and answer.status < 400
                                        and route.policy not in ("identity:list_regions", "identity:list_credentials")):
                wrong.append((route.method, route.path, answer.status))
        assert wrong == []
