"""What makes no sense is refused when it is said: times, patterns, options, attributes, changes of immutable resources."""
from __future__ import annotations

import pytest

from common.errors import BadRequest
from control.times import format_time, parse_time
from identity.passwords import check_password

NO_TIMES = ["", " ", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00", "2030-13-01T00:00:00",
            "\u0662030-01-01T00:00:00", "now"]


@pytest.mark.parametrize("text", NO_TIMES)
async def test_a_time_that_is_none_is_400(make_cloud, text):
    async with make_cloud() as cloud:
        user, project, token = await cloud.member()
        answer = await cloud.call("POST", f"/v3/users/{user}/application_credentials",
                                  {"application_credential": {"name": "a", "expires_at": text}}, token=token)
        assert answer.status == 400, answer
        given = {"trustor_user_id": user, "trustee_user_id": user, "project_id": project, "impersonation": False,
                 "roles": [{"name": "member"}], "expires_at": text}
        assert (await cloud.call("POST", "/v3/OS-TRUST/trusts", {"trust": given}, token=token)).status == 400


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59.999999Z", "9999-12-31T11:59:59-12:00", "0001-01-01T00:00:00Z"])
def test_every_time_that_is_read_can_be_shown(text):
    assert format_time(parse_time(text, "t")).endswith("Z")


@pytest.mark.parametrize("path, word, at", [("projects", "project", "projects"), ("domains", "domain", "projects")])
async def test_the_tags_of_an_immutable_project_stay(make_cloud, path, word, at):
    async with make_cloud() as cloud:
        made = await cloud.make(word, name="p", tags=["old"], options={"immutable": True})
        where = f"/v3/{at}/{made['id']}/tags"
        for method, tail, body in (("PUT", "", {"tags": ["new"]}), ("PUT", "/new", None), ("DELETE", "/old", None),
                                   ("DELETE", "", None)):
            assert (await cloud.as_admin(method, where + tail, body)).status == 403, (method, tail)
        assert (await cloud.as_admin("GET", where)).body["tags"] == ["old"]


@pytest.mark.parametrize("kind", ["project", "domain", "role"])
async def test_of_what_is_immutable_only_that_option_is_changed_and_alone(make_cloud, kind):
    async with make_cloud() as cloud:
        made = await cloud.make(kind, name="old", options={"immutable": True})
        path = f"/v3/{kind}s/{made['id']}"
        for given in ({"name": "new"}, {"name": "new", "options": {"immutable": False}},
                      {"extra": 1, "options": {"immutable": None}}, {"options": {}}, {}):
            assert (await cloud.as_admin("PATCH", path, {kind: given})).status == 403, given
        assert (await cloud.as_admin("DELETE", path)).status == 403
        assert (await cloud.as_admin("PATCH", path, {kind: {"options": {"immutable": False}}})).status == 200
        answer = await cloud.as_admin("PATCH", path, {kind: {"name": "new", "options": {"immutable": True}}})
        assert answer.status == 200 and answer.body[kind]["name"] == "new"


async def test_a_rule_of_factors_names_methods_that_there_are(make_cloud):
    async with make_cloud() as cloud:
        user = await cloud.make("user", name="u")
        for rules in ([["password", "telepathy"]], [["external"]], [[""]], [[]]):
            given = {"user": {"name": "v", "options": {"multi_factor_auth_rules": rules}}}
            assert (await cloud.as_admin("POST", "/v3/users", given)).status == 400, rules
            assert (await cloud.as_admin("PATCH", f"/v3/users/{user['id']}", given)).status == 400, rules
        for rules in ([["password", "totp"]], [["password"], ["token"]], [], None):
            given = {"user": {"options": {"multi_factor_auth_rules": rules}}}
            assert (await cloud.as_admin("PATCH", f"/v3/users/{user['id']}", given)).status == 200, rules


async def test_a_newline_at_the_end_passes_no_pattern(make_cloud):
    async with make_cloud() as cloud:
        answer = await cloud.as_admin("POST", "/v3/domains", {"domain": {"name": "d", "explicit_domain_id": "a" * 32 + "\n"}})
        assert answer.status == 400
        project = await cloud.make("project", name="p")
        for body in (["a,b\n"], ["a/\n"]):
            assert (await cloud.as_admin("PUT", f"/v3/projects/{project['id']}/tags", {"tags": body})).status == 400
        assert (await cloud.as_admin("PUT", f"/v3/projects/{project['id']}/tags/a%2fb")).status == 400


def test_the_end_of_a_password_is_its_end():
    for regex in (r"^[a-z]{4}$", r"[a-z]{4}$"):
        assert check_password("abcd", regex=regex) == "abcd"
        with pytest.raises(BadRequest):
            check_password("abcd\n", regex=regex)
    assert check_password("abc$", regex=r"[a-z]+\$") == "abc$"
    assert check_password("abcd and more", regex=r"[a-z]{4}") == "abcd and more", "a rule says itself whether it means the whole"


@pytest.mark.parametrize("name", ["trust_id", "app_cred_id", "app_credential_id", "access_token_id"])
async def test_a_client_does_not_say_what_a_credential_was_made_with(make_cloud, name):
    async with make_cloud() as cloud:
        answer = await cloud.as_admin("POST", "/v3/credentials", {"credential": {"type": "cert", "blob": "x", name: "t"}})
        assert answer.status == 400 and name in answer.body["error"]["message"]
        made = await cloud.make("credential", type="cert", blob="x", colour="red")
        assert made["colour"] == "red"
        assert (await cloud.as_admin("PATCH", f"/v3/credentials/{made['id']}", {"credential": {name: "t"}})).status == 400


async def test_a_credential_is_for_a_project_that_is_there_and_that_its_user_has_a_role_in(make_cloud):
    async with make_cloud() as cloud:
        _, project, token = await cloud.member()
        for kind in ("cert", "ec2", "totp"):
            blob = {"ec2": '{"access": "a", "secret": "s"}', "totp": "GEZDGNBVGY3TQOJQ"}.get(kind, "x")
            for there, admins, members in (("nope", 400, 403), ("default", 400, 403), ("demo", 201, 403), (project, None, 201)):
                given = {"credential": {"type": kind, "blob": blob.replace("a\"", f"{there}\""), "project_id": there}}
                if admins is not None:
                    assert (await cloud.as_admin("POST", "/v3/credentials", given)).status == admins, (kind, there)
                assert (await cloud.call("POST", "/v3/credentials", given, token=token)).status == members, (kind, there)
