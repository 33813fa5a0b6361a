"""The feed, and what a gateway makes of it: the same as identity itself would, after every change, and no secrets in clear."""
from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import msgpack
import pytest
from cryptography.fernet import Fernet

from common.clock import ManualClock
from common.errors import IdentityAway, Unauthorized
from common.handshake import Credentials, cluster_keys
from common.rpc_server import RpcServer
from common.sockets import tcp_connector
from identity import feed as feed_module
from identity.credentials import access_digest
from identity.feed import Feed
from identity.keys import KeySet
from identity.scopes import find_meaning
from identity.tokens import decode_token, encode_token
from identity.wire import FEED_ROLE, OP_FEED, TABLES, pack_id, transport_key, unpack_events
from node.feed import FeedReader
from proxy.auth import V1Auth, reseller_prefixes
from proxy.config import AuthConfig, ResellerRow
from proxy.identity_auth import Behind, IdentityAuth
from proxy.identity_facts import IdentityFacts, merge_parts
from tests.unit.identity.test_escalation import app_credential, trust, use_trust

TRANSPORT = transport_key(b"the key of the cluster")
CONFIG = AuthConfig(reseller=(ResellerRow(prefix="AUTH"), ResellerRow(prefix="SERVICE", require_group="service")))
GRACE_S = 300.0


def judge_of(facts, clock, logins=("demo:demo", "newacct:alice")):
    return IdentityAuth(facts, reseller_prefixes(CONFIG), transport=TRANSPORT, clock=clock, grace_s=GRACE_S, skew_s=10,
                        logins=frozenset(logins))


class Asked:
    """A call of a gateway, as the handler sees it."""

    def __init__(self, *fields):
        self.fields = list(fields)


class Gateway:
    """What a worker has: facts, and a judge of tokens; `sync` brings it what changed, over no network."""

    def __init__(self, feed: Feed, clock: ManualClock) -> None:
        self.feed, self.clock = feed, clock
        self.facts = IdentityFacts(clock)
        self.others = judge_of(self.facts, clock)
        self.auth = V1Auth((), CONFIG, token_key=b"k" * 32, clock=clock, others=self.others)
        self.epoch, self.position = "", 0
        self.snapshots = 0

    async def ask(self, part: int = 0):
        return await self.feed.answer(Asked(self.epoch, self.position, part))

    async def sync(self) -> None:
        await self.feed.refresh()
        while self.position < self.feed.position or not self.epoch:
            (epoch, position, left, is_snapshot), body = await self.ask()
            if is_snapshot:
                self.epoch, self.position = epoch, position
                ((generation, changes),) = unpack_events(body)
                parts = [changes]
                while left:
                    (_, _, left, _), body = await self.ask(len(parts))
                    parts.append(unpack_events(body)[0][1])
                self.facts.replace(generation, merge_parts(parts))
                self.snapshots += 1
            else:
                for generation, changes in unpack_events(body):
                    self.facts.apply(generation, changes)
                self.position = position
        self.facts.heard()

    async def who(self, token, service=None):
        """The identity of a token, None if it is refused; after news."""
        await self.sync()
        try:
            return self.auth.identify(token, service)
        except Unauthorized:
            return None


@pytest.fixture
def with_gateway(make_cloud):
    @asynccontextmanager
    async def make(**settings):
        async with make_cloud(**settings) as cloud:
            feed = Feed(cloud.state, transport=TRANSPORT)
            gateway = Gateway(feed, cloud.clock)
            await gateway.sync()
            yield cloud, gateway
            gateway.auth.close()
    return make


def advance(cloud, seconds):
    cloud.clock.advance(int(seconds * 1_000_000))


async def roles_by_identity(cloud, token):
    """What identity itself says: roles in lower case, None for a token that is no good."""
    try:
        found = await cloud.state.database.read(find_meaning, cloud.state, decode_token(token, cloud.state.keys))
    except Unauthorized:
        return None
    return found.context().roles


async def roles_by_gateway(cloud, gateway, token):
    await gateway.sync()
    try:
        return gateway.others._judge(token, cloud.clock.now_us()).roles
    except Unauthorized:
        return None


async def many_tokens(cloud):
    """(name to token, ids): every way to have a role, and every kind of token."""
    alice, project, token = await cloud.member("manager", "alice")
    bob = (await cloud.make("user", name="bob", password="bob"))["id"]
    domain = (await cloud.make("domain", name="other"))["id"]
    parent = (await cloud.make("project", name="parent", domain_id=domain))["id"]
    child = (await cloud.make("project", name="child", domain_id=domain, parent_id=parent))["id"]
    group = (await cloud.make("group", name="g"))["id"]
    custom = (await cloud.make("role", name="Custom"))["id"]
    reader = await cloud.role("reader")
    await cloud.as_admin("PUT", f"/v3/roles/{custom}/implies/{reader}")
    await cloud.as_admin("PUT", f"/v3/groups/{group}/users/{bob}")
    await cloud.as_admin("PUT", f"/v3/projects/{project}/groups/{group}/roles/{custom}")
    member = await cloud.role("member")
    await cloud.as_admin("PUT", f"/v3/OS-INHERIT/projects/{parent}/users/{bob}/roles/{member}/inherited_to_projects")
    await cloud.as_admin("PUT", f"/v3/OS-INHERIT/domains/{domain}/users/{alice}/roles/{member}/inherited_to_projects")
    await cloud.as_admin("PUT", f"/v3/domains/{domain}/users/{alice}/roles/{reader}")
    made, ac_token = await app_credential(cloud, alice, token, roles=[{"name": "reader"}])
    given = (await trust(cloud, alice, bob, project, token)).body["trust"]
    bobs = await cloud.login(bob, "bob")
    trust_token, _ = await use_trust(cloud, given["id"], bobs)
    scopes = {"by group": (bob, "bob", {"project": {"id": project}}), "below project": (bob, "bob", {"project": {"id": child}}),
              "below domain": (alice, "alice", {"project": {"id": parent}}), "domain": (alice, "alice", {"domain": {"id": domain}}),
              "unscoped": (bob, "bob", "unscoped")}
    tokens = {name: await cloud.login(*how) for name, how in scopes.items()}
    system = await cloud.login({"name": "admin", "domain": {"id": "default"}}, "of the administrator", {"system": {"all": True}})
    tokens |= {"member": token, "application credential": ac_token, "trust": trust_token, "system": system, "admin": cloud.admin}
    ids = {"alice": alice, "bob": bob, "domain": domain, "parent": parent, "child": child, "group": group, "custom": custom}
    ids |= {"project": project, "ac": made["id"], "trust": given["id"], "manager": await cloud.role("manager"), "member": member}
    return tokens, ids


CHANGES = [
    ("PUT", "projects/{project}/users/{bob}/roles/{member}", None), ("DELETE", "groups/{group}/users/{bob}", None),
    ("DELETE", "OS-INHERIT/domains/{domain}/users/{alice}/roles/{member}/inherited_to_projects", None),
    ("DELETE", "OS-INHERIT/projects/{parent}/users/{bob}/roles/{member}/inherited_to_projects", None),
    ("DELETE", "projects/{project}/users/{alice}/roles/{manager}", None),
    ("PATCH", "users/{bob}", {"user": {"enabled": False}}), ("PATCH", "users/{alice}", {"user": {"password": "new one"}}),
    ("PATCH", "projects/{project}", {"project": {"enabled": False}}),
    ("PATCH", "domains/{domain}", {"domain": {"enabled": False}}),
    ("DELETE", "users/{alice}/application_credentials/{ac}", None), ("DELETE", "users/{alice}", None),
    ("DELETE", "projects/{project}", None), ("DELETE", "groups/{group}", None), ("DELETE", "roles/{custom}", None),
    ("PATCH", "users/{alice}", {"user": {"name": "alice2"}}),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: " ".join(map(str, change)))
async def test_a_gateway_says_of_every_token_what_identity_says_before_and_after_any_change(with_gateway, change):
    async with with_gateway() as (cloud, gateway):
        tokens, ids = await many_tokens(cloud)
        before = {name: await roles_by_identity(cloud, token) for name, token in tokens.items()}
        assert None not in before.values() and before["unscoped"] == frozenset()
        assert {name: await roles_by_gateway(cloud, gateway, token) for name, token in tokens.items()} == before
        method, path, body = change
        answer = await cloud.as_admin(method, "/v3/" + path.format(**ids), body)
        assert answer.status < 300, answer
        after = {name: await roles_by_identity(cloud, token) for name, token in tokens.items()}
        assert {name: await roles_by_gateway(cloud, gateway, token) for name, token in tokens.items()} == after
        assert after != before or "name" in (change[2] or {}).get("user", {})
        assert gateway.snapshots == 1


async def test_the_comparison_finds_a_gateway_that_was_not_told(with_gateway):
    async with with_gateway() as (cloud, gateway):
        tokens, ids = await many_tokens(cloud)
        await gateway.sync()
        await cloud.as_admin("PUT", f"/v3/projects/{ids['project']}/users/{ids['bob']}/roles/{ids['manager']}")
        expected, lost = await roles_by_identity(cloud, tokens["by group"]), gateway.facts.tables["user"].copy()
        await gateway.sync()
        gateway.facts.replace(gateway.facts.generation, {**gateway.facts.tables, "user": lost})
        assert await roles_by_gateway(cloud, gateway, tokens["by group"]) != expected


async def test_an_s3_key_travels_sealed_under_the_digest_of_its_name_and_goes_with_its_owner(with_gateway):
    async with with_gateway() as (cloud, gateway):
        user, project, token = await cloud.member()
        answer = await cloud.call("POST", f"/v3/users/{user}/credentials/OS-EC2", {"tenant_id": project}, token=token)
        made = answer.body["credential"]
        digest = access_digest(made["access"])
        await gateway.sync()
        *whose, sealed = gateway.facts.find("s3_key", digest)
        assert whose == [pack_id(user), pack_id(project), None, None]
        assert msgpack.unpackb(Fernet(TRANSPORT).decrypt(sealed)) == made["secret"]
        await cloud.make("project", name="p")
        await gateway.sync()
        assert gateway.facts.find("s3_key", digest)[-1] == sealed                # sealed once: what is the same is not sent again
        await cloud.as_admin("DELETE", f"/v3/users/{user}")
        await gateway.sync()
        assert gateway.facts.find("s3_key", digest) is None


async def test_a_trust_that_its_trustor_takes_back_ends_its_tokens(with_gateway):
    async with with_gateway() as (cloud, gateway):
        tokens, ids = await many_tokens(cloud)
        assert (await gateway.who(tokens["trust"])).user_id == f"{ids['project']}:{ids['bob']}"
        answer = await cloud.call("DELETE", f"/v3/OS-TRUST/trusts/{ids['trust']}", token=tokens["member"])
        assert answer.status == 204
        assert await gateway.who(tokens["trust"]) is None and await gateway.who(tokens["member"]) is not None


async def test_a_logout_ends_one_token_and_no_other(with_gateway):
    async with with_gateway() as (cloud, gateway):
        user, project, first = await cloud.member()
        second = await cloud.login(user, "alice", {"project": {"id": project}})
        assert await gateway.who(first) and await gateway.who(second)
        await cloud.call("DELETE", "/v3/auth/tokens", token=first, X_Subject_Token=first)
        assert await gateway.who(first) is None and await gateway.who(second) is not None
        assert await gateway.who(await cloud.login(user, "alice", {"project": {"id": project}})) is not None


@pytest.mark.parametrize(("role", "owns", "reads"), [("admin", True, True), ("manager", True, True), ("member", True, True),
                                                    ("reader", False, True), ("service", False, False)])
async def test_what_a_role_is_worth_in_the_account_of_its_project(with_gateway, role, owns, reads):
    async with with_gateway() as (cloud, gateway):
        _, project, token = await cloud.member(role)
        found = await gateway.who(token)
        account = f"AUTH_{project}"
        assert (account in found.owned, account in found.reads, account in found.home) == (owns, reads, True)
        assert (f"SERVICE_{project}" in found.owned) is False
        assert found.is_reseller_admin is (role == "admin")


async def test_a_service_token_opens_what_its_prefix_asks_for(with_gateway):
    async with with_gateway() as (cloud, gateway):
        _, project, token = await cloud.member("member")
        _, _, service = await cloud.member("service", "glance")
        assert f"SERVICE_{project}" in (await gateway.who(token, service)).owned
        assert f"SERVICE_{project}" not in (await gateway.who(token, token)).owned
        assert await gateway.who(token, service[:-3]) is None


async def test_unscoped_tokens_and_those_of_a_domain_own_nothing_and_are_named_by_no_acl(with_gateway):
    async with with_gateway() as (cloud, gateway):
        tokens, _ = await many_tokens(cloud)
        for name in ("unscoped", "domain"):
            found = await gateway.who(tokens[name])
            assert not (found.owned | found.reads | found.groups | found.home) and not found.is_reseller_admin
        system = await gateway.who(tokens["system"])
        assert system.is_reseller_admin and not system.owned


async def test_an_administrator_of_an_account_of_the_configuration_administers_no_other(with_gateway):
    async with with_gateway() as (cloud, gateway):
        found = await gateway.who(await cloud.login({"name": "demo", "domain": {"id": "default"}}, "demo key"))
        assert found.owned == {"AUTH_demo"} and not found.is_reseller_admin
        assert {"demo", "demo:demo", "demo:*"} <= found.groups                 # what ACLs gave to its v1 login


async def test_nobody_takes_the_name_of_a_user_of_the_configuration(with_gateway):
    async with with_gateway() as (cloud, gateway):
        user = await cloud.make("user", name="acme:carol", password="p")
        project = await cloud.make("project", name="p")
        await cloud.grant(user["id"], "reader", project=project["id"])
        found = await gateway.who(await cloud.login(user["id"], "p", {"project": {"id": project["id"]}}))
        assert not {"acme:carol", "acme", "acme:*", "*:acme:carol"} & found.groups and f"*:{user['id']}" in found.groups


async def test_names_count_in_acls_only_in_the_default_domain(with_gateway):
    async with with_gateway() as (cloud, gateway):
        domain = (await cloud.make("domain", name="elsewhere"))["id"]
        user = await cloud.make("user", name="demo", password="p", domain_id=domain)
        project = await cloud.make("project", name="demo", domain_id=domain)
        await cloud.grant(user["id"], "reader", project=project["id"])
        found = await gateway.who(await cloud.login(user["id"], "p", {"project": {"id": project["id"]}}))
        assert found.groups == {f"{left}:{right}" for left in (project["id"], "*") for right in (user["id"], "*")}


async def test_a_name_that_looks_like_an_id_lets_nobody_in_as_what_has_that_id(with_gateway):
    async with with_gateway() as (cloud, gateway):
        owner, wanted, _ = await cloud.member()
        user = await cloud.make("user", name=owner, password="p")
        project = await cloud.make("project", name=wanted)
        upper = await cloud.make("project", name="A" * 32)
        ids = user["id"]
        for one, pairs in ((project["id"], (project["id"], "*")), (upper["id"], (upper["id"], "*"))):
            await cloud.grant(ids, "reader", project=one)
            found = await gateway.who(await cloud.login(ids, "p", {"project": {"id": one}}))
            assert found.groups == {f"{left}:{right}" for left in pairs for right in (ids, "*")}


async def test_a_project_called_like_an_account_of_the_configuration_is_not_meant_by_acls_that_name_the_account(with_gateway):
    async with with_gateway() as (cloud, gateway):
        user = await cloud.make("user", name="mallory", password="p")
        for name, is_named in (("newacct", False), ("another", True)):
            project = (await cloud.make("project", name=name))["id"]
            await cloud.grant(user["id"], "member", project=project)
            found = await gateway.who(await cloud.login(user["id"], "p", {"project": {"id": project}}))
            assert f"{project}:mallory" in found.groups
            assert ({f"{name}:*", f"{name}:mallory", f"{name}:{user['id']}"} <= found.groups) is is_named
            assert any(group.startswith(f"{name}:") for group in found.groups) is is_named
        await cloud.grant(user["id"], "member", project="demo")
        found = await gateway.who(await cloud.login(user["id"], "p", {"project": {"id": "demo"}}))
        assert "demo:mallory" in found.groups            # in the account's own project


async def test_a_user_called_like_a_login_of_the_configuration_is_not_meant_by_acls_that_name_the_login(with_gateway):
    async with with_gateway() as (cloud, gateway):
        user = await cloud.make("user", name="alice", password="p")
        await cloud.grant(user["id"], "member", project="demo")
        gateway.others = judge_of(gateway.facts, gateway.clock, {"demo:demo", "demo:alice"})
        gateway.auth = V1Auth((), CONFIG, token_key=b"k" * 32, clock=gateway.clock, others=gateway.others)
        found = await gateway.who(await cloud.login(user["id"], "p", {"project": {"id": "demo"}}))
        assert "demo:alice" not in found.groups and {f"demo:{user['id']}", "demo:*"} <= found.groups


async def test_access_rules_travel_with_the_token(with_gateway):
    async with with_gateway() as (cloud, gateway):
        user, project, token = await cloud.member()
        rules = [{"service": "object-store", "method": "GET", "path": f"/v1/AUTH_{project}/c/*"}]
        _, restricted = await app_credential(cloud, user, token, access_rules=rules)
        allow = (await gateway.who(restricted)).access_rules.allow
        assert allow("GET", f"/v1/AUTH_{project}/c/o") and not allow("PUT", f"/v1/AUTH_{project}/c/o")
        assert not allow("GET", f"/v1/AUTH_{project}/c/o/p") and not allow("GET", f"/v1/AUTH_{project}/c")
        assert (await gateway.who(token)).access_rules is None


# tokens that are no good

async def test_tokens_of_other_clouds_and_damaged_ones_are_refused(with_gateway, tmp_path):
    async with with_gateway() as (cloud, gateway):
        _, _, token = await cloud.member()
        await gateway.sync()
        foreign = encode_token(decode_token(token, cloud.state.keys), KeySet(tmp_path / "foreign keys"))
        for bad in (foreign, token[:-1], token[:60], token[:30] + "AAAA" + token[34:], token + "A" * 3000, "gAAAA", "gAAAAé"):
            with pytest.raises(Unauthorized):
                gateway.auth.identify(bad)
        for none in (None, "", "x", "AUTH_other", token[1:]):
            assert gateway.auth.identify(none) is None
        assert gateway.auth.identify(token) is not None


async def test_an_expired_token_is_refused_at_once_though_it_was_seen(with_gateway):
    async with with_gateway() as (cloud, gateway):
        _, _, token = await cloud.member()
        assert await gateway.who(token)
        advance(cloud, cloud.state.config.token_life_s - 1)
        gateway.facts.heard()
        assert gateway.auth.identify(token)
        advance(cloud, 1)
        with pytest.raises(Unauthorized):
            gateway.auth.identify(token)


async def test_a_token_from_the_future_is_believed_as_far_as_clocks_may_differ(with_gateway):
    async with with_gateway() as (cloud, gateway):
        _, _, token = await cloud.member()
        await gateway.sync()
        for behind_s, is_good in ((9, True), (11, False)):
            slow = ManualClock(now_us=cloud.clock.now_us() - behind_s * 1_000_000)
            judge = judge_of(gateway.facts, slow)
            if is_good:
                assert judge.identify(token, None)
            else:
                with pytest.raises(Unauthorized):
                    judge.identify(token, None)


async def test_rotated_keys_reach_the_gateways_and_two_rotations_end_a_token(with_gateway):
    async with with_gateway() as (cloud, gateway):
        user, project, token = await cloud.member()
        cloud.state.keys.rotate()
        assert await gateway.who(token) and await gateway.who(await cloud.login(user, "alice", {"project": {"id": project}}))
        for _ in range(2):
            cloud.state.keys.rotate()
        assert await gateway.who(token) is None


# a gateway that is behind, or cut off

async def test_a_token_that_is_younger_than_the_news_waits_for_them(with_gateway):
    async with with_gateway() as (cloud, gateway):
        _, project, token = await cloud.member()
        with pytest.raises(Behind) as caught:
            gateway.auth.identify(token)
        waiting = asyncio.create_task(caught.value.caught_up())
        await asyncio.sleep(0)
        assert not waiting.done()
        await gateway.sync()
        await waiting
        assert f"AUTH_{project}" in gateway.auth.identify(token).owned


async def test_a_gateway_that_is_cut_off_serves_what_it_knows_for_its_grace_and_then_says_that_it_cannot(with_gateway):
    async with with_gateway(token_life_s=86_400) as (cloud, gateway):
        _, _, token = await cloud.member()
        assert await gateway.who(token)
        gateway.facts.lost()
        advance(cloud, GRACE_S)
        assert gateway.auth.identify(token)
        advance(cloud, 1)
        with pytest.raises(IdentityAway):
            gateway.auth.identify(token)
        with pytest.raises(Unauthorized):            # v1 goes on: this is a judgement, not a 503
            gateway.auth.identify("AUTH_tkAAAA")
        await gateway.sync()
        assert gateway.auth.identify(token)


async def test_what_a_gateway_that_is_cut_off_cannot_know_is_no_refusal(with_gateway):
    async with with_gateway() as (cloud, gateway):
        _, _, token = await cloud.member()
        gateway.facts.lost()
        with pytest.raises(Behind):                  # identity may just be starting again
            gateway.auth.identify(token)
        advance(cloud, 10)
        with pytest.raises(IdentityAway):
            gateway.auth.identify(token)
        with pytest.raises(Unauthorized):
            gateway.auth.identify(token[:-1])


async def test_a_gateway_without_any_news_makes_tokens_wait_and_then_gives_up(with_gateway):
    async with with_gateway(token_life_s=86_400) as (cloud, _):
        _, _, token = await cloud.member()
        empty = Gateway(Feed(cloud.state, transport=TRANSPORT), cloud.clock)
        with pytest.raises(Behind):
            empty.auth.identify(token)
        advance(cloud, GRACE_S + 1)
        with pytest.raises(IdentityAway):
            empty.auth.identify(token)
        empty.auth.close()


# the protocol

async def test_secrets_do_not_travel_in_clear_and_everything_else_does_travel(with_gateway):
    async with with_gateway() as (cloud, gateway):
        user, project, token = await cloud.member()
        made = await cloud.call("POST", f"/v3/users/{user}/credentials/OS-EC2", {"tenant_id": project}, token=token)
        secret = made.body["credential"]["secret"]
        await gateway.sync()
        (fields, body) = await Gateway(gateway.feed, cloud.clock).ask()
        assert fields[3] is True and secret.encode() not in body
        for text in cloud.state.keys.texts:
            assert text.encode() not in body
        ((_, changes),) = unpack_events(body)
        assert {"key", "role", "domain", "project", "user", "s3_key"} <= set(changes) <= set(TABLES)
        (key,) = [record for key, record in changes["s3_key"].items()]
        assert pack_id(project) in key and project.encode() not in body


async def test_nothing_is_sent_twice_and_an_answer_without_news_is_empty(with_gateway, monkeypatch):
    monkeypatch.setattr(feed_module, "FEED_WAIT_S", 0.01)
    async with with_gateway() as (cloud, gateway):
        await cloud.member()
        await gateway.sync()
        position = gateway.position
        await gateway.feed.refresh()
        fields, body = await gateway.ask()
        assert fields == (gateway.epoch, position, 0, False) and unpack_events(body) == []


async def test_a_waiting_gateway_is_told_as_soon_as_something_changed(with_gateway):
    async with with_gateway() as (cloud, gateway):
        await gateway.sync()
        asked = asyncio.create_task(gateway.ask())
        await asyncio.sleep(0)
        role = (await cloud.make("role", name="fresh"))["id"]
        await gateway.feed.refresh()
        _, body = await asked
        assert pack_id(role) in {key for _, changes in unpack_events(body) for key in changes.get("role", ())}


@pytest.mark.parametrize("how", ["other epoch", "too far behind", "ahead"])
async def test_whoever_cannot_be_told_what_changed_takes_a_snapshot(with_gateway, monkeypatch, how):
    monkeypatch.setattr(feed_module, "_EVENTS_MAX", 2)
    async with with_gateway() as (cloud, gateway):
        for number in range(4):
            await cloud.make("role", name=f"r{number}")
            await gateway.feed.refresh()
        if how == "other epoch":
            gateway.epoch = "of another process"
        elif how == "ahead":
            gateway.position += 100
        fields, _ = await gateway.ask()
        assert fields[3] is True
        gateway.epoch = ""
        await gateway.sync()
        assert gateway.facts.generation == cloud.state.generation


async def test_a_snapshot_comes_in_parts_and_a_change_too_large_for_an_answer_as_a_snapshot(with_gateway, monkeypatch):
    async with with_gateway() as (cloud, gateway):
        tokens, _ = await many_tokens(cloud)
        monkeypatch.setattr(feed_module, "_PART_BYTES_MAX", 200)
        await gateway.sync()
        assert gateway.snapshots == 2
        assert await roles_by_gateway(cloud, gateway, tokens["member"]) == await roles_by_identity(cloud, tokens["member"])
        assert gateway.facts.tables == {table: gateway.feed._content[table] for table in TABLES}


async def test_old_revocations_leave_the_gateways(with_gateway):
    async with with_gateway() as (cloud, gateway):
        _, _, token = await cloud.member()
        await cloud.call("DELETE", "/v3/auth/tokens", token=token, X_Subject_Token=token)
        await gateway.sync()
        assert len(gateway.facts.tables["revocation"]) == 1
        advance(cloud, 3 * cloud.state.config.token_life_s)
        await gateway.sync()
        assert not gateway.facts.tables["revocation"]


async def test_the_producer_sees_what_other_processes_changed_and_ends_when_told(with_gateway):
    async with with_gateway() as (cloud, _):
        feed = Feed(cloud.state, transport=TRANSPORT)
        await feed.start()
        try:
            position, news = feed.position, feed._news
            await cloud.make("project", name="r")
            async with asyncio.timeout(30):
                await news.wait()
            assert feed.position > position
        finally:
            await feed.close()


def credentials(name, role, key=b"the key of the cluster"):
    return Credentials(name=name, role=role, fingerprint="f", keys=cluster_keys(key))


async def test_over_tcp_a_reader_has_the_snapshot_then_the_news_and_a_new_snapshot_after_a_restart(with_gateway):
    async with with_gateway() as (cloud, gateway):
        server = RpcServer({OP_FEED: gateway.feed.answer}, credentials=credentials("n/identity", FEED_ROLE))
        port = await server.listen_tcp("127.0.0.1", 0)
        facts = IdentityFacts(cloud.clock)
        reader = FeedReader(facts, tcp_connector("127.0.0.1", port), credentials("n/w0", "worker"), grace_s=GRACE_S)
        reader.start()
        try:
            async with asyncio.timeout(30):
                await facts.reach(gateway.feed.generation, timeout_s=30)
                await cloud.make("project", name="r")
                await gateway.feed.refresh()
                await facts.reach(gateway.feed.generation, timeout_s=30)
                assert facts.generation == gateway.feed.generation and facts.tables == gateway.feed._content
                await cloud.make("project", name="s")
                second = Feed(cloud.state, transport=TRANSPORT)
                await second.refresh()
                server.handlers[OP_FEED] = second.answer               # as after a restart: another epoch
                await gateway.feed.refresh()                           # wakes the reader, which asks again
                await facts.reach(second.generation, timeout_s=30)
                assert facts.tables["project"].keys() == second._content["project"].keys()
        finally:
            await reader.close()
            await server.close()
        assert reader.status()["generation"] == facts.generation


async def test_a_reader_takes_nothing_from_whoever_has_not_the_key_of_the_cluster_or_is_not_identity(with_gateway):
    async with with_gateway() as (cloud, gateway):
        for other in (credentials("n/identity", FEED_ROLE, b"another key"), credentials("n/w1", "worker")):
            server = RpcServer({OP_FEED: gateway.feed.answer}, credentials=other)
            port = await server.listen_tcp("127.0.0.1", 0)
            facts = IdentityFacts(cloud.clock)
            reader = FeedReader(facts, tcp_connector("127.0.0.1", port), credentials("n/w0", "worker"), grace_s=GRACE_S)
            try:
                with pytest.raises(Exception, match=r"key|not identity"):
                    await reader._ask()
                assert not facts.generation and not facts.tables["user"]
            finally:
                await reader.close()
                await server.close()
