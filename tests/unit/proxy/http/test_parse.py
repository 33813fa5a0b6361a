"""What is a request and what is refused, without a socket."""
import pytest

from proxy.http.parse import HeadLimits, ProtocolError, check_partial, parse_head

LIMITS = HeadLimits()


def parse(text, limits=LIMITS):
    return parse_head(text.encode("latin-1") if isinstance(text, str) else text, limits)


def head(*lines, first="PUT /v1/a HTTP/1.1", host="Host: h"):
    return "\r\n".join([first, *([host] if host else []), *lines]) + "\r\n\r\n"


def refused(text, limits=LIMITS):
    with pytest.raises(ProtocolError) as caught:
        parse(text, limits)
    assert caught.value.reason
    return caught.value.status


def test_a_plain_head_is_understood():
    got = parse(head("X-A:  b\t ", first="GET /v1/a%20b?x=1&y HTTP/1.1"))
    assert (got.method, got.raw_path, got.raw_query, got.host, got.http_version) == ("GET", b"/v1/a%20b", b"x=1&y", "h", "1.1")
    assert got.headers.get("x-a") == "b" and got.length == 0 and got.keep_alive and not got.expects_continue


def test_raw_utf8_in_the_target_is_taken_as_if_it_were_encoded():
    assert parse("GET /v1/é HTTP/1.1\r\nHost: h\r\n\r\n".encode()).raw_path == b"/v1/%C3%A9"


@pytest.mark.parametrize("lines", [
    ("Content-Length: 4", "Transfer-Encoding: chunked"), ("Transfer-Encoding: chunked", "Content-Length: 4"),
    ("Content-Length: 4", "Content-Length: 4"), ("Content-Length: 4", "Content-Length: 5"),
    ("Content-Length: -1",), ("Content-Length: +1",), ("Content-Length: 0x4",), ("Content-Length: 4, 4",),
    ("Content-Length: ",), ("Content-Length: 1_0",), ("Content-Length: " + "9" * 19,), ("Content-Length: 4 4",),
    ("Transfer-Encoding : chunked",), (" Host: b",), ("X: a\r\n folded",), ("X: a\r\n\tfolded",), ("X: a\nY: b",),
    ("X: a\rb",), ("X: a\0b",), ("X: a\x7fb",), ("X: a\x0bb",), ("NoColon",), (": empty",), ("X y: z",), ("Host: other",)])
def test_what_two_readers_could_understand_differently_is_refused(lines):
    assert refused(head(*lines)) == 400


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "chunked, chunked", "identity", "xchunked", "chunked, gzip"])
def test_an_unknown_transfer_coding_is_501(coding):
    assert refused(head(f"Transfer-Encoding: {coding}")) in (400, 501)


def test_transfer_encoding_in_an_old_request_is_refused():
    assert refused(head("Transfer-Encoding: chunked", first="PUT / HTTP/1.0")) == 400


@pytest.mark.parametrize(("first", "status"), [
    ("FOO / HTTP/1.1", 405), ("get / HTTP/1.1", 405), ("CONNECT a:1 HTTP/1.1", 405), ("GET / HTTP/2.0", 505),
    ("PRI * HTTP/2.0", 505), ("GET /", 505), ("GET / HTTP/1.1 x", 400), ("GET / HTTP/1.12", 505), ("GET", 405),
    ("GET * HTTP/1.1", 400), ("GET /a#b HTTP/1.1", 400), ("GET /a b HTTP/1.1", 400), ("GET ftp://h/a HTTP/1.1", 400)])
def test_a_bad_request_line_is_refused(first, status):
    assert refused(head(first=first)) == status


def test_a_missing_host_is_refused_unless_the_client_is_old():
    assert refused(head(host=None)) == 400
    assert parse(head(host=None, first="GET / HTTP/1.0")).keep_alive is False


def test_an_absolute_target_names_the_host():
    got = parse(head(first="GET http://other:81/a?b HTTP/1.1"))
    assert (got.raw_path, got.raw_query, got.host) == (b"/a", b"b", "other:81")
    assert parse(head(first="GET http://other HTTP/1.1")).raw_path == b"/"


@pytest.mark.parametrize(("line", "first", "keeps"), [
    ("Connection: close", "GET / HTTP/1.1", False), ("Connection: TE, Close", "GET / HTTP/1.1", False),
    ("X: y", "GET / HTTP/1.1", True), ("Connection: keep-alive", "GET / HTTP/1.0", True), ("X: y", "GET / HTTP/1.0", False),
    ("Connection: upgrade\r\nUpgrade: h2c", "GET / HTTP/1.1", True)])
def test_the_wish_to_keep_the_connection(line, first, keeps):
    assert parse(head(line, first=first)).keep_alive is keeps


def test_expectations():
    assert parse(head("Content-Length: 4", "Expect: 100-Continue")).expects_continue
    assert not parse(head("Content-Length: 0", "Expect: 100-continue")).expects_continue
    assert not parse(head("Content-Length: 4", "Expect: 100-continue", first="PUT / HTTP/1.0")).expects_continue
    assert refused(head("Content-Length: 4", "Expect: 200-maybe")) == 417


def test_all_the_metadata_that_swift_allows_fits():
    lines = [f"X-Object-Meta-{'n' * 126}{i:02d}: {'v' * 256}" for i in range(90)]
    usual = [f"X-Usual-{i}: v" for i in range(30)] + ["X-Auth-Token: " + "t" * 8192]
    assert len(parse(head(*lines, *usual)).headers) == 122


@pytest.mark.parametrize(("text", "status"), [
    (head(*[f"A{i}: b" for i in range(200)]), 431), (head("A: " + "b" * 9000), 431),
    (head(*[f"A{i}: {'b' * 8000}" for i in range(9)]), 431), (head(first="GET /" + "a" * 17_000 + " HTTP/1.1"), 414)])
def test_a_head_that_is_too_large_is_refused(text, status):
    assert refused(text) == status


@pytest.mark.parametrize(("data", "status"), [
    (b"\x16\x03\x01\x02", 400), (b"hello", 400), (b"GET / HTTP/1.1\nHost: h\n\n", 400), (b"G" * 17_000, 414),
    (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 11_000, 431)])
def test_garbage_is_refused_before_its_end(data, status):
    with pytest.raises(ProtocolError) as caught:
        check_partial(data, LIMITS, 0)
    assert caught.value.status == status


def test_a_beginning_of_a_request_is_not_refused_wherever_it_was_cut():
    whole = head("X-A: b", "X-C: d").encode()
    for cut in range(1, len(whole)):
        for before in range(cut):
            check_partial(whole[:cut], LIMITS, before)
