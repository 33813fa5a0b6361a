"""Lockout holds against many guesses at once, and lets those through that know the password."""
from __future__ import annotations

import asyncio

import pytest

from common.errors import Overloaded
from identity.attempts import WAITING_MAX, Attempts
from identity.base import find_row
from identity.model import user as user_table
from identity.totp import passcode_at

SEED = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"


def by_password(user, word):
    return {"methods": ["password"], "password": {"user": {"id": user, "password": word}}}


def by_code(user, code):
    return {"methods": ["totp"], "totp": {"user": {"id": user, "passcode": code}}}


async def failures_of(cloud, user):
    return (await cloud.state.database.read(lambda connection: find_row(connection, user_table, user))).failed_count


@pytest.mark.parametrize("earlier", [0, 2])
async def test_of_many_guesses_at_once_no_more_are_tried_than_failures_are_left(make_cloud, earlier):
    async with make_cloud(lockout_failures=3, lockout_s=60) as cloud:
        user = (await cloud.make("user", name="alice", password="alice"))["id"]
        for _ in range(earlier):
            await cloud.try_login(by_password(user, "wrong"))
        answers = await asyncio.gather(*(cloud.try_login(by_password(user, f"guess {number}")) for number in range(20)))
        assert [answer.status for answer in answers] == [401] * 20
        assert await failures_of(cloud, user) == 3, "one by one, each was counted before the next was tried"
        assert (await cloud.try_login(by_password(user, "alice"))).status == 401


async def test_guesses_that_find_the_lockout_over_are_counted_from_one(make_cloud):
    async with make_cloud(lockout_failures=3, lockout_s=60) as cloud:
        user = (await cloud.make("user", name="alice", password="alice"))["id"]
        for _ in range(3):
            await cloud.try_login(by_password(user, "wrong"))
        cloud.clock.advance(60_000_000)
        await asyncio.gather(*(cloud.try_login(by_password(user, "wrong")) for _ in range(10)))
        assert await failures_of(cloud, user) == 3
        assert (await cloud.try_login(by_password(user, "alice"))).status == 401


async def test_passcodes_and_changes_of_the_password_are_tries_like_any(make_cloud):
    async with make_cloud(lockout_failures=3, lockout_s=60) as cloud:
        user = (await cloud.make("user", name="alice", password="alice"))["id"]
        await cloud.make("credential", user_id=user, type="totp", blob=SEED)
        step = cloud.clock.now_us() // 30_000_000
        wrong = next(f"{n:06}" for n in range(10) if f"{n:06}" not in [passcode_at(SEED, step + d) for d in (-1, 0, 1)])
        change = {"user": {"original_password": "wrong", "password": "mine"}}
        await asyncio.gather(*(cloud.try_login(by_code(user, wrong)) for _ in range(5)),
                             *(cloud.call("POST", f"/v3/users/{user}/password", change) for _ in range(5)))
        assert await failures_of(cloud, user) == 3


@pytest.mark.parametrize("earlier", [0, 2])
async def test_many_logins_with_the_right_password_at_once_all_succeed(make_cloud, earlier):
    async with make_cloud(lockout_failures=3, lockout_s=60) as cloud:
        user = (await cloud.make("user", name="alice", password="alice"))["id"]
        for _ in range(earlier):
            await cloud.try_login(by_password(user, "wrong"))
        answers = await asyncio.gather(*(cloud.try_login(by_password(user, "alice")) for _ in range(12)))
        assert [answer.status for answer in answers] == [201] * 12
        assert not cloud.state.attempts._users


async def test_a_login_that_names_two_users_holds_up_neither(make_cloud):
    async with make_cloud(lockout_failures=1, lockout_s=60) as cloud:
        one, two = [(await cloud.make("user", name=name, password=name))["id"] for name in ("one", "two")]
        both = [{**by_password(a, "x"), **by_code(b, "000000"), "methods": ["password", "totp"]}
                for a, b in ((one, two), (two, one))]
        async with asyncio.timeout(20):
            answers = await asyncio.gather(*(cloud.try_login(body) for body in both * 5))
        assert {answer.status for answer in answers} == {401} and not cloud.state.attempts._users


async def test_without_lockout_nobody_waits(make_cloud):
    async with make_cloud(lockout_failures=0) as cloud:
        user = (await cloud.make("user", name="alice", password="alice"))["id"]
        await asyncio.gather(*(cloud.try_login(by_password(user, "wrong")) for _ in range(6)))
        assert (await cloud.try_login(by_password(user, "alice"))).status == 201


async def test_who_waits_is_bounded_and_a_try_that_breaks_off_leaves_no_place_behind():
    attempts = Attempts()

    async def look():
        return 1

    assert await attempts.begin("u", look, lambda left: left) == 1
    waiting = [asyncio.create_task(attempts.begin("u", look, lambda left: left)) for _ in range(WAITING_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await attempts.begin("u", look, lambda left: left)
    for task in waiting[1:]:
        task.cancel()
    await asyncio.wait(waiting[1:])
    attempts.end("u")
    assert await waiting[0] == 1
    attempts.end("u")
    assert not attempts._users


async def test_a_try_that_ends_during_the_look_of_another_is_not_overlooked():
    attempts, failures, again = Attempts(), [0], asyncio.Event()

    async def stale_look():
        seen = failures[0]
        if seen:
            again.set()
        if not failures[0]:                      # the first look is slow: meanwhile the other try fails and is counted
            failures[0] = 1
            attempts.end("u")
        return 1 - seen

    await attempts.begin("u", lambda: asyncio.sleep(0, 1), lambda left: left)
    task = asyncio.create_task(attempts.begin("u", stale_look, lambda left: left))
    await asyncio.wait_for(again.wait(), 30)
    await asyncio.sleep(0)                       # its turn after that look: to begin, or to wait on
    assert not task.done(), "it looked again, and no failure is left"
    task.cancel()
    await asyncio.wait([task])


async def test_a_passcode_of_nobody_takes_the_same_steps_as_a_wrong_one(make_cloud):
    async with make_cloud(lockout_failures=3, lockout_s=60) as cloud:
        without = (await cloud.make("user", name="without"))["id"]
        guarded = (await cloud.make("user", name="with"))["id"]
        await cloud.make("credential", user_id=guarded, type="totp", blob=SEED)
        opened, open_text = [], cloud.state.vault.open_text
        cloud.state.vault.open_text = lambda sealed: opened.append(sealed) or open_text(sealed)
        for user in ("nobody", without, guarded):
            opened.clear()
            assert (await cloud.try_login(by_code(user, "no code"))).status == 401
            assert len(opened) == 1, user
        decoy = passcode_at("A" * 32, cloud.clock.now_us() // 30_000_000)
        assert (await cloud.try_login(by_code(without, decoy))).status == 401


async def test_an_administrator_unlocks_a_user_by_enabling_it(make_cloud):
    async with make_cloud(lockout_failures=3, lockout_s=60) as cloud:
        user = (await cloud.make("user", name="alice", password="alice"))["id"]
        for _ in range(3):
            await cloud.try_login(by_password(user, "wrong"))
        assert (await cloud.as_admin("PATCH", f"/v3/users/{user}", {"user": {"description": "x"}})).status == 200
        assert (await cloud.try_login(by_password(user, "alice"))).status == 401
        assert (await cloud.as_admin("PATCH", f"/v3/users/{user}", {"user": {"enabled": True}})).status == 200
        assert (await cloud.try_login(by_password(user, "alice"))).status == 201
        assert await failures_of(cloud, user) == 0
