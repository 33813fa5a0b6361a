"""Passcodes cannot be guessed: what fails is counted, whatever else was right, and a locked user is locked for all methods."""
from __future__ import annotations

import pytest

from identity.totp import passcode_at

SEED = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"


async def guarded(cloud, *rules):
    """A user with a password, a seed, and these rules of factors."""
    user = (await cloud.make("user", name="alice", password="alice"))["id"]
    await cloud.make("credential", user_id=user, type="totp", blob=SEED)
    if rules:
        options = {"multi_factor_auth_rules": [list(rule) for rule in rules]}
        await cloud.as_admin("PATCH", f"/v3/users/{user}", {"user": {"options": options}})
    return user


def code_now(cloud):
    return passcode_at(SEED, cloud.clock.now_us() // 30_000_000)


def code_wrong(cloud):
    step = cloud.clock.now_us() // 30_000_000
    near = {passcode_at(SEED, one) for one in range(step - 2, step + 3)}
    return next(code for code in ("000000", "111111", "222222", "333333", "444444", "555555") if code not in near)


async def attempt(cloud, user, *, word="alice", code=None, methods=("password", "totp"), scope=None):
    who = {"password": {"user": {"id": user, "password": word}},
           "totp": {"user": {"id": user, "passcode": code or code_now(cloud)}}}
    return (await cloud.try_login({"methods": list(methods), **{one: who[one] for one in methods}}, scope)).status


@pytest.mark.parametrize("methods", [("password", "totp"), ("totp", "password"), ("totp",)])
async def test_wrong_passcodes_lock_a_user_out_although_the_password_is_right(make_cloud, methods):
    async with make_cloud(lockout_failures=3, lockout_s=60) as cloud:
        user = await guarded(cloud, ("password", "totp"))
        for _ in range(3):
            assert await attempt(cloud, user, code=code_wrong(cloud), methods=methods) == 401
        assert await attempt(cloud, user) == 401, "locked"
        assert await attempt(cloud, user, methods=("totp",)) == 401
        cloud.clock.advance(60_000_000)
        assert await attempt(cloud, user) == 201


@pytest.mark.parametrize("methods", [("password",), ("totp",)])
async def test_one_factor_of_two_forgets_no_failure(make_cloud, methods):
    async with make_cloud(lockout_failures=3, lockout_s=60) as cloud:
        user = await guarded(cloud, ("password", "totp"))
        for _ in range(2):
            assert await attempt(cloud, user, code=code_wrong(cloud)) == 401
        assert await attempt(cloud, user, methods=methods) == 401
        assert await attempt(cloud, user) == 401, "that was the third failure"


async def test_each_failed_login_counts_once_and_a_whole_one_forgets_them(make_cloud):
    async with make_cloud(lockout_failures=3, lockout_s=60) as cloud:
        user = await guarded(cloud, ("password", "totp"))
        for _ in range(3):
            for _ in range(2):
                assert await attempt(cloud, user, word="wrong", methods=("totp", "password")) == 401
            assert await attempt(cloud, user) == 201
            cloud.clock.advance(120_000_000)             # a code works once


async def test_a_code_that_is_used_again_counts_as_a_failure(make_cloud):
    async with make_cloud(lockout_failures=2, lockout_s=60) as cloud:
        user = await guarded(cloud)
        used = code_now(cloud)
        assert await attempt(cloud, user, code=used) == 201
        for _ in range(2):
            assert await attempt(cloud, user, code=used) == 401
        assert await attempt(cloud, user, methods=("password",)) == 401


async def test_a_scope_that_is_refused_locks_nobody_out(make_cloud):
    async with make_cloud(lockout_failures=2, lockout_s=60) as cloud:
        user = await guarded(cloud)
        for _ in range(3):
            assert await attempt(cloud, user, methods=("password",), scope={"project": {"id": "nowhere"}}) == 401
        assert await attempt(cloud, user, methods=("password",)) == 201


async def test_a_change_of_the_password_forgets_no_failed_passcode(make_cloud):
    async with make_cloud(lockout_failures=3, lockout_s=60) as cloud:
        user = await guarded(cloud, ("password", "totp"))
        for _ in range(2):
            assert await attempt(cloud, user, code=code_wrong(cloud)) == 401
        body = {"user": {"original_password": "alice", "password": "second"}}
        assert (await cloud.call("POST", f"/v3/users/{user}/password", body)).status == 204
        assert await attempt(cloud, user, word="second", code=code_wrong(cloud)) == 401
        assert await attempt(cloud, user, word="second") == 401, "locked"


@pytest.mark.parametrize("blob", ["", "=", "========", "x", "not base32!", "GEZDGNB1", "\u00e9" * 8, {"seed": SEED}])
async def test_a_seed_that_is_none_is_refused(make_cloud, blob):
    async with make_cloud() as cloud:
        user = (await cloud.make("user", name="alice"))["id"]
        body = {"credential": {"user_id": user, "type": "totp", "blob": blob}}
        assert (await cloud.as_admin("POST", "/v3/credentials", body)).status == 400
        kept = await cloud.make("credential", user_id=user, type="totp", blob=SEED.lower())
        path = f"/v3/credentials/{kept['id']}"
        assert (await cloud.as_admin("PATCH", path, {"credential": {"blob": blob}})).status == 400
        assert (await cloud.as_admin("GET", path)).body["credential"]["blob"] == SEED.lower()


@pytest.mark.parametrize("seed", ["", "=", "x"])
def test_a_seed_that_is_none_has_no_passcode(seed):
    assert passcode_at(seed, 1) is None
