"""Bodies that are cut short, garbled, too large or not what was announced: nothing visible, nothing left behind."""
import hashlib
import os
import socket
import struct

import pytest

from tests.e2e.conftest import wait_until
from tests.e2e.raw_client import MAX_FILE_BYTES, is_closed, open_files, raw_node, read_answer, send_all

BODY = os.urandom(3_000_000)
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    with raw_node(tmp_path_factory.mktemp("node")) as made:
        yield made


def chunks(body, size=65_536):
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[at:at + size] for at in range(0, len(body), size)))


def reset(sock):
    """Close without a farewell."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("name", ["held", "new"])
@pytest.mark.parametrize("end", ["half-close", "close", "reset"])
@pytest.mark.parametrize(("announced", "sent"), [(100, 0), (100, 99), (65_536, 65_535), (200_000, 100_000), (4_000_000, 0),
                                                 (4_000_000, 3_000_000), (None, 0), (None, 50), (None, 3_000_000)])
def test_a_body_cut_short_leaves_nothing(raw, announced, sent, end, name):
    with raw.nothing_changes():
        with raw.connection() as sock, sock.makefile("rb") as reader:
            lines = [CHUNKED] if announced is None else [f"Content-Length: {announced}"]
            body = BODY[:sent] if announced is not None else chunks(BODY[:sent])
            sock.sendall(raw.head("PUT", f"/v1/AUTH_demo/c/{name}", *lines) + body)
            if end == "reset":
                reader.close()                             # which would keep the socket open
                reset(sock)
            elif end == "half-close":
                sock.shutdown(socket.SHUT_WR)
                answer = read_answer(reader)
                assert answer is None or (answer.status == 499 and answer.fields["connection"] == "close"), answer.status
                assert is_closed(reader)
        assert raw.get("c/new") is None


GARBAGE = [b"zz\r\n", b"-1\r\n", b"\r\n\r\n", b"10000000000000000000\r\n", b"0x10\r\n", b"3\r\nabcdef\r\n0\r\n\r\n",
           b"3;" + b"x" * 5_000 + b"\r\nabc\r\n0\r\n\r\n", b"0\r\nA: " + b"b" * 20_000 + b"\r\n\r\n", b"0\r\nno trailer\r\n\r\n",
           b"\0\0\0\0"]


@pytest.mark.parametrize("before", [0, 10, 100_000, 2_500_000])
@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_among_chunks_is_400_and_leaves_nothing(raw, garbage, before):
    with raw.nothing_changes(), raw.connection() as sock, sock.makefile("rb") as reader:
        head = raw.head("PUT", "/v1/AUTH_demo/c/held", CHUNKED)
        send_all(sock, head + chunks(BODY[:before]) + garbage + raw.head("DELETE", "/v1/AUTH_demo/c/held"))
        refused = read_answer(reader)
        assert refused.status == 400 and "chunk" in refused.text.lower(), (refused.status, refused.text)
        assert refused.fields["connection"] == "close" and is_closed(reader)


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_wrong_etag_is_422_and_leaves_nothing(raw, size, is_chunked):
    body = BODY[:size]
    for name in ("held", "new"):
        with raw.nothing_changes():
            lines = [CHUNKED] if is_chunked else [f"Content-Length: {size}"]
            refused = raw.ask("PUT", f"/v1/AUTH_demo/c/{name}", *lines, f"ETag: {hashlib.md5(body + b'x').hexdigest()}",
                              body=chunks(body) + b"0\r\n\r\n" if is_chunked else body)
            assert refused.status == 422 and "Unprocessable" in refused.text
    right = hashlib.md5(body).hexdigest()
    accepted = raw.ask("PUT", "/v1/AUTH_demo/c/right", f"Content-Length: {size}", f'ETag: "{right.upper()}"', body=body)
    assert accepted.status == 201 and raw.get("c/right") == body


def test_more_than_an_object_may_hold_is_413_announced_or_not(raw):
    with raw.nothing_changes():
        refused = raw.ask("PUT", "/v1/AUTH_demo/c/held", f"Content-Length: {MAX_FILE_BYTES + 1}", "Expect: 100-continue")
        assert refused.status == 413 and "too large" in refused.text
        refused = raw.ask("PUT", "/v1/AUTH_demo/c/held", CHUNKED, body=chunks(BODY) * 2 + b"0\r\n\r\n")
        assert refused.status == 413 and "too large" in refused.text
    whole = (BODY * 2)[:MAX_FILE_BYTES]
    raw.put("c/largest", whole)
    assert raw.get("c/largest") == whole


@pytest.mark.parametrize("range_", ["bytes=0-", "bytes=0-1999999,1-2999999"])
def test_a_download_broken_off_lets_go_of_its_body(raw, range_):
    raw.put("c/large", BODY)
    for _ in range(8):                                     # both workers, local and remote replicas
        with raw.connection() as sock:
            sock.sendall(raw.head("GET", "/v1/AUTH_demo/c/large", f"Range: {range_}"))
            assert sock.recv(1000).startswith(b"HTTP/1.1 206")
            reset(sock)
    wait_until(lambda: not open_files(raw.node, lambda path: "/bodies/" in path), "bodies are closed")
    assert raw.get("c/large") == BODY


@pytest.mark.parametrize("condition", ["If-None-Match: *", f"If-Match: {'0' * 32}"])
def test_a_large_body_whose_condition_fails_leaves_nothing(raw, condition):
    with raw.nothing_changes():
        refused = raw.ask("PUT", "/v1/AUTH_demo/c/held", f"Content-Length: {len(BODY)}", condition, body=BODY)
        assert refused.status == 412


def test_a_chunked_body_may_be_empty_and_have_extensions_and_trailers(raw):
    for data, body in ((b"0\r\n\r\n", b""), (b"3;name=value\r\nabc\r\n00\r\nA: b\r\n\r\n", b"abc"),
                       (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789")):
        assert raw.ask("PUT", "/v1/AUTH_demo/c/odd", CHUNKED, body=data).status == 201 and raw.get("c/odd") == body
