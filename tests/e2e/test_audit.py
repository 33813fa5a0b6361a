"""The audit log of a real node: who did what, from every worker and the admin API, and no key among it."""
import json
import os
import signal

from tests.e2e.conftest import call, wait_until


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_changes_logins_refusals_and_admin_calls_are_in_one_file_and_no_secret_is(make_node):
    node = make_node()
    node.up()
    client = node.login()
    for number in range(8):                      # on new connections: several workers
        assert client.call("PUT", f"/c{number}")[0] == 201
    assert client.call("PUT", "/c0/o", b"x")[0] == 201
    assert client.call("GET", "/c0/o")[0] == 200
    assert call("GET", f"{client.url}/c0/o")[0] == 401
    demo = node.endpoint["demo"]
    assert call("GET", node.endpoint["urls"]["auth"], **{"X-Auth-User": demo["user"], "X-Auth-Key": "wrong-key"})[0] == 401
    node.status()
    path = node.root / "audit" / "audit.log"
    node.down()
    lines = lines_of(path)
    made = [line for line in lines if line["event"] == "container"]
    assert sorted(line["path"] for line in made) == [f"/v1/AUTH_demo/c{number}" for number in range(8)]
    assert {line["user"] for line in made} == {"demo:demo"} and all(line["request"].startswith("tx") for line in made)
    refused = [line for line in lines if line["status"] == 401]
    # of two workers: the order of lines is that of their threads
    assert sorted((line["event"], line.get("user", "")) for line in refused) == [("login", "demo:demo"), ("object", "")]
    assert all(line["cause"] for line in refused)
    assert [line["path"] for line in lines if line["event"] == "admin"] == ["/admin/v1/status"]
    assert not [line for line in lines if line["event"] == "object" and line["status"] < 400]
    text = path.read_text()
    for secret in (demo["key"], client.token, "wrong-key", (node.root / "secrets" / "admin.key").read_text().strip()):
        assert secret not in text
    assert path.stat().st_mode & 0o777 == 0o640


def test_level_and_file_follow_sighup(make_node, tmp_path):
    config = tmp_path / "holdfast.toml"
    config.write_text("[audit]\nlevel = 'none'\n")
    node = make_node("--config", str(config))
    node.up()
    client = node.login()
    assert client.call("PUT", "/c")[0] == 201
    other = tmp_path / "elsewhere.log"
    config.write_text(f"[audit]\nlevel = 'all'\nfile = '{other}'\n")
    os.kill(node.pids["supervisor"], signal.SIGHUP)
    wait_until(lambda: "configuration loaded again" in node.log(), "a reload")
    assert client.call("GET", "/c")[0] == 204
    wait_until(lambda: [line["method"] for line in lines_of(other) if line["event"] == "container"] == ["GET"], "a line about it")
    assert not (node.root / "audit").exists()
