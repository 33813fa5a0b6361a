"""The demo user's files: what shells and curl make of them, and who may read them."""
from __future__ import annotations

import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from cli.demo import format_env, save_demo_files

KEY = "k3y'$`\"\\%{x}"
ENDPOINT = {"urls": {"swift": "http://h:1/v1", "auth": "http://h:1/auth/v1.0"},
            "demo": {"user": "demo:demo", "key": KEY, "storage_url": "http://h:1/v1/AUTH_demo"}}


def test_only_their_owner_may_read_them(tmp_path):
    save_demo_files(tmp_path, ENDPOINT)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {"demo.env": 0o600, "demo.curl": 0o600}


def test_a_node_with_users_of_its_own_leaves_none_behind(tmp_path):
    save_demo_files(tmp_path, ENDPOINT)
    save_demo_files(tmp_path, {"urls": ENDPOINT["urls"]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [{}, {"tls_cert": "/a b/c.pem"}])
def test_a_shell_reads_the_environment_as_it_was_meant(tmp_path, more):
    save_demo_files(tmp_path, {**ENDPOINT, **more})
    script = f". {tmp_path}/demo.env; env -0"
    done = subprocess.run(["sh", "-c", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    found = dict(line.split("=", 1) for line in done.stdout.split("\0") if "=" in line)
    assert (found["ST_AUTH"], found["ST_USER"], found["ST_KEY"]) == ("http://h:1/auth/v1.0", "demo:demo", KEY)
    assert (found.get("OS_CACERT"), found.get("RCLONE_CA_CERT")) == (more.get("tls_cert"),) * 2


def test_every_line_of_the_environment_is_an_export():
    assert all(line.startswith("export ") for line in format_env(ENDPOINT).splitlines())


def test_curl_logs_in_with_it_and_hands_on_the_token_alone(tmp_path, login_server):
    url, seen = login_server
    save_demo_files(tmp_path, {**ENDPOINT, "urls": {"auth": f"{url}/auth/v1.0"}, "tls_cert": "/50%{x} \"c\".pem"})
    text = (tmp_path / "demo.curl").read_text()
    (tmp_path / "demo.curl").write_text("\n".join(line for line in text.splitlines() if not line.startswith("cacert")))
    command = ["curl", "-q", "--noproxy", "*", "-K", tmp_path / "demo.curl"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == 'header = "X-Auth-Token: AUTH_tk1"\ncacert = "/50%{x} \\"c\\".pem"\n'
    assert seen == [("/auth/v1.0", "demo:demo", KEY)]


@pytest.fixture
def login_server():
    seen = []

    class Login(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers["X-Auth-User"], self.headers["X-Auth-Key"]))
            self.send_response(200)
            self.send_header("X-Auth-Token", "AUTH_tk1")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"no")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Login)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()
