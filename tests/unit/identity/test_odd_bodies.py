"""Whatever stands in a body, the answer is the service's own: no operation fails (5xx) for what a client sends."""
from __future__ import annotations

import pytest

from identity.app import ROUTES

ODD = (None, True, -1, 2**62, 1.5, "", " ", "x" * 300, "%(nothing)s", "'; --", "\n\t\u2028", [], [[]], {}, {"id": {}}, [None, 7],
       {"x": [1]},
       "9999-12-31T23:59:59Z", [{"id": "x"}, {"name": 7}])


def variants(schema):
    """Bodies that have the outer form of a schema, with each field in turn replaced by something odd."""
    (outer, inner), *_ = schema.get("properties", {"x": {}}).items()
    if inner.get("type") == "array":
        fields, wrap = inner.get("items", {}).get("properties", {}), lambda body: {outer: [body]}
    else:
        fields, wrap = inner.get("properties", {}), lambda body: {outer: body}
    usual = {name: USUAL.get(name, "x") for name in fields if name in USUAL}
    for odd in ODD:
        yield {outer: odd}
        for name in (*fields, "unheard_of"):
            yield wrap({**usual, name: odd})


USUAL = {"name": "n", "type": "t", "blob": "{}", "service_id": "s", "interface": "public", "url": "http://x", "resource_name": "r",
         "default_limit": 1, "resource_limit": 1, "trustor_user_id": "me", "trustee_user_id": "me", "impersonation": True,
         "password": "p", "original_password": "p"}
CHANGING = [route for route in ROUTES if route.body is not None and route.path != "/v3/auth/tokens"]


@pytest.mark.all_only
@pytest.mark.parametrize("route", CHANGING, ids=lambda route: f"{route.method} {route.path}")
async def test_no_body_makes_an_operation_fail(make_cloud, route):
    async with make_cloud() as cloud:
        user, project, _ = await cloud.member()
        known = {"user_id": user, "project_id": project, "domain_id": (await cloud.make("domain", name="d"))["id"],
                 "group_id": (await cloud.make("group", name="g"))["id"], "role_id": (await cloud.make("role", name="r"))["id"],
                 "service_id": (await cloud.make("service", type="x"))["id"], "region_id": (await cloud.make("region",
                                                                                                             id="r"))["id"]}
        path = "/".join(known.get(part[1:-1], "x") if part.startswith("{") else part for part in route.path.split("/"))
        failed = []
        for body in variants(route.body.schema):
            answer = await cloud.as_admin(route.method, path, body)
            if answer.status >= 500:
                failed.append((body, answer.status))
        assert failed == []


@pytest.mark.parametrize("odd", ODD, ids=repr)
async def test_no_login_fails_otherwise_than_by_refusal(make_cloud, odd):
    async with make_cloud() as cloud:
        for identity in ({"methods": odd}, {"methods": ["password"], "password": odd},
                         {"methods": ["password"], "password": {"user": odd}},
                         {"methods": ["token"], "token": {"id": odd}}, {"methods": ["totp"],
                                                                        "totp": {"user": {"id": odd, "passcode": odd}}},
                         {"methods": ["application_credential"], "application_credential": {"id": odd, "secret": odd}},
                         {"methods": ["application_credential"], "application_credential": {"name": odd, "user": odd,
                                                                                            "secret": "x"}},
                         {"methods": ["oauth1"], "oauth1": odd},
                         {"methods": ["password"], "password": {"user": {"name": odd, "domain": odd, "password": odd}}}):
            answer = await cloud.try_login(identity)
            assert 400 <= answer.status < 500, (identity, answer)
        right = {"methods": ["password"],
                 "password": {"user": {"name": "demo", "domain": {"id": "default"}, "password": "demo key"}}}
        for scope in (odd, {"project": odd}, {"domain": odd}, {"system": odd}, {"OS-TRUST:trust": odd},
                      {"project": {"name": odd, "domain": odd}},
                      {"project": {"id": odd}}, {"domain": {"name": odd}}, {"OS-TRUST:trust": {"id": odd}}):
            answer = await cloud.try_login(right, scope)
            assert answer.status < 500, (scope, answer)


LISTS = sorted({route.path for route in ROUTES if route.method == "GET" and "{" not in route.path})


@pytest.mark.all_only
@pytest.mark.parametrize("path", LISTS)
async def test_no_query_makes_a_list_fail(make_cloud, path):
    async with make_cloud() as cloud:
        names = ("name", "limit", "marker", "sort", "enabled", "domain_id", "parent_id", "tags", "is_domain", "password_expires_at",
                 "user.id", "scope.project.id", "scope.system", "effective", "include_subtree", "name__contains", "name__", "type",
                 "scope.OS-INHERIT:inherited_to", "trustor_user_id", "region_id", "unheard_of")
        for name in names:
            for value in ("", "x", "1", "-1", "%25", "%27", "%0a", "in:", "true", "x" * 2_000, "%ff", "a,b", "%00", "%ed%a0%80"):
                answer = await cloud.as_admin("GET", f"{path}?{name}={value}")
                assert answer.status < 500, (path, name, value, answer)


async def test_the_search_would_find_an_operation_that_fails(make_cloud, monkeypatch):
    async with make_cloud() as cloud:
        monkeypatch.setattr("identity.policies.json.dumps", lambda _: 1 / 0)
        statuses = {(await cloud.as_admin("POST", "/v3/policies", body)).status for body in variants(
            next(route for route in ROUTES if route.path == "/v3/policies" and route.method == "POST").body.schema)}
        assert 500 in statuses
