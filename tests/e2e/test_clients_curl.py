"""curl, verb by verb, on a real node over HTTP and TLS."""
import hashlib
import json
import os
from urllib.parse import quote

import pytest

from tests.e2e.client_helpers import SCHEMES, Program, make_tree, read_tree, running, same, write
from tests.e2e.conftest import wait_until

BIG = os.urandom((3 << 20) + 17)


@pytest.fixture(scope="module", params=SCHEMES)
def node(request, tmp_path_factory):
    with running(tmp_path_factory.mktemp("node"), request.param) as started:
        yield started


class Curl(Program):
    """`call` gives the last answer of one request: status, fields by lower-case name, body. `statuses`: interim ones too."""

    def __init__(self, node, home):
        super().__init__("curl", home)
        self.common = ["-q", "-g", "-sS", "-D", "head", "-o", "body", "--max-time", "60"]
        endpoint = node.endpoint
        if "tls_cert" in endpoint:
            self.common += ["--cacert", endpoint["tls_cert"]]
        user = ["-H", f"X-Auth-User: {endpoint['demo']['user']}", "-H", f"X-Auth-Key: {endpoint['demo']['key']}"]
        _, fields, _ = self.call(*user, endpoint["urls"]["auth"])
        self.url, self.token = fields["x-storage-url"], fields["x-auth-token"]
        self.statuses = []

    def call(self, *arguments, data=b""):
        for name in ("head", "body"):
            (self.home / name).unlink(missing_ok=True)
        self.run(*self.common, *arguments, data=data)
        heads = [head.split("\r\n") for head in (self.home / "head").read_bytes().decode("latin-1").split("\r\n\r\n") if head]
        self.statuses = [int(head[0].split()[1]) for head in heads]
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in heads[-1][1:])}
        body = self.home / "body"
        return self.statuses[-1], fields, body.read_bytes() if body.exists() else b""

    def to(self, path, *arguments, data=b""):
        return self.call("-H", f"X-Auth-Token: {self.token}", *arguments, self.url + path, data=data)

    def status(self, path, *arguments, data=b""):
        return self.to(path, *arguments, data=data)[0]


@pytest.fixture
def curl(node, tmp_path):
    made = Curl(node, tmp_path)
    assert made.status("/c", "-X", "PUT") == 201
    yield made
    for name in made.to("/c")[2].decode().splitlines():
        assert made.status(f"/c/{quote(name)}", "--path-as-is", "-X", "DELETE") == 204
    assert made.status("/c", "-X", "DELETE") == 204


def test_curl_keeps_a_tree(curl, tmp_path):
    tree = make_tree(tmp_path / "tree")
    for name in tree:
        status, fields, _ = curl.to(f"/c/{quote(name)}", "-T", tmp_path / "tree" / name)
        assert status == 201 and fields["etag"] == hashlib.md5(tree[name]).hexdigest()
        status, _, body = curl.to(f"/c/{quote(name)}")
        assert status == 200
        write(tmp_path / "back" / name, body)
    same(read_tree(tmp_path / "back"), tree)
    assert sorted(row["name"] for row in json.loads(curl.to("/c?format=json")[2])) == sorted(tree)


def test_every_verb(curl):
    assert curl.status("", "-I") == 204 and curl.status("", "-X", "POST", "-H", "X-Account-Meta-A: 1") == 204
    assert curl.to("", "-I")[1]["x-account-meta-a"] == "1"
    assert curl.status("/c", "-X", "PUT") == 202 and curl.status("/c", "-X", "POST", "-H", "X-Container-Meta-B: 2") == 204
    assert curl.to("/c", "-I")[1]["x-container-meta-b"] == "2"
    assert curl.status("/c/o", "-X", "PUT", "-d", "hello", "-H", "Content-Type: text/plain", "-H", "X-Object-Meta-C: 3") == 201
    status, fields, _ = curl.to("/c/o", "-I")
    assert (status, fields["content-length"], fields["content-type"], fields["x-object-meta-c"]) == (200, "5", "text/plain", "3")
    assert curl.status("/c/o", "-X", "POST", "-H", "X-Object-Meta-D: 4") == 202
    fields = curl.to("/c/o", "-I")[1]
    assert fields["x-object-meta-d"] == "4" and "x-object-meta-c" not in fields
    assert curl.status("/c/o", "-X", "COPY", "-H", "Destination: c/p") == 201 and curl.to("/c/p")[2] == b"hello"
    assert curl.status("/c/q", "-X", "PUT", "-H", "X-Copy-From: c/p", "-H", "Content-Length: 0") == 201
    assert curl.to("/c")[2] == b"o\np\nq\n" and curl.to("/c/q", "-I")[1]["x-object-meta-d"] == "4"
    assert curl.status("/c/q", "-X", "DELETE") == 204 and curl.status("/c/q", "-X", "DELETE") == 404
    assert curl.status("/c/o", "-X", "OPTIONS") == 200 and curl.status("/c/o", "-X", "PATCH") == 405
    assert curl.status("/c", "-X", "DELETE") == 409
    assert curl.to("/c")[2] == b"o\np\n"


@pytest.mark.parametrize(("asked", "expected"), [
    ("0-0", slice(1)), ("65535-65536", slice(65_535, 65_537)), ("-17", slice(-17, None)), ("3145728-", slice(3 << 20, None)),
    ("1000000-2999999", slice(1_000_000, 3_000_000))])
def test_a_range_is_those_bytes(curl, asked, expected):
    expected = BIG[expected]
    curl.to("/c/o", "-T", "-", data=BIG)
    status, fields, body = curl.to("/c/o", "-r", asked)
    assert status == 206 and body == expected and fields["content-length"] == str(len(expected))
    assert fields["content-range"].endswith(f"/{len(BIG)}")


def test_several_ranges_come_as_parts_and_an_impossible_one_is_416(curl):
    curl.to("/c/o", "-T", "-", data=BIG)
    status, fields, body = curl.to("/c/o", "-r", "1-2,70000-70009")
    boundary = fields["content-type"].partition("boundary=")[2].encode()
    parts = body.split(b"--" + boundary)
    assert status == 206 and len(body) == int(fields["content-length"]) and len(parts) == 4
    assert parts[1].endswith(b"\r\n\r\n" + BIG[1:3] + b"\r\n") and parts[2].endswith(b"\r\n\r\n" + BIG[70_000:70_010] + b"\r\n")
    status, fields, _ = curl.to("/c/o", "-r", "9000000-")
    assert status == 416 and fields["content-range"] == f"bytes */{len(BIG)}"


def test_a_download_that_broke_off_is_resumed(curl, tmp_path):
    curl.to("/c/o", "-T", "-", data=BIG)
    (tmp_path / "part").write_bytes(BIG[:1_000_001])
    curl.run("-q", "-sS", *curl.common[7:], "-H", f"X-Auth-Token: {curl.token}", "-C", "-", "-o", "part", f"{curl.url}/c/o")
    assert (tmp_path / "part").read_bytes() == BIG


def test_conditions(curl):
    _, fields, _ = curl.to("/c/o", "-T", "-", data=b"one")
    etag, other = fields["etag"], "0" * 32
    for field, status in ((f"If-None-Match: {etag}", 304), (f'If-None-Match: "{other}"', 200), (f"If-Match: {other}", 412),
                          (f'If-Match: "{etag}"', 200), ("If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT", 304),
                          ("If-Unmodified-Since: Fri, 01 Jan 2010 00:00:00 GMT", 412), ("If-Match: *", 200)):
        assert curl.status("/c/o", "-H", field) == status, field
        assert curl.to("/c/o", "-I", "-H", field)[0] == status, field
    assert curl.status("/c/o", "-T", "-", "-H", "If-None-Match: *", data=b"two") == 412
    assert curl.status("/c/o", "-T", "-", "-H", f"If-Match: {other}", data=b"two") == 412
    assert curl.status("/c/o", "-X", "DELETE", "-H", f"If-Match: {other}") == 412
    assert curl.to("/c/o")[2] == b"one"
    assert curl.status("/c/o", "-T", "-", "-H", f"If-Match: {etag}", data=b"two") == 201 and curl.to("/c/o")[2] == b"two"
    assert curl.status("/c/n", "-T", "-", "-H", "If-None-Match: *", data=b"new") == 201


def test_a_large_upload_waits_for_100_continue_and_a_refused_one_gets_none(curl, tmp_path):
    (tmp_path / "big").write_bytes(BIG)
    assert curl.status("/c/o", "-T", "big", "-H", "Expect: 100-continue", "--expect100-timeout", "50") == 201
    assert curl.statuses == [100, 201] and curl.to("/c/o")[2] == BIG
    for path, header, status in (("/c/o", "X-Auth-Token: AUTH_tkforged", 401), ("/none/o", f"X-Auth-Token: {curl.token}", 404)):
        answer, _, _ = curl.call("-T", "big", "-H", "Expect: 100-continue", "--expect100-timeout", "50", "-H", header,
                                 curl.url + path)
        assert answer == status and curl.statuses == [status]


def test_a_wrong_md5_is_422_and_changes_nothing(curl):
    curl.to("/c/o", "-T", "-", data=b"kept")
    for data in (b"x", BIG):
        assert curl.status("/c/o", "-T", "-", "-H", f"ETag: {'0' * 32}", data=data) == 422
        assert curl.status("/c/o", "-T", "-", "-H", f"ETag: {hashlib.md5(data).hexdigest()}", "-X", "PUT", data=data) == 201
        assert curl.to("/c/o")[2] == data
        curl.to("/c/o", "-T", "-", data=b"kept")


def test_http_1_0_and_several_requests_on_one_connection(curl):
    curl.to("/c/o", "-T", "-", data=b"hello")
    status, fields, body = curl.to("/c/o", "--http1.0")
    assert (status, body) == (200, b"hello") and "transfer-encoding" not in fields
    assert curl.run("-q", "-sS", *curl.common[7:], "-H", f"X-Auth-Token: {curl.token}", "-w", "%{num_connects} ", "-o", os.devnull,
                    "-o", os.devnull, "-o", os.devnull, *[f"{curl.url}/c/o"] * 3) == b"1 0 0 "


def test_a_name_typed_as_it_is_and_dots_that_are_names(curl):
    assert curl.status("/c/\u00fc\u20ac", "-T", "-", data=b"1") == 201 and curl.to("/c/%C3%BC%E2%82%AC")[2] == b"1"
    for name in ("a/../b", "./x", "..", "a/./b", "a//b", "a/"):
        assert curl.status(f"/c/{name}", "--path-as-is", "-T", "-", "-X", "PUT", "-o", "body", data=name.encode()) == 201
    assert curl.to("/c")[2].decode().splitlines() == ["..", "./x", "a/", "a/../b", "a/./b", "a//b", "\u00fc\u20ac"]
    assert curl.to("/c/a/../b", "--path-as-is")[2] == b"a/../b" and curl.to("/c/..", "--path-as-is")[2] == b".."


def test_an_expired_object_is_gone(curl):
    assert curl.status("/c/o", "-T", "-", "-H", "X-Delete-At: 1", data=b"x") == 400
    curl.to("/c/o", "-T", "-", "-H", "X-Delete-After: 1", data=b"x")
    wait_until(lambda: curl.status("/c/o") == 404, "the object expires")
    assert curl.status("/c/o", "-X", "POST") == 404 and curl.status("/c/o", "-X", "DELETE") == 404
    assert curl.status("/c/o", "-T", "-", "-H", "If-None-Match: *", data=b"again") == 201 and curl.to("/c/o")[2] == b"again"
