"""`holdfast usage` of a real node: what was asked for is counted once, also over kill -9 and restarts."""
import json
import os
import signal
import socket
from urllib.parse import urlsplit

from tests.e2e.conftest import wait_until


def usage_of(node, *arguments):
    done = node.run("usage", "--data", str(node.root), "--json", *arguments)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["usage"]
    return rows[0] if rows else None


def test_usage_is_what_a_client_did_and_a_stop_loses_none_of_it(make_node):
    node = make_node()
    node.up()
    client = node.login()
    client.call("PUT", "/c")
    for number in range(5):
        assert client.call("PUT", f"/c/o{number}", b"x" * 1000)[0] == 201
    assert client.call("PUT", "/c/large", b"y" * 3_000_000)[0] == 201
    for _ in range(3):
        assert client.call("GET", "/c/o1")[0] == 200
    assert client.call("GET", "/c/large")[0] == 200
    assert client.call("GET", "/c")[0] == 200
    assert client.call("GET", "/c/none")[0] == 404
    assert client.call("DELETE", "/c/o0")[0] == 204
    listed = len(client.call("GET", "/c")[1])
    row = usage_of(node)
    assert row["account"] == "AUTH_demo"
    assert (row["reads"], row["writes"], row["lists"], row["deletes"]) == (5, 7, 2, 1)
    assert row["received_bytes"] == 3_005_000 and 3_003_000 + 2 * listed <= row["sent_bytes"] < 3_005_000
    wait_until(lambda: client.call("HEAD", "/c/o1")[0] == 200 and usage_of(node)["objects"] == 5, "figures of the account")
    held = usage_of(node)
    assert held["stored_bytes"] == 3_004_000 and held["containers"] == 1
    node.down()
    stopped = usage_of(node)
    assert {**stopped, "seen_us": 0} == {**held, "seen_us": 0}
    node.up()
    assert usage_of(node) == stopped
    assert "AUTH_demo" in node.run("usage", "--data", str(node.root)).stdout
    assert usage_of(node, "--account", "AUTH_other") is None and usage_of(node, "--day", "2020-01-01") is None


def test_after_kill_9_of_a_worker_what_was_written_counts_once(make_node):
    node = make_node("--workers", "1")
    node.up()
    client = node.login()
    client.call("PUT", "/c")
    for number in range(4):
        assert client.call("PUT", f"/c/o{number}", b"x" * 100)[0] == 201
    before = usage_of(node)
    pid, = node.pids["workers"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: node.pids["workers"] != [pid], "the worker is there again")
    assert client.call("PUT", "/c/o9", b"x" * 100)[0] == 201
    after = usage_of(node)
    assert after["writes"] == before["writes"] + 1 and after["received_bytes"] == before["received_bytes"] + 100


def test_of_an_upload_that_is_cut_short_what_came_counts_and_not_what_was_announced(make_node):
    node = make_node()
    node.up()
    client = node.login()
    client.call("PUT", "/c")
    url = urlsplit(client.url)
    with socket.create_connection((url.hostname, url.port)) as sock:
        sock.sendall(f"PUT {url.path}/c/short HTTP/1.1\r\nHost: h\r\nX-Auth-Token: {client.token}\r\n"
                     "Content-Length: 5000000000\r\n\r\n".encode() + bytes(100_000))
        sock.shutdown(socket.SHUT_WR)
        assert b" 499 " in sock.recv(4096)
    assert usage_of(node)["received_bytes"] == 100_000
