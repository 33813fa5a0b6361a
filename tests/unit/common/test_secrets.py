"""Secrets on disk and hashed keys."""
from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.errors import ConfigError
from common.secrets import hash_key, load_or_create_secret, load_secret, same_secret, save_secret, verify_key


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_secret_is_made_once_private_and_stays(tmp_path):
    directory = tmp_path / "secrets"
    secret = load_or_create_secret(directory, "admin.key", byte_count=16)
    assert len(bytes.fromhex(secret)) == 16
    assert load_or_create_secret(directory, "admin.key") == secret
    assert (mode(directory), mode(directory / "admin.key")) == (0o700, 0o600)
    assert [path.name for path in directory.iterdir()] == ["admin.key"]


def test_two_secrets_differ(tmp_path):
    assert load_or_create_secret(tmp_path / "s", "a") != load_or_create_secret(tmp_path / "s", "b")


def test_all_who_create_at_once_get_the_same_secret(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: load_or_create_secret(tmp_path / "s", "k"), range(64)))
    assert len(found) == 1


def test_a_secret_that_others_can_read_is_refused(tmp_path):
    load_or_create_secret(tmp_path / "s", "k")
    (tmp_path / "s/k").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_or_create_secret(tmp_path / "s", "k")
    (tmp_path / "s/k").chmod(0o600)
    (tmp_path / "s").chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        load_or_create_secret(tmp_path / "s", "k")


def test_an_empty_or_missing_secret_is_refused(tmp_path):
    path = save_secret(tmp_path / "s", "k", "")
    for wrong in (path, path.with_name("none")):
        with pytest.raises(ConfigError):
            load_secret(wrong)


def test_a_saved_secret_replaces_the_old_one(tmp_path):
    save_secret(tmp_path / "s", "k", "one")
    path = save_secret(tmp_path / "s", "k", "two")
    assert load_secret(path) == "two" and mode(path) == 0o600


@pytest.mark.parametrize("key", ["testing", "", "grüße", "\udcff", "x" * 4096])
def test_a_hashed_key_accepts_that_key_and_no_other(key):
    hashed = hash_key(key)
    assert verify_key(key, hashed)
    assert not verify_key(key + "x", hashed)
    assert hash_key(key) != hashed


@pytest.mark.parametrize("hashed", ["", "plain", "md5$1$2$3$4$5", "scrypt$x$8$1$YQ==$YQ==", "scrypt$16384$8$1$!!$YQ==",
                                    "scrypt$1073741824$8$1$YQ==$YQ==", "scrypt$0$8$1$YQ==$YQ==", "scrypt$-2$-8$1$YQ==$YQ=="])
def test_what_is_no_hash_is_refused(hashed):
    with pytest.raises(ConfigError):
        verify_key("k", hashed)


def test_secrets_are_compared_whole():
    assert same_secret("a", "a")
    assert not same_secret("a", "ab")
    assert not same_secret("\udcff", "a")
