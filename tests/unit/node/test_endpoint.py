"""endpoint.json: addresses that work from this machine, and the demo user only if there is one."""
from __future__ import annotations

from dataclasses import replace

import pytest

from common.address import Address
from common.clock import ManualClock
from common.errors import ConfigError
from node.config import HoldfastConfig
from node.endpoint import load_endpoint, make_endpoint, remove_endpoint, save_endpoint
from node.state import open_state, prepare_directory, with_demo_user
from proxy.config import ResellerRow, TlsConfig, UserRow

CONFIG = HoldfastConfig()


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    root = tmp_path_factory.mktemp("state")
    prepare_directory(root)
    return open_state(root, CONFIG, device_count=1, clock=ManualClock(), say=lambda line: None)


def make(state, config=CONFIG, host="127.0.0.1"):
    return make_endpoint(state, with_demo_user(config), listen=Address(host, 81), admin=Address(host, 82), pids={"supervisor": 1})


@pytest.mark.parametrize(("host", "shown"), [
    ("127.0.0.1", "127.0.0.1"), ("", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"),
    ("10.0.0.1", "10.0.0.1"),
])
def test_urls_can_be_used_on_this_machine(state, host, shown):
    assert make(state, host=host)["urls"] == {
        "swift": f"http://{shown}:81/v1", "auth": f"http://{shown}:81/auth/v1.0", "admin": f"http://{shown}:82"}


def test_the_demo_user_is_there_with_key_and_storage_url(state):
    demo = make(state)["demo"]
    assert demo == {"user": "demo:demo", "key": (state.secret_dir / "demo.key").read_text().strip(),
                    "storage_url": "http://127.0.0.1:81/v1/AUTH_demo"}


@pytest.mark.parametrize(("prefix", "account"), [("AUTH", "AUTH_demo"), ("HF_", "HF_demo"), ("", "demo")])
def test_the_storage_url_has_the_first_reseller_prefix(state, prefix, account):
    config = replace(CONFIG, auth=replace(CONFIG.auth, reseller=(ResellerRow(prefix=prefix),)))
    assert make(state, config)["demo"]["storage_url"].endswith(f"/v1/{account}")


def test_a_store_with_users_of_its_own_tells_nobodys_key(state):
    config = replace(CONFIG, auth=replace(CONFIG.auth, user=(UserRow(account="a", user="b", key="very secret"),)))
    assert "demo" not in make(state, config) and "very secret" not in str(make(state, config))


def test_tls_shows_in_the_urls_of_clients(state):
    made = make(state, replace(CONFIG, tls=TlsConfig(cert="/c.pem", key="/k.pem")))
    assert made["urls"]["swift"].startswith("https://") and made["urls"]["admin"].startswith("http://")


def test_it_is_private_and_goes_with_the_node(tmp_path):
    assert load_endpoint(tmp_path) is None
    save_endpoint(tmp_path, {"urls": {}})
    assert load_endpoint(tmp_path) == {"urls": {}} and (tmp_path / "endpoint.json").stat().st_mode & 0o777 == 0o600
    remove_endpoint(tmp_path)
    remove_endpoint(tmp_path)
    assert load_endpoint(tmp_path) is None


def test_a_damaged_one_is_named(tmp_path):
    (tmp_path / "endpoint.json").write_text("{")
    with pytest.raises(ConfigError) as caught:
        load_endpoint(tmp_path)
    assert caught.value.fields["where"] == str(tmp_path / "endpoint.json")
