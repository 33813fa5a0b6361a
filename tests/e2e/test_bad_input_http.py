"""Requests that are no HTTP, or too much of it: a clear answer, a closed connection, nothing lost, and on it goes."""
import pytest

from tests.e2e.raw_client import is_closed, raw_node, read_answer, send_all


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    with raw_node(tmp_path_factory.mktemp("node")) as made:
        yield made


MALFORMED = [
    # bytes in front of the token, status, words of the answer
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "Malformed"),                    # TLS to the wrong port
    (b"\r\n\r\n\r\n\0\0\0", 400, "Malformed"),
    (b"GET\r\n\r\n", 405, "method"),
    (b"get / HTTP/1.1\r\nHost: h\r\n\r\n", 405, "method"),
    (b"GET / HTTP/1.1\nHost: h\n\n", 400, "CR LF"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n", 400, "CR LF"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nA: \0\r\n\r\n", 400, "control character"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n", 400, "Malformed"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nA : b\r\n\r\n", 400, "Malformed"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n", 400, "Malformed"),
    (b"GET / HTTP/1.1\r\n\r\n", 400, "Host header is missing"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", 400, "More than one Host"),
    (b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400, "Malformed"),
    (b"GET /#x HTTP/1.1\r\nHost: h\r\n\r\n", 400, "fragment"),
    (b"GET nowhere HTTP/1.1\r\nHost: h\r\n\r\n", 400, "Malformed"),
    (b"GET / HTTP/3.0\r\nHost: h\r\n\r\n", 505, "HTTP/1.1"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/1.1"),
    (b"GET / FTP/1.1\r\nHost: h\r\n\r\n", 400, "Malformed"),
    (b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 405, "not a path"),
    (b"BREW / HTTP/1.1\r\nHost: h\r\n\r\n", 405, "method"),
    (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414, "too long"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"b" * 9_000 + b"\r\n\r\n", 431, "too large"),
    (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(129)) + b"\r\n", 431, "128"),
    (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"A%d: %s\r\n" % (n, b"b" * 8_000) for n in range(9)) + b"\r\n", 431, "too large"),
]


@pytest.mark.parametrize(("data", "status", "words"), MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_request_is_refused_with_the_reason(raw, data, status, words):
    with raw.connection() as sock:
        reader = sock.makefile("rb")
        send_all(sock, data + raw.head("DELETE", "/v1/AUTH_demo/c/held"))          # what follows is not looked at
        refused = read_answer(reader)
        assert (refused.status, words in refused.text) == (status, True), refused.text
        assert refused.fields["connection"] == "close" and refused.fields["x-trans-id"].startswith("tx") and is_closed(reader)
    assert raw.get("c/held") == b"what was there before"


@pytest.mark.parametrize("piece", [b"A: bbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n", b"b"])
def test_a_header_without_an_end_is_cut_off(raw, piece):
    with raw.connection() as sock:
        reader = sock.makefile("rb")
        sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nX: ")
        for _ in range(200):
            send_all(sock, piece * (1_000 // len(piece)))
        refused = read_answer(reader)
        assert refused.status == 431 and "too large" in refused.text and is_closed(reader)
    assert raw.get("c/held") == b"what was there before"


LENGTHS = [
    (["Content-Length: x"], 400, "Content-Length"), (["Content-Length: -1"], 400, "Content-Length"),
    (["Content-Length: +1"], 400, "Content-Length"), (["Content-Length: 1e1"], 400, "Content-Length"),
    (["Content-Length: 0x1"], 400, "Content-Length"), (["Content-Length: 1 1"], 400, "Content-Length"),
    (["Content-Length: 1, 1"], 400, "Content-Length"), (["Content-Length: 1", "Content-Length: 2"], 400, "Content-Length"),
    (["Content-Length: "], 400, "Content-Length"), (["Content-Length: \u00b2"], 400, "Content-Length"),
    ([f"Content-Length: {10**18}"], 400, "Content-Length"),
    (["Content-Length: 1", "Transfer-Encoding: chunked"], 400, "Transfer-Encoding"),
    (["Transfer-Encoding: gzip"], 501, "chunked"), (["Transfer-Encoding: gzip, chunked"], 501, "chunked"),
    (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 400, "Transfer-Encoding"),
    (["Transfer-Encoding: xchunked"], 501, "chunked"), (["Content-Length: 1", "Expect: tea"], 417, "expectation"),
    ([], 411, "Content-Length"), ([f"Content-Length: {10**17}"], 413, "too large"),
]


@pytest.mark.parametrize(("lines", "status", "words"), LENGTHS, ids=range(len(LENGTHS)))
def test_a_length_that_is_wrong_or_missing_is_refused_before_the_body(raw, lines, status, words):
    with raw.nothing_changes():
        refused = raw.ask("PUT", "/v1/AUTH_demo/c/held", *lines)
        assert (refused.status, words in refused.text) == (status, True), (refused.status, refused.text)


def test_chunks_need_http_1_1(raw):
    with raw.nothing_changes():
        refused = raw.send(raw.head("PUT", "/v1/AUTH_demo/c/held", "Transfer-Encoding: chunked", version="1.0") + b"0\r\n\r\n")
        assert refused.status == 400 and "HTTP/1.1" in refused.text


def test_bytes_behind_a_body_are_the_next_request_and_nothing_else(raw):
    with raw.connection() as sock:
        reader = sock.makefile("rb")
        sock.sendall(raw.head("PUT", "/v1/AUTH_demo/c/short", "Content-Length: 3") + b"abcdef")
        assert read_answer(reader).status == 201 and read_answer(reader).status == 400 and is_closed(reader)
    assert raw.get("c/short") == b"abc"
