"""Keys rotate without refusing a token; what a crash leaves works."""
from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from common.errors import ConfigError, Corruption
from identity.keys import KeySet


def test_what_was_sealed_is_opened_by_as_many_rotations_as_keys_are_kept(tmp_path):
    keys = KeySet(tmp_path / "keys", kept=3)
    sealed = keys.seal(b"hello")
    keys.rotate()
    assert keys.open(sealed) == b"hello"
    keys.rotate()
    assert keys.open(sealed) is None and len(list((tmp_path / "keys").iterdir())) == 3


def test_a_process_that_has_not_read_the_new_keys_opens_what_the_new_primary_sealed(tmp_path):
    one, other = KeySet(tmp_path / "keys"), KeySet(tmp_path / "keys")
    one.rotate()
    assert other.open(one.seal(b"new")) == b"new" and one.open(other.seal(b"old")) == b"old"


def test_a_process_follows_what_another_one_rotated(tmp_path):
    one, other = KeySet(tmp_path / "keys"), KeySet(tmp_path / "keys")
    for _ in range(3):
        one.rotate()
        other.follow()
    assert other.open(one.seal(b"new")) == b"new"


def test_a_directory_is_used_again_and_is_private(tmp_path):
    sealed = KeySet(tmp_path / "keys").seal(b"x")
    assert KeySet(tmp_path / "keys").open(sealed) == b"x"
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "keys", *(tmp_path / "keys").iterdir()))


def test_keys_that_are_gone_damaged_or_open_to_others_stop_the_start(tmp_path):
    KeySet(tmp_path / "keys")
    (tmp_path / "keys" / "1").unlink()
    with pytest.raises(ConfigError):
        KeySet(tmp_path / "keys")
    KeySet(tmp_path / "other")
    (tmp_path / "other" / "1").write_text("no key")
    with pytest.raises(ConfigError):
        KeySet(tmp_path / "other")
    KeySet(tmp_path / "third")
    (tmp_path / "third" / "1").chmod(0o644)
    with pytest.raises(ConfigError):
        KeySet(tmp_path / "third")


def test_a_column_whose_key_is_gone_is_told_as_damage(tmp_path):
    sealed = KeySet(tmp_path / "one").seal_text("secret")
    with pytest.raises(Corruption):
        KeySet(tmp_path / "two").open_text(sealed)


async def test_tokens_outlive_a_rotation(make_cloud):
    async with make_cloud() as cloud:
        _, _, token = await cloud.member()
        cloud.state.keys.rotate()
        assert (await cloud.call("GET", "/v3/auth/projects", token=token)).status == 200


async def test_a_token_that_was_seen_ends_with_its_key(make_cloud):
    async with make_cloud() as cloud:
        _, _, token = await cloud.member()
        assert (await cloud.call("GET", "/v3/auth/projects", token=token)).status == 200
        cloud.state.keys.rotate()
        assert (await cloud.call("GET", "/v3/auth/projects", token=token)).status == 200
        cloud.state.keys.rotate()
        assert (await cloud.call("GET", "/v3/auth/projects", token=token)).status == 401


async def test_a_token_that_was_seen_ends_with_its_key_when_another_process_dropped_that(make_cloud):
    async with make_cloud() as cloud:
        _, _, token = await cloud.member()
        assert (await cloud.call("GET", "/v3/auth/projects", token=token)).status == 200
        other = KeySet(cloud.state.keys._directory)
        for _ in range(2):
            other.rotate()
        cloud.state.keys.follow()
        assert (await cloud.call("GET", "/v3/auth/projects", token=token)).status == 401


async def test_a_token_whose_key_is_dropped_while_it_is_looked_up_is_not_remembered(make_cloud, monkeypatch):
    async with make_cloud() as cloud:
        _, _, token = await cloud.member()
        read = cloud.state.database.read

        async def read_slowly(*arguments):
            found = await read(*arguments)
            monkeypatch.undo()
            for _ in range(2):
                cloud.state.keys.rotate()
            return found

        cloud.state.forget_contexts()
        monkeypatch.setattr(cloud.state.database, "read", read_slowly)
        await cloud.call("GET", "/v3/auth/projects", token=token)
        assert (await cloud.call("GET", "/v3/auth/projects", token=token)).status == 401


def test_what_a_leaked_directory_could_seal_is_refused_after_three_rotations(tmp_path):
    keys = KeySet(tmp_path / "keys")
    leaked = [Fernet(text).encrypt(b"forged") for text in keys.texts]
    for _ in range(2):
        keys.rotate()
    assert [keys.open(sealed) for sealed in leaked] == [None, b"forged"]
    keys.rotate()
    assert [keys.open(sealed) for sealed in leaked] == [None, None]
