"""What a token of identity may do at the Swift door, by the identity that it was judged to be."""
from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from common.clock import ManualClock
from common.errors import IdentityAway, NotFound, Unauthorized
from proxy.auth import Identity, V1Auth
from proxy.config import LimitsConfig
from proxy.identity_auth import Behind
from proxy.identity_facts import AccessRules, IdentityFacts
from proxy.swift.context import DoorSettings
from proxy.swift.door import SwiftDoor
from tests.contract.memory_store import MemoryStore
from tests.contract.swift_client import AUTH, POLICIES, USERS, SwiftClient

NOTHING = frozenset()
P1, P2 = "AUTH_p1", "AUTH_p2"


def person(project="p1", user="u1", *, owns=False, reads=False, roles=(), rules=None, is_reseller_admin=False):
    home = frozenset({f"AUTH_{project}"})
    groups = frozenset(f"{left}:{right}" for left in (project, f"{project} name", "*") for right in (user, f"{user} name", "*"))
    return Identity(user_id=f"{project}:{user}", groups=groups, owned=home if owns else NOTHING, reads=home if reads else NOTHING,
                    home=home, roles=frozenset(roles), access_rules=rules, is_reseller_admin=is_reseller_admin)


PEOPLE = {
    "owner": person(owns=True, reads=True, roles=("member", "reader")), "reader": person(user="u2", reads=True, roles=("reader",)),
    "custom": person(user="u3", roles=("auditor",)),
    "foreign": person("p2", "u4", owns=True, reads=True, roles=("member", "auditor")),
    "admin": person("p9", "root", owns=True, reads=True, is_reseller_admin=True),
    "unscoped": Identity(user_id="u1", groups=NOTHING, owned=NOTHING, is_reseller_admin=False),
    "restricted": person(owns=True, reads=True, rules=AccessRules((
        ("object-store", "/v1/AUTH_p1/c/*", "GET"), ("object-store", "/v1/AUTH_p1/to/**", "PUT"), ("image", "/v1/**", "DELETE")))),
}


class Others:
    """Tokens are the names of people."""

    def __init__(self):
        self.errors = {}

    def identify(self, token, service_token):
        if token in self.errors:
            raise self.errors[token]
        return PEOPLE.get(token)


class Client(SwiftClient):
    def __init__(self, store, clock):
        super().__init__(store, clock)
        self.auth.close()
        self.others = Others()
        self.auth = V1Auth(USERS, AUTH, token_key=b"k" * 32, clock=clock, others=self.others)
        self.door = SwiftDoor(store, DoorSettings(limits=LimitsConfig(), policies=POLICIES), self.auth, clock)

    async def token(self, user="owner"):
        return user if user in PEOPLE or user in self.others.errors else await super().token(user)

    async def status(self, method, path="", *, user="owner", account=P1, **fields):
        fields = {name.replace("_", "-"): value for name, value in fields.items()}
        return (await self.call(method, path, fields, user=user, account=account)).status


@asynccontextmanager
async def door():
    clock = ManualClock()
    client = Client(MemoryStore(clock), clock)
    assert await client.status("PUT", "c", X_Account_Meta_X="y") == 201
    assert await client.status("PUT", "to") == 201 and await client.status("PUT", "c/o") == 201
    try:
        yield client
    finally:
        client.auth.close()


@pytest.mark.parametrize(("who", "reads", "writes"), [
    ("owner", 200, 201), ("reader", 200, 403), ("custom", 403, 403), ("foreign", 403, 403), ("admin", 200, 201),
    ("unscoped", 403, 403), (None, 401, 401)])
async def test_who_may_read_and_write_an_account_without_acls(who, reads, writes):
    async with door() as client:
        for path in ("", "c", "c/o"):
            assert await client.status("GET", path, user=who) == reads, path
            assert await client.status("HEAD", path, user=who) == (204 if reads == 200 and path != "c/o" else reads), path
        assert await client.status("PUT", "c/new", user=who) == writes
        assert await client.status("PUT", "new", user=who) == writes
        assert await client.status("POST", "c", user=who) == (204 if writes == 201 else writes)
        assert await client.status("DELETE", "c/o", user=who) == (204 if writes == 201 else writes)


@pytest.mark.parametrize(("who", "status"), [("owner", 404), ("reader", 404), ("foreign", 403), (None, 401)])
async def test_only_those_who_may_look_learn_that_something_is_not_there(who, status):
    async with door() as client:
        for path in ("none", "none/o", "c/none"):
            assert await client.status("GET", path, user=who) == status, path


async def test_keys_of_an_account_are_for_its_owner_only():
    async with door() as client:
        assert await client.status("POST", "", X_Account_Meta_Temp_URL_Key="secret") == 204
        for who, shown in (("owner", True), ("reader", False), ("admin", True)):
            answer = await client.call("HEAD", "", {}, user=who, account=P1)
            assert ("x-account-meta-temp-url-key" in answer.headers) is shown, who


async def test_a_reader_begins_no_account():
    async with door() as client:
        PEOPLE["lonely"] = person("p3", reads=True, roles=("reader",))
        assert await client.status("HEAD", user="lonely", account="AUTH_p3") == 204
        assert await client.status("HEAD", user="admin", account="AUTH_p3") == 204
        with pytest.raises(NotFound):
            await client.store.account("AUTH_p3")
        del PEOPLE["lonely"]


@pytest.mark.parametrize(("acl", "may"), [
    ("p2:u4", {"foreign"}), ("p2:*", {"foreign"}), ("*:u4", {"foreign"}), ("p2 name:u4 name", {"foreign"}),
    ("p2:u4 name", {"foreign"}),
    ("*:*", {"foreign", "custom", "unscoped"}), ("*", {"foreign", "custom", "unscoped"}), ("p2", set()), ("u4", set()),
    ("auditor", {"custom"}), ("p1:auditor", set()), ("p2:auditor", set()), ("p2:u1,p1:u4", set()), ("p1:*", {"custom"}),
    ("demo", set()), (".rlistings", set())])
async def test_whom_an_element_of_an_acl_means(acl, may):
    async with door() as client:
        assert await client.status("POST", "c", X_Container_Read=acl, X_Container_Write=acl) == 204
        strangers = ("foreign", "custom", "unscoped")
        assert {who for who in strangers if await client.status("GET", "c/o", user=who) == 200} == may
        assert {who for who in strangers if await client.status("GET", "c", user=who) == 200} == may
        assert {who for who in strangers if await client.status("PUT", "c/new", user=who) == 201} == may
        assert await client.status("GET", "c/o", user=None) == 401


async def test_acls_for_users_of_v1_and_for_links_are_what_they_were():
    async with door() as client:
        assert await client.status("POST", "c", X_Container_Read="demo:*,.r:*", X_Container_Write="demo:bob,readers") == 204
        for method, path, who, status in (
                ("GET", "c/o", None, 200), ("GET", "c", None, 401), ("GET", "c", "demo:bob", 200), ("GET", "c", "other:carol", 403),
                ("PUT", "c/x", "demo:bob", 201), ("PUT", "c/x", "foreign", 403)):
            assert await client.status(method, path, user=who) == status, (method, path, who)


@pytest.mark.parametrize(("method", "path", "fields", "status"), [
    ("GET", "c/o", {}, 200), ("GET", "c", {}, 401), ("GET", "", {}, 401), ("HEAD", "c/o", {}, 401), ("PUT", "c/o", {}, 401),
    ("DELETE", "c/o", {}, 401), ("GET", "c/o%2Fp", {}, 401), ("PUT", "to/x", {}, 201), ("PUT", "to/x", {"X_Copy_From": "c/o"}, 201),
    ("PUT", "to/x", {"X_Copy_From": "/c%2Fo"}, 201), ("PUT", "to/x", {"X_Copy_From": "to/secret"}, 401),
    ("PUT", "to/x", {"X_Copy_From": "c/o", "X_Copy_From_Account": "AUTH_p2"}, 401), ("COPY", "c/o", {"Destination": "to/x"}, 401)])
async def test_an_application_credential_makes_the_requests_of_its_rules_and_no_others(method, path, fields, status):
    async with door() as client:
        if "%" in path:
            answer = await client.raw(method, f"/v1/{P1}/{path}".encode(), {"X-Auth-Token": "restricted"})
            assert answer.status == status
        else:
            assert await client.status(method, path, user="restricted", **fields) == status


async def test_a_token_that_cannot_be_judged_now_is_503_and_one_that_is_bad_401():
    async with door() as client:
        client.others.errors = {"away": IdentityAway(silent_s=301), "bad": Unauthorized().because("token.revoked", user="u")}
        answer = await client.call("GET", "c/o", {}, user="away", account=P1)
        assert (answer.status, answer.headers["x-error-code"]) == (503, "identity_away") and "retry-after" in answer.headers
        assert await client.status("GET", "c/o", user="bad") == 401
        assert await client.status("GET", "c/o", user="demo:alice", account="AUTH_demo") == 404        # v1 goes on


async def test_a_request_waits_for_the_news_that_its_token_needs():
    async with door() as client:
        facts = IdentityFacts(client.clock)
        facts.replace(1, {})
        client.others.errors = {"owner": Behind(facts, 2)}
        asked = asyncio.create_task(client.status("GET", "c/o"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not asked.done()
        client.others.errors = {}
        facts.apply(2, {})
        assert await asked == 200


async def test_a_request_whose_news_do_not_come_is_503():
    async with door() as client:
        client.others.errors = {"owner": Behind()}
        assert await client.status("GET", "c/o") == 503
