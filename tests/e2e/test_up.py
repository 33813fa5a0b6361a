"""The real thing: up, down, status, restarts, and what is left when a process is killed."""
from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

BODY = os.urandom(100_000)


# of conftest.py, which importlib mode does not let us import by name
@pytest.fixture
def tools(request):
    return request.config.pluginmanager.getplugin(str(request.path.parent / "conftest.py"))


def store(node, name="o", body=b"hello"):
    client = node.login()
    assert client.call("PUT", "/c")[0] in (201, 202)
    assert client.call("PUT", f"/c/{name}", body)[0] == 201
    return client


def test_an_object_can_be_stored_fetched_listed_and_deleted(cluster):
    client = store(cluster, "dir/%C3%A4%20b", BODY)
    assert client.call("GET", "/c/dir/%C3%A4%20b") == (200, BODY)
    assert client.call("GET", "/c") == (200, "dir/ä b\n".encode())
    assert client.call("DELETE", "/c/dir/%C3%A4%20b")[0] == 204
    assert client.call("DELETE", "/c")[0] == 204


def test_the_lines_of_the_ready_message_work_as_they_are(make_node):
    node = make_node()
    lines = {line.split(":", 1)[0].strip(): line.split(":", 1)[1].strip() for line in node.up().splitlines() if ":" in line}
    done = subprocess.run(["sh", "-c", lines["curl"]], capture_output=True, text=True, timeout=60, check=True)
    assert " 204 " in done.stdout.splitlines()[0] and "X-Account-Container-Count: 0" in done.stdout
    assert node.endpoint["demo"]["key"] not in lines["curl"] + lines["swift"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", lines["swift"]], env={**os.environ, "PATH": path}, capture_output=True, text=True,
                          timeout=60, check=True)
    assert "Account: AUTH_demo" in done.stdout


def test_status_has_every_device_and_worker_and_says_that_one_disk_holds_all(cluster):
    facts = cluster.status()
    assert [device["name"] for device in facts["devices"]] == ["d1", "d2", "d3"]
    assert {device["state"] for device in facts["devices"]} == {"ok"} and facts["is_healthy"]
    assert [worker["pid"] for worker in facts["workers"]] == cluster.pids["workers"]
    assert any("share one disk" in finding["text"] for finding in facts["findings"])
    done = cluster.run("status", "--data", str(cluster.root))
    assert done.returncode == 0 and "all replicas share one disk" in done.stdout


def test_the_admin_api_wants_its_key_and_metrics_and_health_do_not(cluster):
    admin = cluster.endpoint["urls"]["admin"]
    assert cluster.get(f"{admin}/admin/v1/status")[0] == 401
    key = (cluster.root / "secrets/admin.key").read_text().strip()
    status, body, _ = cluster.get(f"{admin}/admin/v1/config", Authorization=f"Bearer {key}")
    assert status == 200 and json.loads(body)["node.listen"] == {"value": "127.0.0.1:0", "origin": "command line"}
    assert cluster.get(f"{admin}/healthz")[0] == 200
    status, text, _ = cluster.get(f"{admin}/metrics")
    assert status == 200 and b'holdfast_worker_up{worker="0"} 1' in text
    assert b'holdfast_device_is_counted{device="d3"} 1' in text


def test_secrets_do_not_show_in_config_or_log(cluster):
    key = cluster.endpoint["demo"]["key"]
    cluster.login()
    assert key not in cluster.log()
    admin_key = (cluster.root / "secrets/admin.key").read_text().strip()
    assert key not in json.dumps(cluster.status()) and admin_key not in cluster.log()


def test_a_second_node_in_the_same_directory_is_refused_with_the_process_that_has_it(cluster):
    done = cluster.run(*cluster.command_up(), "--detach")
    assert done.returncode == 1 and f"process id {cluster.pids['supervisor']}" in done.stderr
    assert cluster.get(cluster.endpoint["urls"]["swift"].replace("/v1", "/healthcheck"))[:2] == (200, b"OK")


def test_a_port_in_use_is_refused_with_the_process_that_has_it(make_node):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("--listen", "--admin-listen"):
            node = make_node(option, f"127.0.0.1:{port}")
            done = node.run(*node.command_up(), "--detach")
            assert done.returncode == 1 and f"process {os.getpid()}" in done.stderr and str(port) in done.stderr


def test_a_port_of_another_node_is_not_shared(cluster, make_node):
    port = cluster.endpoint["urls"]["swift"].split(":")[2].split("/")[0]
    node = make_node("--listen", f"127.0.0.1:{port}")
    done = node.run(*node.command_up(), "--detach")
    assert done.returncode == 1 and "cannot listen on" in done.stderr and not (node.root / "endpoint.json").exists()


def test_data_outlives_a_stop_and_nothing_runs_after_it(make_node, tools):
    node = make_node()
    node.up()
    store(node, body=BODY)
    pids = node.all_pids()
    node.down()
    assert not any(tools.is_running(pid) for pid in pids) and not (node.root / "endpoint.json").exists()
    down = node.run("status", "--data", str(node.root))
    assert down.returncode == 2 and "nothing runs" in down.stderr
    node.up()
    assert node.login().call("GET", "/c/o") == (200, BODY)


def test_a_worker_that_is_killed_is_replaced_and_what_it_acknowledged_is_there(make_node, tools):
    node = make_node()
    node.up()
    client = store(node, body=BODY)
    for index, victim in enumerate(list(node.pids["workers"])):
        os.kill(victim, signal.SIGKILL)
        tools.wait_until(lambda index=index, victim=victim: node.pids["workers"][index] not in (victim, None), "a new worker")
        assert client.call("GET", "/c/o") == (200, BODY)
    facts = node.status()
    assert [worker["restarts"] for worker in facts["workers"]] == [1] * len(facts["workers"])


def test_requests_while_a_worker_is_replaced_are_answered_without_an_error(make_node, tools):
    node = make_node("--workers", "2")
    node.up()
    client = store(node)
    victim = node.pids["workers"][0]
    os.kill(victim, signal.SIGKILL)
    outcomes = [client.call("PUT", f"/c/n{number}", b"x")[0] for number in range(20)]
    assert outcomes == [201] * 20
    tools.wait_until(lambda: node.pids["workers"][0] not in (victim, None), "a new worker")


def test_a_worker_that_dies_again_and_again_is_started_more_slowly_while_the_others_serve(make_node, tools):
    node = make_node("--workers", "2")
    node.up()
    client = store(node)
    for _ in range(3):
        victim = node.pids["workers"][0]
        os.kill(victim, signal.SIGKILL)
        tools.wait_until(lambda victim=victim: node.pids["workers"][0] not in (victim, None), "a new worker at once")
    os.kill(node.pids["workers"][0], signal.SIGKILL)
    tools.wait_until(lambda: "delay_s=1" in node.log(), "a pause before the next")
    assert client.call("GET", "/c/o") == (200, b"hello")                   # nobody waits in the socket of the one that pauses
    tools.wait_until(lambda: node.pids["workers"][0] and node.status()["workers"][0]["is_ready"], "a new worker")


def test_when_the_zygote_is_killed_all_workers_come_back(make_node, tools):
    node = make_node()
    node.up()
    client = store(node, body=BODY)
    old = node.pids
    os.kill(old["zygote"], signal.SIGKILL)
    tools.wait_until(lambda: node.pids["zygote"] not in (old["zygote"], None)
                     and not {None, *old["workers"]} & set(node.pids["workers"]), "new workers")
    assert client.call("GET", "/c/o") == (200, BODY)


def test_a_killed_supervisor_leaves_no_process_and_no_lock_behind(make_node, tools):
    node = make_node()
    node.up()
    store(node, body=BODY)
    pids = node.all_pids()
    os.kill(pids[0], signal.SIGKILL)
    for pid in pids:
        tools.wait_until(lambda pid=pid: not tools.is_running(pid), f"process {pid} ends")
    assert node.run("status", "--data", str(node.root)).returncode == 2
    node.up()
    assert node.login().call("GET", "/c/o") == (200, BODY)


def test_uploads_that_run_when_the_node_stops_are_finished(make_node, tools):
    """Several at once, so that each worker has one that needs the devices of the others."""
    node = make_node("--workers", "3")
    node.up()
    client = store(node)
    host, port = client.url.split("/")[2].split(":")
    open_uploads = []
    for number in range(8):
        sock = socket.create_connection((host, int(port)), timeout=60)
        path = client.url.split(host)[1].split("/", 1)[1]
        sock.sendall(f"PUT /{path}/c/late{number} HTTP/1.1\r\nHost: h\r\nX-Auth-Token: {client.token}\r\n"
                     "Content-Length: 200000\r\n\r\n".encode() + b"x" * 100_000)
        open_uploads.append(sock)
    stopping = subprocess.Popen([sys.executable, "-m", "cli", "down", "--data", str(node.root)], env=node.environ)
    tools.wait_until(lambda: "node stops" in node.log(), "the stop begins")
    for sock in open_uploads:
        sock.sendall(b"x" * 100_000)
    answers = [sock.makefile("rb").readline() for sock in open_uploads]
    assert answers == [b"HTTP/1.1 201 Created\r\n"] * len(answers)
    assert stopping.wait(timeout=60) == 0
    node.up()
    assert all(node.login().call("HEAD", f"/c/late{number}")[0] == 200 for number in range(len(answers)))


def test_a_new_configuration_is_taken_at_sighup_and_a_bad_one_is_refused(make_node, tools, tmp_path):
    config = tmp_path / "holdfast.toml"
    user = '[[auth.user]]\naccount = "a"\nuser = "{}"\ngroups = [".admin"]\nkey = "k"\n'
    config.write_text(user.format("one"))
    config.chmod(0o600)
    node = make_node("--config", str(config))
    node.up()
    auth = node.endpoint["urls"]["auth"]

    def may_log_in(name):
        return node.get(auth, **{"X-Auth-User": f"a:{name}", "X-Auth-Key": "k"})[0] == 200

    assert may_log_in("one") and not may_log_in("two") and "demo" not in node.endpoint
    config.write_text(user.format("two"))
    os.kill(node.pids["supervisor"], signal.SIGHUP)
    tools.wait_until(lambda: "configuration loaded again" in node.log(), "a reload")
    assert may_log_in("two") and not may_log_in("one")
    config.write_text("[node]\nlissten = 1\n")
    os.kill(node.pids["supervisor"], signal.SIGHUP)
    tools.wait_until(lambda: "new configuration refused" in node.log(), "a refusal")
    assert "lissten" in node.log() and may_log_in("two")


def test_a_bad_configuration_is_refused_with_its_line_before_anything_is_made(make_node, tmp_path):
    config = tmp_path / "holdfast.toml"
    config.write_text("[node]\nlisten = 'nonsense'\n")
    node = make_node()
    done = node.run("up", "--data", str(node.root), "--config", str(config), "--detach")
    assert done.returncode == 1 and f"{config}:2" in done.stderr and not node.root.exists()


def test_in_the_foreground_it_runs_until_it_is_interrupted(make_node, tools):
    node = make_node()
    process = subprocess.Popen([sys.executable, "-m", "cli", *node.command_up()], env=node.environ, text=True,
                               stdout=subprocess.PIPE, cwd=node.root.parent)
    try:
        assert any(line.startswith("ready: ") for line in process.stdout)
        pids = node.all_pids()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert not any(tools.is_running(pid) for pid in pids)
    finally:
        process.kill()
        process.communicate()


def make_certificate(folder):
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", str(key), "-out", str(cert)],
                   check=True, capture_output=True)
    return cert, key


def test_over_tls_clients_that_trust_the_certificate_are_served(make_node, tmp_path):
    cert, key = make_certificate(tmp_path)
    node = make_node(environ={"HOLDFAST_TLS_CERT": str(cert), "HOLDFAST_TLS_KEY": str(key)})
    node.up()
    demo, auth = node.endpoint["demo"], node.endpoint["urls"]["auth"]
    assert auth.startswith("https://127.0.0.1:")
    request = urllib.request.Request(auth, headers={"X-Auth-User": demo["user"], "X-Auth-Key": demo["key"]})
    trust = ssl.create_default_context(cafile=str(cert))
    with urllib.request.urlopen(request, timeout=60, context=trust) as answer:
        assert answer.headers["X-Storage-Url"] == demo["storage_url"] and answer.headers["X-Auth-Token"]
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(request, timeout=60)


def test_a_certificate_that_cannot_be_used_stops_the_start_with_its_name(make_node, tmp_path):
    cert, key = make_certificate(tmp_path)
    key.write_text("no key")
    node = make_node(environ={"HOLDFAST_TLS_CERT": str(cert), "HOLDFAST_TLS_KEY": str(key)})
    done = node.run(*node.command_up(), "--detach")
    assert done.returncode == 1 and str(key) in done.stderr


@pytest.mark.parametrize("insecure", [False, True])
def test_on_a_public_listener_without_tls_logins_are_refused_unless_allowed(make_node, insecure):
    node = make_node("--listen", "0.0.0.0:0", environ={"HOLDFAST_TLS_INSECURE_HTTP": str(insecure).lower()})
    said = node.up()
    demo = node.endpoint["demo"]
    status, _, _ = node.get(node.endpoint["urls"]["auth"], **{"X-Auth-User": demo["user"], "X-Auth-Key": demo["key"]})
    assert (status == 200) is insecure and ("logins are refused" in said) is not insecure
    assert node.run("status", "--data", str(node.root)).returncode == (0 if insecure else 1)


def test_a_missing_device_is_said_in_words_and_the_rest_goes_on(make_node):
    node = make_node()
    node.up()
    store(node, body=BODY)
    node.down()
    (node.root / "devices/d2").rename(node.root / "elsewhere")
    node.up()
    assert node.login().call("GET", "/c/o") == (200, BODY)
    assert node.login().call("PUT", "/c/more", b"x")[0] == 201
    done = node.run("status", "--data", str(node.root))
    assert done.returncode == 1 and "device d2 is missing" in done.stdout
    assert not (node.root / "devices/d2").exists()


def test_on_every_interface_both_families_are_served(make_node):
    node = make_node("--listen", ":0", environ={"HOLDFAST_TLS_INSECURE_HTTP": "true"})
    node.up()
    port = node.endpoint["urls"]["swift"].split(":")[2].split("/")[0]
    hosts = ["127.0.0.1", "[::1]"] if socket.has_dualstack_ipv6() else ["127.0.0.1"]
    assert [node.get(f"http://{host}:{port}/healthcheck")[:2] for host in hosts] == [(200, b"OK")] * len(hosts)


def test_a_deep_state_directory_works(make_node):
    node = make_node(name="/".join(["a-directory-with-a-long-name"] * 6))
    node.root.parent.mkdir(parents=True)
    node.up()
    assert store(node).call("GET", "/c/o") == (200, b"hello")
