"""The administrator that a start makes is known by its id: its name makes nobody one, and it stays one under any name."""
from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import delete, select, update

from identity.bootstrap import bootstrap, find_admin
from identity.model import counter, user
from identity.totp import passcode_at

SEED32 = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
SYSTEM = {"system": {"all": True}}


@pytest.fixture
def seed(request):
    return request.config.pluginmanager.getplugin(str(request.path.parent / "conftest.py")).SEED


async def start_again(cloud, seed):
    return await cloud.state.database.run(bootstrap, cloud.state, seed)


async def named_admin(cloud):
    return [row["id"] for row in (await cloud.as_admin("GET", "/v3/users?name=admin")).body["users"]]


async def roles_of(cloud, user_id):
    return (await cloud.as_admin("GET", f"/v3/role_assignments?user.id={user_id}")).body["role_assignments"]


async def second(cloud):
    """Another administrator, of the system; from now on the one that the cloud acts as."""
    boss = (await cloud.make("user", name="boss", password="boss"))["id"]
    path = f"/v3/system/users/{boss}/roles/{await cloud.role('admin')}"
    assert (await cloud.as_admin("PUT", path)).status == 204
    cloud.admin = await cloud.login(boss, "boss", SYSTEM)


async def manager(cloud):
    """A token of a manager of the default domain."""
    made = (await cloud.make("user", name="manager", password="manager"))["id"]
    await cloud.grant(made, "manager", domain="default")
    return await cloud.login(made, "manager", {"domain": {"id": "default"}})


async def plant_seed(cloud, user_id, password):
    token = await cloud.login(user_id, password)
    body = {"credential": {"type": "totp", "blob": SEED32}}
    assert (await cloud.call("POST", "/v3/credentials", body, token=token)).status == 201


async def try_code(cloud, user_id):
    code = passcode_at(SEED32, cloud.clock.now_us() // 30_000_000)
    return (await cloud.try_login({"methods": ["totp"], "totp": {"user": {"id": user_id, "passcode": code}}}, SYSTEM)).status


async def forget_mark(cloud):
    """As a database of 0.3.0 is."""
    await cloud.state.database.run(lambda connection: connection.execute(
        delete(counter).where(counter.c.name.startswith("administrator:"))))


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("way", ["made", "renamed", "of the configuration"])
async def test_who_takes_the_name_of_a_deleted_administrator_gets_no_role(make_cloud, seed, way, is_old):
    async with make_cloud() as cloud:
        await second(cloud)
        (one,) = await named_admin(cloud)
        assert (await cloud.as_admin("DELETE", f"/v3/users/{one}")).status == 204
        token = await manager(cloud)
        if way == "made":
            other = (await cloud.make("user", token=token, name="admin", password="evil"))["id"]
        else:
            name = "acme:bob" if way == "of the configuration" else (await cloud.make("user", name="x", password="evil"))["name"]
            other = (await cloud.as_admin("GET", f"/v3/users?name={name}")).body["users"][0]["id"]
            body = {"user": {"name": "admin", "password": "evil"}}
            assert (await cloud.call("PATCH", f"/v3/users/{other}", body, token=token)).status == 200
        await plant_seed(cloud, other, "evil")
        if is_old:
            await forget_mark(cloud)
        for _ in range(2):
            (collision,) = await start_again(cloud, seed)
            assert other in collision.text and "rename or delete" in collision.advice
        assert await roles_of(cloud, other) == [] and await try_code(cloud, other) == 401
        await cloud.login(other, "evil")


async def test_once_the_name_is_free_again_a_start_makes_the_administrator(make_cloud, seed):
    async with make_cloud() as cloud:
        await second(cloud)
        (one,) = await named_admin(cloud)
        assert (await cloud.as_admin("DELETE", f"/v3/users/{one}")).status == 204
        other = (await cloud.make("user", name="admin"))["id"]
        assert len(await start_again(cloud, seed)) == 1
        assert (await cloud.as_admin("PATCH", f"/v3/users/{other}", {"user": {"name": "other"}})).status == 200
        assert await start_again(cloud, seed) == ()
        made = {"name": "admin", "domain": {"id": "default"}}
        await cloud.login(made, seed.admin_password, SYSTEM)
        assert await roles_of(cloud, other) == []


@pytest.mark.parametrize("is_old", [False, True])
async def test_a_renamed_administrator_stays_the_one_and_no_second_is_made(make_cloud, seed, is_old):
    async with make_cloud() as cloud:
        (one,) = await named_admin(cloud)
        assert (await cloud.as_admin("PATCH", f"/v3/users/{one}", {"user": {"name": "root"}})).status == 200
        if is_old:
            await forget_mark(cloud)
        assert await start_again(cloud, seed) == ()
        assert await named_admin(cloud) == []
        await cloud.login(one, seed.admin_password, SYSTEM)
        await start_again(cloud, replace(seed, admin_password="another"))
        await cloud.login(one, "another", SYSTEM)


async def test_the_administrator_of_an_older_version_is_adopted(make_cloud, seed):
    async with make_cloud() as cloud:
        await second(cloud)
        (one,) = await named_admin(cloud)
        await forget_mark(cloud)
        await start_again(cloud, replace(seed, admin_password="changed beside the upgrade"))
        assert await cloud.state.database.read(find_admin) == one
        await cloud.login(one, "changed beside the upgrade", SYSTEM)


@pytest.mark.parametrize("has_seed", [False, True])
async def test_rules_that_locked_everybody_out_end_with_a_new_password_and_others_do_not(make_cloud, seed, has_seed):
    async with make_cloud() as cloud:
        (one,) = await named_admin(cloud)
        if has_seed:
            await plant_seed(cloud, one, seed.admin_password)
        options = {"multi_factor_auth_rules": [["password", "totp"]]}
        await cloud.state.database.run(lambda connection: connection.execute(
            update(user).where(user.c.id == one).values(options=options)))
        await start_again(cloud, seed)
        assert await options_of(cloud, one) == options, "a start alone ends none"
        await start_again(cloud, replace(seed, admin_password="another"))
        assert await options_of(cloud, one) == (options if has_seed else {})


async def options_of(cloud, user_id):
    return await cloud.state.database.read(lambda connection: connection.execute(
        select(user.c.options).where(user.c.id == user_id)).scalar_one())


@pytest.mark.parametrize("lacks", ["the role", "the print of a start"])
async def test_a_user_called_admin_that_no_start_made_administrator_is_not_adopted(make_cloud, seed, lacks):
    async with make_cloud() as cloud:
        await second(cloud)
        (one,) = await named_admin(cloud)
        await forget_mark(cloud)
        if lacks == "the role":
            assert (await cloud.as_admin("DELETE", f"/v3/system/users/{one}/roles/{await cloud.role('admin')}")).status == 204
        else:
            await cloud.state.database.run(lambda connection: connection.execute(
                update(user).where(user.c.id == one).values(source_print=None)))
        before = await roles_of(cloud, one)
        (collision,) = await start_again(cloud, seed)
        assert one in collision.text and await roles_of(cloud, one) == before


async def test_an_administrator_that_lost_the_role_gets_it_back_with_a_new_password_only(make_cloud, seed):
    async with make_cloud() as cloud:
        await second(cloud)
        (one,) = await named_admin(cloud)
        role = await cloud.role("admin")
        project = (await cloud.as_admin("GET", "/v3/projects?name=admin")).body["projects"][0]["id"]
        for place in ("system", "domains/default", f"projects/{project}"):
            assert (await cloud.as_admin("DELETE", f"/v3/{place}/users/{one}/roles/{role}")).status == 204
        token = await manager(cloud)
        assert (await cloud.call("PATCH", f"/v3/users/{one}", {"user": {"password": "evil"}}, token=token)).status == 200
        await plant_seed(cloud, one, "evil")
        assert await start_again(cloud, seed) == ()
        assert await roles_of(cloud, one) == [] and await try_code(cloud, one) == 401
        await start_again(cloud, replace(seed, admin_password="another"))
        assert await try_code(cloud, one) == 401, "what was planted meanwhile is gone"
        await cloud.login(one, "another", SYSTEM)
