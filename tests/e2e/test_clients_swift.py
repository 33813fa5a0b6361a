"""python-swiftclient, library and command line, does a day's work on a real node, over HTTP and TLS."""
import hashlib
import json
import os

import pytest

from tests.e2e.client_helpers import SCHEMES, Program, make_tree, read_tree, running, same

swiftclient = pytest.importorskip("swiftclient")


@pytest.fixture(scope="module", params=SCHEMES)
def node(request, tmp_path_factory):
    with running(tmp_path_factory.mktemp("node"), request.param) as started:
        yield started


@pytest.fixture
def swift(node, tmp_path):
    """The command line."""
    endpoint = node.endpoint
    trust = {"OS_CACERT": endpoint["tls_cert"]} if "tls_cert" in endpoint else {}
    return Program("swift", tmp_path, ST_AUTH=endpoint["urls"]["auth"], ST_USER=endpoint["demo"]["user"],
                   ST_KEY=endpoint["demo"]["key"], **trust)


@pytest.fixture
def connection(node):
    """The library."""
    endpoint = node.endpoint
    made = swiftclient.Connection(authurl=endpoint["urls"]["auth"], user=endpoint["demo"]["user"], key=endpoint["demo"]["key"],
                                  auth_version="1", retries=0, cacert=endpoint.get("tls_cert"))
    yield made
    made.close()


def times(swift):
    """When each object was stored."""
    return {row["name"]: row["last_modified"] for row in json.loads(swift.run("list", "files", "--json"))}


def test_the_command_line_keeps_a_tree(swift, tmp_path):
    tree = make_tree(tmp_path / "tree")
    swift.run("post", "files", "-m", "Color:gr\u00fcn", "-r", ".r:*")
    assert {f"tree/{name}" for name in tree} <= set(swift.lines("upload", "files", "tree"))
    assert sorted(swift.lines("list", "files")) == sorted(f"tree/{name}" for name in tree)
    assert swift.lines("list", "files", "--prefix", "tree/deep/", "--delimiter", "/") == ["tree/deep/er.txt", "tree/deep/er/"]
    container = swift.run("stat", "files").decode()
    assert f"Objects: {len(tree)}" in container and f"Bytes: {sum(map(len, tree.values()))}" in container
    assert "Meta Color: gr\u00fcn" in container and "Read ACL: .r:*" in container
    assert f"ETag: {hashlib.md5(tree['3 MiB.bin']).hexdigest()}" in swift.run("stat", "files", "tree/3 MiB.bin").decode()
    swift.run("download", "files", "-D", "back")
    same(read_tree(tmp_path / "back" / "tree"), tree)

    (tmp_path / "tree" / "a.txt").write_bytes(b"changed")
    os.utime(tmp_path / "tree" / "a.txt", (1, 1))
    before = times(swift)
    swift.run("upload", "files", "tree", "--skip-identical")
    assert [name for name, time in times(swift).items() if time != before[name]] == ["tree/a.txt"]
    assert swift.run("download", "files", "tree/a.txt", "-o", "-") == b"changed"
    swift.run("post", "files", "tree/a.txt", "-m", "Note:new")
    assert "Meta Note: new" in swift.run("stat", "files", "tree/a.txt").decode()
    swift.run("copy", "files", "tree/3 MiB.bin", "-d", "/files/copy of it")
    assert swift.run("download", "files", "copy of it", "-o", "-") == tree["3 MiB.bin"]

    swift.run("delete", "files", "tree/a.txt")
    assert "tree/a.txt" not in swift.lines("list", "files")
    swift.run("delete", "files")
    assert swift.lines("list") == [] and b"Containers: 0" in swift.run("stat")


def test_the_library_keeps_what_it_is_given(connection):
    connection.put_container("c", {"X-Container-Meta-A": "1"})
    big = os.urandom((3 << 20) + 1)
    pieces = [big[at:at + 100_000] for at in range(0, len(big), 100_000)]
    assert connection.put_object("c", "chunked \u20ac%", iter(pieces)) == hashlib.md5(big).hexdigest()
    for size in (0, 1, 65_535, 65_536, 65_537):
        connection.put_object("c", f"n{size}", big[:size], content_length=size)
        assert connection.get_object("c", f"n{size}")[1] == big[:size]
    headers, body = connection.get_object("c", "chunked \u20ac%", resp_chunk_size=65_536)
    assert b"".join(body) == big and headers["content-length"] == str(len(big))
    for given, expected in (("bytes=65535-65537", big[65_535:65_538]), ("bytes=-5", big[-5:]), ("bytes=3000000-", big[3_000_000:])):
        assert connection.get_object("c", "chunked \u20ac%", headers={"Range": given})[1] == expected
    headers, rows = connection.get_container("c", full_listing=True, limit=2)
    assert [row["name"] for row in rows] == ["chunked \u20ac%", "n0", "n1", "n65535", "n65536", "n65537"]
    assert [row["bytes"] for row in rows] == [len(big), 0, 1, 65_535, 65_536, 65_537]
    assert headers["x-container-object-count"] == "6" and rows[1]["hash"] == hashlib.md5(b"").hexdigest()
    connection.post_object("c", "n1", {"X-Object-Meta-A": "\u00fc", "X-Delete-After": "1000"})
    head = connection.head_object("c", "n1")
    assert head["x-object-meta-a"] == "\u00fc" and int(head["x-delete-at"]) > 1_700_000_000
    for row in rows:
        connection.delete_object("c", row["name"])
    connection.delete_container("c")
    assert connection.get_account()[1] == []


@pytest.mark.parametrize(("call", "status"), [
    (lambda c: c.get_object("k", "none"), 404), (lambda c: c.put_object("none", "o", b"x"), 404),
    (lambda c: c.delete_container("k"), 409), (lambda c: c.put_object("k", "x", b"x", etag="0" * 32), 422),
    (lambda c: c.put_object("k", "x", os.urandom(1 << 20), etag="0" * 32), 422),
    (lambda c: c.put_object("k", "full", b"y", headers={"If-None-Match": "*"}), 412),
    (lambda c: c.put_container("c" * 257), 400), (lambda c: c.get_container("k", limit=10_001), 412),
    (lambda c: c.get_object("k", "full", headers={"Range": "bytes=99-"}), 416),
])
def test_the_library_is_told_what_went_wrong(connection, call, status):
    connection.put_container("k")
    connection.put_object("k", "full", b"x")
    with pytest.raises(swiftclient.ClientException) as caught:
        call(connection)
    assert caught.value.http_status == status and caught.value.http_response_headers["x-trans-id"].startswith("tx")
    assert connection.get_object("k", "full")[1] == b"x"
    assert [row["name"] for row in connection.get_container("k")[1]] == ["full"]
    connection.delete_object("k", "full")
    connection.delete_container("k")
