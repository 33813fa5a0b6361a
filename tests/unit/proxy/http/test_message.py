"""Headers, queries and bodies without a socket."""
import asyncio

import pytest

from common.errors import BodyTooLarge
from proxy.http.message import CHUNK_BYTES_MAX, READY_BYTES_MAX, Body, FileBody, FileSpan, Headers, Request


def test_names_are_found_in_any_case_and_values_keep_their_bytes():
    headers = Headers([(b"X-Object-Meta-A", "é".encode()), (b"ETAG", b"x")])
    assert headers.get("etag") == "x" and "etag" in headers and "other" not in headers
    assert headers.get_bytes("x-object-meta-a") == "é".encode()
    assert headers.get("x-object-meta-a") == "é".encode().decode("latin-1")
    assert headers.get("other") is None and headers.get("other", "d") == "d"


def test_a_repeated_field_is_joined_and_can_be_had_apart():
    headers = Headers([(b"A", b"1"), (b"b", b"2"), (b"a", b"3")])
    assert headers.get("a") == "1, 3" and headers.getall("a") == ["1", "3"]
    assert list(headers.items()) == [("a", "1, 3"), ("b", "2")] and len(headers) == 2
    assert headers.raw_items()[2] == (b"a", b"3")


def request(path=b"/", query=b""):
    return Request(method="GET", raw_path=path, raw_query=query, headers=Headers([]), body=Body.from_bytes(b""))


def test_a_path_is_unquoted_to_bytes_once_even_if_it_is_not_utf8():
    assert request(b"/v1/a%2Fb/%ff%25").path == b"/v1/a/b/\xff%"
    assert request(b"/plus+stays").path == b"/plus+stays"


def test_a_query_keeps_blank_values_takes_plus_as_space_and_shows_bad_utf8():
    found = request(query=b"format=json&prefix=a+b%2Bc&reverse&marker=%C3%A9&bad=%ff&format=xml&&")
    assert found.query == {
        "format": "xml", "prefix": "a b+c", "reverse": "", "marker": "é", "bad": "\udcff"}
    assert found.query_param("limit") is None


def test_a_body_in_memory_is_taken_once():
    body = Body.from_bytes(b"abc")
    assert body.take_ready() == b"abc" and body.take_ready() is None
    assert asyncio.run(body.read_chunk()) == b""


def test_a_large_body_in_memory_is_not_ready_but_comes_in_chunks():
    async def read():
        body = Body.from_bytes(bytes(CHUNK_BYTES_MAX + 5))
        assert body.take_ready() is None
        return [len(await body.read_chunk()) for _ in range(3)]
    assert asyncio.run(read()) == [CHUNK_BYTES_MAX, 5, 0]
    assert Body.from_bytes(bytes(READY_BYTES_MAX)).take_ready() is not None


def test_read_all_refuses_before_and_while_reading():
    with pytest.raises(BodyTooLarge):
        asyncio.run(Body.from_bytes(b"12345").read_all(4))
    with pytest.raises(BodyTooLarge):
        asyncio.run(Body.from_bytes(b"12345").discard(4))
    assert asyncio.run(Body.from_bytes(b"12345").read_all(5)) == b"12345"


def test_a_file_body_is_closed_once():
    closed = []
    body = FileBody([b"ab", FileSpan(3, 0, 4)], 6, lambda: closed.append(1))
    body.close()
    body.close()
    assert closed == [1]
