"""What a start makes, what it leaves alone, and that the tables are those of the migrations."""
from __future__ import annotations

from dataclasses import replace

import pytest

from common.secrets import hash_key
from control.jobs_model import TABLES
from control.migrate import current_revision, differences, upgrade
from identity.bootstrap import CatalogSeed, UserSeed, bootstrap
from identity.main import MIGRATIONS
from identity.model import metadata


@pytest.fixture
def seed(request):
    return request.config.pluginmanager.getplugin(str(request.path.parent / "conftest.py")).SEED


async def start_again(cloud, seed):
    return await cloud.state.database.run(bootstrap, cloud.state, seed)


async def ids(cloud):
    out = {}
    for kind in ("users", "projects", "roles", "services", "endpoints", "role_assignments"):
        rows = (await cloud.as_admin("GET", f"/v3/{kind}")).body[kind]
        out[kind] = sorted(str(row.get("id") or row["links"]) for row in rows)
    return out


async def test_a_second_start_changes_nothing(make_cloud, seed):
    async with make_cloud() as cloud:
        before = await ids(cloud)
        token = await cloud.login({"name": "demo", "domain": {"id": "default"}}, "demo key", {"project": {"id": "demo"}})
        await start_again(cloud, seed)
        assert await ids(cloud) == before
        assert (await cloud.call("GET", "/v3/auth/catalog", token=token)).status == 200


async def test_an_account_is_a_project_of_that_id_and_its_users_are_there(make_cloud):
    async with make_cloud() as cloud:
        token = await cloud.login({"name": "demo", "domain": {"id": "default"}}, "demo key", {"project": {"id": "demo"}})
        catalog = (await cloud.call("GET", "/v3/auth/catalog", token=token)).body["catalog"]
        url = next(service["endpoints"][0]["url"] for service in catalog if service["type"] == "object-store")
        assert url.endswith("/v1/AUTH_demo")
        await cloud.login({"name": "acme:bob", "domain": {"id": "default"}}, "bob's key")
        identity = {"methods": ["password"], "password": {"user": {"name": "acme:bob", "domain": {"id": "default"},
                                                                   "password": "bob's key"}}}
        assert (await cloud.try_login(identity, {"project": {"id": "acme"}})).status == 401, "no role: he is no administrator"


async def test_a_new_key_in_the_configuration_is_the_new_password_and_ends_old_tokens(make_cloud, seed):
    async with make_cloud() as cloud:
        demo = {"name": "demo", "domain": {"id": "default"}}
        token = await cloud.login(demo, "demo key", {"project": {"id": "demo"}})
        await start_again(cloud, replace(seed, users=(replace(seed.users[0], key="another"), seed.users[1])))
        assert (await cloud.call("GET", "/v3/auth/catalog", token=token)).status == 401
        await cloud.login(demo, "another", {"project": {"id": "demo"}})


async def test_a_password_changed_by_its_user_outlives_a_start(make_cloud, seed):
    async with make_cloud() as cloud:
        demo = (await cloud.as_admin("GET", "/v3/users?name=demo")).body["users"][0]["id"]
        body = {"user": {"original_password": "demo key", "password": "chosen"}}
        assert (await cloud.call("POST", f"/v3/users/{demo}/password", body)).status == 204
        await start_again(cloud, seed)
        await cloud.login(demo, "chosen", {"project": {"id": "demo"}})


async def test_who_left_the_configuration_is_shut_out_and_comes_back_with_it(make_cloud, seed):
    async with make_cloud() as cloud:
        demo = {"name": "demo", "domain": {"id": "default"}}
        token = await cloud.login(demo, "demo key", {"project": {"id": "demo"}})
        await start_again(cloud, replace(seed, users=seed.users[1:]))
        assert (await cloud.call("GET", "/v3/auth/projects", token=token)).status == 401
        identity = {"methods": ["password"], "password": {"user": {**demo, "password": "demo key"}}}
        assert (await cloud.try_login(identity)).status == 401
        await start_again(cloud, seed)
        await cloud.login(demo, "demo key", {"project": {"id": "demo"}})


async def test_who_is_no_administrator_any_more_loses_the_role(make_cloud, seed):
    async with make_cloud() as cloud:
        token = await cloud.login({"name": "demo", "domain": {"id": "default"}}, "demo key", {"project": {"id": "demo"}})
        await start_again(cloud, replace(seed, users=(replace(seed.users[0], is_admin=False), seed.users[1])))
        assert (await cloud.call("GET", "/v3/auth/catalog", token=token)).status == 401


async def test_hashed_keys_of_the_configuration_work_as_passwords(make_cloud, seed):
    async with make_cloud() as cloud:
        user = UserSeed(account="zoo", name="ann", key=None, key_hash=hash_key("ann's"), is_admin=True)
        await start_again(cloud, replace(seed, users=(*seed.users, user)))
        await cloud.login({"name": "zoo:ann", "domain": {"id": "default"}}, "ann's", {"project": {"id": "zoo"}})


async def test_an_account_named_like_something_of_ours_does_not_become_it(make_cloud, seed):
    async with make_cloud() as cloud:
        user = UserSeed(account="admin", name="admin", key="mine", key_hash=None, is_admin=True)
        await start_again(cloud, replace(seed, users=(*seed.users, user)))
        token = await cloud.login({"name": "admin:admin", "domain": {"id": "default"}}, "mine", {"project": {"id": "admin"}})
        assert (await cloud.call("GET", "/v3/users", token=token)).status == 403
        await cloud.login({"name": "admin", "domain": {"id": "default"}}, "of the administrator",
                          {"project": {"name": "admin", "domain": {"id": "default"}}})


DEFAULT = {"id": "default"}


def with_user(seed, account, name, key="k"):
    return replace(seed, users=(*seed.users, UserSeed(account=account, name=name, key=key, key_hash=None, is_admin=True)))


@pytest.mark.parametrize(("account", "login"), [("bob", "bob"), ("newacct", "newacct:bob")])
async def test_a_user_that_has_the_login_of_one_of_the_configuration_keeps_it(make_cloud, seed, account, login):
    async with make_cloud() as cloud:
        made = await cloud.make("user", name=login, password="of the API")
        more = with_user(with_user(seed, account, "bob"), account, "ann")
        (collision,) = await start_again(cloud, more)
        assert f"{account}:bob" in collision.text and made["id"] in collision.text and "rename or delete" in collision.advice
        assert await cloud.login(made["id"], "of the API")
        await cloud.login({"name": f"{account}:ann", "domain": DEFAULT}, "k", {"project": {"id": account}})
        rows = (await cloud.as_admin("GET", f"/v3/role_assignments?user.id={made['id']}")).body["role_assignments"]
        assert rows == []
        assert (await cloud.as_admin("PATCH", f"/v3/users/{made['id']}", {"user": {"name": "other"}})).status == 200
        assert await start_again(cloud, more) == ()
        await cloud.login({"name": login, "domain": DEFAULT}, "k", {"project": {"id": account}})


async def test_a_project_that_has_the_name_of_an_account_keeps_it_and_the_account_has_its_own(make_cloud, seed):
    async with make_cloud() as cloud:
        squatted = [(await cloud.make("project", name=name))["id"] for name in ("newacct", "newacct (account)")]
        more = with_user(seed, "newacct", "alice")
        for _ in range(2):                               # at every start, as long as it is so
            (collision,) = await start_again(cloud, more)
            assert squatted[0] in collision.text and "openstack project set" in collision.advice
        alice = {"name": "newacct:alice", "domain": DEFAULT}
        token = await cloud.login(alice, "k", {"project": {"id": "newacct"}})
        catalog = (await cloud.call("GET", "/v3/auth/catalog", token=token)).body["catalog"]
        assert any(one["url"].endswith("AUTH_newacct") for row in catalog for one in row["endpoints"])
        identity = {"methods": ["password"], "password": {"user": {**alice, "password": "k"}}}
        assert (await cloud.try_login(identity, {"project": {"id": squatted[0]}})).status == 401
        for project_id in squatted:
            assert (await cloud.as_admin("DELETE", f"/v3/projects/{project_id}")).status == 204
        assert await start_again(cloud, more) == ()


@pytest.mark.parametrize("kind", ["project", "domain"])
async def test_whoever_administers_an_account_does_not_come_to_administer_what_has_its_id(make_cloud, seed, kind):
    async with make_cloud() as cloud:
        made = (await cloud.make(kind, name="of the API"))["id"]
        (collision,) = await start_again(cloud, with_user(seed, made, "alice"))
        assert made in collision.text and "v1 only" in collision.advice
        rows = (await cloud.as_admin("GET", f"/v3/role_assignments?scope.{kind}.id={made}")).body["role_assignments"]
        assert rows == []


async def test_the_catalog_follows_the_listeners_but_not_over_an_administrators_word(make_cloud, seed):
    async with make_cloud() as cloud:
        rows = (await cloud.as_admin("GET", "/v3/endpoints")).body["endpoints"]
        mine = next(row for row in rows if row["interface"] == "internal" and "AUTH" in row["url"])
        body = {"endpoint": {"url": "http://inside/v1/AUTH_%(project_id)s", "managed_by": "me"}}
        assert (await cloud.as_admin("PATCH", f"/v3/endpoints/{mine['id']}", body)).status == 200
        await start_again(cloud,
                          replace(seed,
                                  catalog=(CatalogSeed(type="object-store", name="x", url="http://moved/AUTH_%(project_id)s"),)))
        urls = {row["interface"]: row["url"] for row in (await cloud.as_admin("GET", "/v3/endpoints")).body["endpoints"]
                if "AUTH" in row["url"]}
        assert urls["public"] == "http://moved/AUTH_%(project_id)s" and urls["internal"].startswith("http://inside")


async def test_the_tables_are_those_of_the_migrations(make_cloud):
    async with make_cloud() as cloud:
        with cloud.state.database.engine.begin() as connection:
            assert differences(connection, metadata, service="identity", beside=TABLES) == []
            upgrade(connection, MIGRATIONS, service="identity")
            assert current_revision(connection, service="identity") == "0002"


async def test_a_missing_column_is_a_difference(make_cloud):
    async with make_cloud() as cloud:
        with cloud.state.database.engine.connect() as connection:               # rolled back: other tests use these tables
            connection.exec_driver_sql("ALTER TABLE region DROP COLUMN description")
            assert differences(connection, metadata, service="identity", beside=TABLES) != []


async def test_a_database_of_a_newer_version_is_refused(make_cloud):
    from common.errors import ConfigError

    async with make_cloud() as cloud:
        with cloud.state.database.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE identity_revision SET version_num = '9999'")
            with pytest.raises(ConfigError, match="newer"):
                upgrade(connection, MIGRATIONS, service="identity")
