"""Names, metadata, users and fields that are not allowed: which answer, before the body, and nothing kept."""
import os

import pytest

from tests.e2e.raw_client import raw_node, read_answer

CONTINUE = "Expect: 100-continue"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    with raw_node(tmp_path_factory.mktemp("node")) as made:
        yield made


def refused_unread(raw, path, *lines, user="demo:alice", method="PUT"):
    """The answer to an upload whose client waits to be asked for its body: refused, without `100 Continue`."""
    with raw.nothing_changes(), raw.connection() as sock:
        sock.sendall(raw.head(method, path, "Content-Length: 1000000", CONTINUE, *lines, user=user))
        reader = sock.makefile("rb")
        assert not reader.peek(12).startswith(b"HTTP/1.1 100")
        return read_answer(reader)


EURO = "%E2%82%AC"                                         # three bytes


@pytest.mark.parametrize(("path", "status", "words"), [
    ("c/" + "o" * 1025, 400, "Object name length of 1025 longer than 1024"),
    ("c/" + EURO * 342, 400, "Object name length of 1026 longer than 1024"),
    ("c" * 257 + "/o", 404, "Not Found"),
    ("c/%FF", 412, "Invalid UTF8 or contains NULL"), ("c/a%00b", 412, "Invalid UTF8 or contains NULL"),
    ("c/%C0%AF", 412, "Invalid UTF8"), ("c/%ED%A0%80", 412, "Invalid UTF8"), ("c/%E2%82", 412, "Invalid UTF8"),
    ("%FF/o", 412, "Invalid UTF8"), ("/o", 412, "Bad URL"), ("..%2F..%2Fo", 404, "Not Found"),
    ("../AUTH_other/c", 404, "Not Found"), ("none/o", 404, "Not Found"),
])
def test_an_object_of_a_name_that_is_not_allowed_is_refused_before_its_body(raw, path, status, words):
    refused = refused_unread(raw, f"/v1/AUTH_demo/{path}")
    assert (refused.status, words in refused.text) == (status, True), (refused.status, refused.text)


@pytest.mark.parametrize(("path", "status", "words"), [
    ("c" * 257, 400, "Container name length of 257 longer than 256"), (EURO * 86, 400, "Container name length of 258"),
    ("%FF", 412, "Invalid UTF8"), ("%00", 412, "Invalid UTF8")])
def test_a_container_of_a_name_that_is_not_allowed_is_refused(raw, path, status, words):
    before = raw.get("")
    refused = raw.ask("PUT", f"/v1/AUTH_demo/{path}", "Content-Length: 0")
    assert (refused.status, words in refused.text) == (status, True) and raw.get("") == before


@pytest.mark.parametrize("name", ["o" * 1024, EURO * 341, "..", "../../../../etc/passwd", "%2e%2e/%2e", "/", "//a//", "a%0Ab",
                                  "%F0%9F%98%80", "%25", "a%3Fb", "%EF%BF%BF", "%22%3C%27%26", "%01%7F"])
def test_every_other_name_is_a_name(raw, name):
    body = os.urandom(20)
    raw.put(f"c/{name}", body)
    assert raw.get(f"c/{name}") == body
    assert raw.ask("DELETE", f"/v1/AUTH_demo/c/{name}").status == 204 and raw.get(f"c/{name}") is None


@pytest.mark.parametrize("path", ["", "/c", "/c/held", "/none/x"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
def test_strangers_get_401_and_owners_of_other_accounts_403(raw, method, path):
    with raw.nothing_changes():
        lines = ["Content-Length: 0"]
        with raw.connection() as sock:
            for token, status in (("X-A: b", 401), ("X-Auth-Token: AUTH_tkforged", 401),
                                  (f"X-Auth-Token: {raw.tokens['other:carol']}", 403)):
                sock.sendall(raw.head(method, f"/v1/AUTH_demo{path}", *lines, token, user=None))
                refused = read_answer(sock.makefile("rb"), method=method)
                assert refused.status == status
                if status == 401:
                    assert refused.fields["www-authenticate"] == 'Swift realm="AUTH_demo"'


def test_uploads_of_strangers_and_foreigners_are_refused_before_the_body(raw):
    for lines, user, status in (([], None, 401), (["X-Auth-Token: AUTH_tkforged"], None, 401), ([], "other:carol", 403)):
        refused = refused_unread(raw, "/v1/AUTH_demo/c/held", *lines, user=user)
        assert refused.status == status and ("Unauthorized" if status == 401 else "Forbidden") in refused.text
    assert refused_unread(raw, "/v1/AUTH_other/c/o").status == 403
    assert refused_unread(raw, "/v1/NONE_demo/c/o").status == 403


@pytest.mark.parametrize("lines", [[], ["X-Auth-User: demo:alice"], ["X-Auth-User: demo:alice", "X-Auth-Key: wrong"],
                                   ["X-Auth-User: nobody:x", "X-Auth-Key: x"], ["X-Auth-User: \u00ff", "X-Auth-Key: \u00ff"]])
def test_a_login_that_is_not_right_is_401(raw, lines):
    assert raw.ask("GET", "/auth/v1.0", *lines, user=None).status == 401


def fields(kind, **values):
    return [f"X-{kind}-Meta-{name}: {value}" for name, value in values.items()]


TOO_MUCH = [
    ({"n" * 129: "v"}, "Metadata name too long"), ({"n": "v" * 257}, "Metadata value longer than 256"),
    ({f"n{i}": "v" for i in range(91)}, "Too many metadata items; max 90"),
    ({f"n{i:02}": "v" * 250 for i in range(17)}, "Total metadata too large; max 4096"),
    ({"": "v"}, "Metadata name cannot be empty")]


@pytest.mark.parametrize(("meta", "words"), TOO_MUCH, ids=range(len(TOO_MUCH)))
def test_metadata_that_is_too_much_is_400_and_nothing_is_set(raw, meta, words):
    refused = refused_unread(raw, "/v1/AUTH_demo/c/held", *fields("Object", **meta))
    assert refused.status == 400 and words in refused.text
    for method, path, kind in (("POST", "/c/held", "Object"), ("POST", "/c", "Container"), ("PUT", "/c", "Container"),
                               ("POST", "", "Account")):
        refused = raw.ask(method, f"/v1/AUTH_demo{path}", "Content-Length: 0", *fields(kind, **meta))
        assert refused.status == 400 and words in refused.text, (method, path)
        head = raw.ask("HEAD", f"/v1/AUTH_demo{path}")
        assert not [name for name in head.fields if "-meta-" in name]


def test_metadata_up_to_the_limits_is_kept(raw):
    for meta in ({"n" * 128: "v" * 256}, {f"n{i:02}": "v" for i in range(90)}, {f"n{i:02}": "v" * 253 for i in range(16)}):
        assert raw.ask("PUT", "/v1/AUTH_demo/c/full", "Content-Length: 0", *fields("Object", **meta)).status == 201
        head = raw.ask("HEAD", "/v1/AUTH_demo/c/full")
        assert {name[14:]: value for name, value in head.fields.items() if name.startswith("x-object-meta-")} == meta


@pytest.mark.parametrize(("line", "status", "words"), [
    ("X-Delete-At: soon", 400, "X-Delete-At"), ("X-Delete-At: 1", 400, "X-Delete-At in past"),
    ("X-Delete-After: -1", 400, "X-Delete-After"), ("X-Delete-After: 99999999999999999999", 400, "X-Delete"),
    ("If-None-Match: abc", 400, "If-None-Match only supports *"), ("X-Copy-From: nowhere", 400, "zero byte body"),
    ("X-Object-Manifest: c/x", 501, "segments"), (f"X-Object-Meta-A: {'v' * 8193}", 400, "Header value too long")])
def test_a_field_that_means_nothing_is_refused_before_the_body(raw, line, status, words):
    refused = refused_unread(raw, "/v1/AUTH_demo/c/held", line)
    assert (refused.status, words in refused.text) == (status, True), (refused.status, refused.text)


@pytest.mark.parametrize(("path", "status"), [                              # as Swift answers them
    ("/c?limit=10001", 412), ("/c?limit=-1", 200), ("/c?limit=x", 200), ("/c?delimiter=%FF", 400), ("/c?prefix=%00", 204),
    ("/c?format=nonsense", 200), ("/c/held?multipart-manifest=get", 200)])
def test_a_query_that_makes_no_sense_has_an_answer(raw, path, status):
    assert raw.ask("GET", f"/v1/AUTH_demo{path}").status == status


@pytest.mark.parametrize(("line", "status"), [
    ("Range: bytes=9-", 206), ("Range: bytes=99-", 416), ("Range: bits=0-1", 200), ("Range: bytes=5-2", 200),
    (f"Range: bytes={'0-0,' * 2000}1-1", 416), ("If-Modified-Since: yesterday", 200)])
def test_a_range_or_date_that_makes_no_sense_has_an_answer(raw, line, status):
    assert raw.ask("GET", "/v1/AUTH_demo/c/held", line).status == status


@pytest.mark.parametrize(("method", "path", "line", "status"), [
    ("COPY", "/c/held", "A: b", 412), ("COPY", "/c/held", "Destination: c", 412), ("COPY", "/c/held", "Destination: %FF/x", 412),
    ("COPY", "/c/held", "Destination: none/x", 404), ("COPY", "/c/held", "Destination: c/" + "o" * 1025, 400),
    ("POST", "/c", "X-Container-Read: .r:", 400), ("DELETE", "/c", "A: b", 409), ("PUT", "/c", "X-Storage-Policy: none", 400),
    ("POST", "/c/none", "X-Object-Meta-A: b", 404), ("DELETE", "/c/none", "A: b", 404), ("BREW", "/c", "A: b", 405)])
def test_a_change_that_makes_no_sense_changes_nothing(raw, method, path, line, status):
    with raw.nothing_changes():
        assert raw.ask(method, f"/v1/AUTH_demo{path}", line, "Content-Length: 0").status == status
