"""Tokens and logins: what ends a token, who owns what, and keys in their three forms."""
import asyncio
import base64

import pytest

from common.clock import ManualClock
from common.errors import ConfigError, Overloaded, Unauthorized
from common.secrets import hash_key, save_secret
from proxy.auth import User, V1Auth, load_users
from proxy.config import AuthConfig, ResellerRow, UserRow

ALICE = User(account="demo", name="alice", groups=frozenset({".admin"}), key="wonder")
HASH = hash_key("wonder")


def make(users=(ALICE,), clock=None, key=b"k" * 32, **config):
    return V1Auth(users, AuthConfig(**config), token_key=key, clock=clock or ManualClock())


async def token_of(auth, user="demo:alice", key="wonder"):
    return (await auth.login(user, key)).token


async def test_every_worker_with_the_same_secret_takes_the_token_and_no_other():
    token = await token_of(make())
    assert make().identify(token).user_id == "demo:alice"
    with pytest.raises(Unauthorized):
        make(key=b"x" * 32).identify(token)


async def test_a_token_ends_with_its_time_also_when_it_is_remembered():
    clock = ManualClock()
    auth = make(clock=clock, token_life_s=60)
    token = await token_of(auth)
    clock.advance(59_000_000)
    assert auth.identify(token) is not None
    clock.advance(1_000_000)
    with pytest.raises(Unauthorized):
        auth.identify(token)


@pytest.mark.parametrize("users", [
    (), (User(account="demo", name="alice", groups=frozenset(), key="changed"),),
    (User(account="demo", name="alice", groups=frozenset(), key_hash=HASH),)])
async def test_a_token_ends_with_its_user_and_with_its_key(users):
    token = await token_of(make())
    with pytest.raises(Unauthorized):
        make(users).identify(token)


async def test_a_token_follows_the_groups_of_the_present_configuration():
    token = await token_of(make())
    demoted = User(account="demo", name="alice", groups=frozenset({"readers"}), key="wonder")
    identity = make((demoted,)).identify(token)
    assert identity.owned == frozenset() and identity.groups == {"demo", "demo:*", "demo:alice", "readers"}


async def test_what_is_remembered_of_tokens_is_small_whatever_clients_send():
    auth = make()
    token = await token_of(auth)
    for n in range(50):
        assert auth.identify(token, f"{n:0>8000}").user_id == "demo:alice"         # no token of ours: it adds nothing
    assert len(auth._good) == 1 and all(len(name) <= 32 for name in auth._good)
    with pytest.raises(Unauthorized):
        auth.identify(token, "AUTH_tk" + "A" * 2048)
    with pytest.raises(Unauthorized):
        auth.identify("AUTH_tk" + "A" * 2048)
    assert len(auth._good) == 1


async def test_a_token_that_is_remembered_alone_has_no_groups_of_a_service():
    service = User(account="ops", name="svc", groups=frozenset({"service"}), key="x")
    auth = make((ALICE, service))
    token, service_token = await token_of(auth), await token_of(auth, "ops:svc", "x")
    for _ in range(2):
        assert "service" in auth.identify(token, service_token).groups
        assert "service" not in auth.identify(token).groups


async def test_any_changed_byte_of_a_token_is_found():
    auth = make()
    token = await token_of(auth)
    start = token[:len("AUTH_tk")]
    raw = base64.urlsafe_b64decode(token[len(start):] + "==="[:-len(token[len(start):]) % 4])
    for position in range(len(raw)):
        changed = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1:]
        with pytest.raises(Unauthorized):
            auth.identify(start + base64.urlsafe_b64encode(changed).decode().rstrip("="))


async def test_an_admin_owns_the_account_under_every_prefix_that_asks_for_nothing():
    rows = (ResellerRow(prefix="AUTH"), ResellerRow(prefix=""), ResellerRow(prefix="SERVICE_", require_group="service"))
    auth = make(reseller=rows)
    identity = auth.identify(await token_of(auth))
    assert identity.owned == {"AUTH_demo", "demo"} and not identity.is_reseller_admin
    assert [auth.prefix_of(name) for name in ("SERVICE_x", "AUTH_x", "x")] == ["SERVICE_", "AUTH_", ""]
    assert make().prefix_of("x") is None


async def test_a_hashed_key_is_judged_and_a_right_one_is_remembered_for_a_minute(monkeypatch):
    calls = []
    from proxy import auth as module
    real = module.verify_key
    monkeypatch.setattr(module, "verify_key", lambda key, hashed: calls.append(hashed) or real(key, hashed))
    clock = ManualClock()
    auth = make((User(account="demo", name="alice", groups=frozenset(), key_hash=HASH),), clock=clock)
    with pytest.raises(Unauthorized):
        await auth.login("demo:alice", "wrong")
    assert await token_of(auth) and await token_of(auth)
    assert len(calls) == 2
    clock.advance(61_000_000)
    await token_of(auth)
    assert len(calls) == 3
    with pytest.raises(Unauthorized):
        await auth.login("demo:nobody", "wonder")
    assert len(calls) == 4                       # an unknown user costs the same, so its time tells nothing
    auth.close()


async def test_a_flood_of_logins_is_refused_before_it_piles_up():
    auth = make((User(account="demo", name="alice", groups=frozenset(), key_hash=HASH),))
    results = await asyncio.gather(*(auth.login("demo:alice", f"guess {n}") for n in range(40)), return_exceptions=True)
    assert sum(isinstance(result, Overloaded) for result in results) == 8
    assert sum(isinstance(result, Unauthorized) for result in results) == 32
    auth.close()


def test_keys_are_read_from_where_their_rows_say(tmp_path):
    secrets_dir = tmp_path / "secrets"
    save_secret(secrets_dir, "a.key", "from file")
    rows = [UserRow(account="d", user="a", key_file="a.key", groups=("x",)), UserRow(account="d", user="b", key="plain"),
            UserRow(account="d", user="c", key_hash=HASH)]
    users = load_users(rows, secrets_dir)
    assert [(user.id, user.key, user.key_hash) for user in users] == [
        ("d:a", "from file", None), ("d:b", "plain", None), ("d:c", None, HASH)]
    with pytest.raises(ConfigError):
        load_users([UserRow(account="d", user="a", key_file="none.key")], secrets_dir)
