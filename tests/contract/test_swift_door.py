"""The Swift API over any store: accounts, containers, objects, who may do what, and answers to bad input."""
import hashlib
import re

import pytest

from common.errors import BodyTooShort, Overloaded, QuorumNotMet
from proxy.config import LimitsConfig
from tests.contract.swift_client import Slow, swift

BIG = bytes(range(256)) * 1200                           # 307 200 bytes: no store keeps it inline


def md5(data):
    return hashlib.md5(data).hexdigest()


# accounts

async def test_an_account_begins_with_the_first_request_of_its_owner(open_store):
    async with swift(open_store) as client:
        head = await client.call("HEAD", "")
        assert head.status == 204
        assert [head.headers[f"x-account-{name}"] for name in ("container-count", "object-count", "bytes-used")] == ["0", "0", "0"]
        assert re.fullmatch(r"\d{10}\.\d{5}", head.headers["x-timestamp"])
        assert (await client.call("GET", "")).status == 204
        listing = await client.call("GET", "", query="format=json")
        assert (listing.status, listing.body) == (200, b"[]")


async def test_a_container_can_be_the_first_thing_an_owner_makes(open_store):
    async with swift(open_store) as client:
        assert (await client.call("PUT", "c")).status == 201
        assert await client.names("") == ["c"]


async def test_account_metadata_merges_and_an_empty_value_removes(open_store):
    async with swift(open_store) as client:
        assert (await client.call("POST", "", {"X-Account-Meta-Color": "blue", "X-Account-Meta-Size": "xl"})).status == 204
        await client.call("POST", "", {"X-Account-Meta-Color": "r\u00f6t".encode(), "X-Remove-Account-Meta-Size": "x"})
        head = await client.call("HEAD", "")
        assert head.headers["x-account-meta-color"] == "r\u00f6t" and "x-account-meta-size" not in head.headers
        await client.call("POST", "", {"X-Account-Meta-Color": ""})
        assert "x-account-meta-color" not in (await client.call("HEAD", "")).headers


async def test_figures_of_an_account_and_its_listing_follow_its_objects(open_store):
    async with swift(open_store) as client:
        for name in ("b", "a/x", "c"):
            await client.call("PUT", name.partition("/")[0])
        await client.put("a/one", b"12345")
        await client.put("a/two", b"123")
        await client.settle()
        head = await client.call("HEAD", "")
        assert head.headers["x-account-container-count"] == "3" and head.headers["x-account-object-count"] == "2"
        assert head.headers["x-account-bytes-used"] == "8"
        rows = (await client.call("GET", "", query="format=json&limit=1")).json
        assert [{key: row[key] for key in ("name", "count", "bytes")} for row in rows] == [{"name": "a", "count": 2, "bytes": 8}]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", rows[0]["last_modified"])
        assert (await client.call("GET", "", query="marker=a")).text == "b\nc\n"
        xml = await client.call("GET", "", query="format=xml&limit=1")
        assert xml.headers["content-type"] == "application/xml; charset=utf-8"
        assert '<account name="AUTH_demo"><container><name>a</name><count>2</count><bytes>8</bytes>' in xml.text


async def test_only_the_reseller_admin_makes_and_removes_accounts(open_store):
    async with swift(open_store) as client:
        await client.call("PUT", "c")
        for method in ("PUT", "DELETE"):
            assert (await client.call(method, "")).status == 403
            assert (await client.call(method, "", user=None)).status == 401
        assert (await client.call("PUT", "", user="ops:root", account="AUTH_new")).status == 201
        assert (await client.call("PUT", "", user="ops:root", account="AUTH_new")).status == 202
        assert (await client.call("DELETE", "", user="ops:root")).status == 204
        assert (await client.call("DELETE", "", user="ops:root")).status == 404
        gone = await client.call("GET", "")
        assert gone.status == 410 and gone.headers["x-account-status"] == "Deleted"
        assert (await client.call("GET", "c")).status == 404


async def test_a_reseller_admin_who_looks_at_a_missing_account_does_not_make_it(open_store):
    async with swift(open_store) as client:
        assert (await client.call("HEAD", "", user="ops:root", account="AUTH_typo")).status == 204
        assert (await client.call("PUT", "", user="ops:root", account="AUTH_typo")).status == 201


# containers

async def test_a_container_is_made_found_changed_and_removed(open_store):
    async with swift(open_store) as client:
        assert (await client.call("PUT", "c", {"X-Container-Meta-A": "1"})).status == 201
        assert (await client.call("PUT", "c", {"X-Container-Meta-B": "2"})).status == 202
        assert (await client.call("POST", "c", {"X-Container-Meta-A": "3", "X-Remove-Container-Meta-B": "x"})).status == 204
        head = await client.call("HEAD", "c")
        assert head.status == 204 and head.headers["x-container-meta-a"] == "3" and "x-container-meta-b" not in head.headers
        assert head.headers["x-container-object-count"] == "0" and head.headers["x-storage-policy"] == "standard"
        assert head.headers["last-modified"].endswith(" GMT") and head.headers["accept-ranges"] == "bytes"
        assert (await client.call("DELETE", "c")).status == 204
        for method in ("HEAD", "GET", "POST", "DELETE"):
            assert (await client.call(method, "c")).status == 404


async def test_a_container_with_objects_is_not_removed(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        await client.put("c/o", b"x")
        refused = await client.call("DELETE", "c")
        assert refused.status == 409 and b"<h1>Conflict</h1>" in refused.body
        await client.call("DELETE", "c/o")
        assert (await client.call("DELETE", "c")).status == 204


async def test_a_policy_is_chosen_once(open_store):
    async with swift(open_store) as client:
        assert (await client.call("PUT", "c", {"X-Storage-Policy": "silver"})).status == 201
        assert (await client.call("HEAD", "c")).headers["x-storage-policy"] == "Silver"
        assert (await client.call("PUT", "c")).status == 202
        assert (await client.call("PUT", "c", {"X-Storage-Policy": "standard"})).status == 409
        assert (await client.call("PUT", "d", {"X-Storage-Policy": "gold"})).status == 400


NAMES = ["a", "photos/", "photos/1.jpg", "photos/2.jpg", "photos/old/0.jpg", "z&<>\"'", "\u00fc/\u20ac", "\U0001f600"]


async def test_a_listing_has_three_forms(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        for name in NAMES:
            await client.put(f"c/{name}", b"hello", {"Content-Type": "text/x-test"})
        text = await client.call("GET", "c")
        assert text.text == "".join(f"{name}\n" for name in NAMES)
        assert text.headers["content-type"] == "text/plain; charset=utf-8"
        assert text.headers["x-container-object-count"] == "8" and text.headers["x-container-bytes-used"] == "40"
        row = (await client.call("GET", "c", {"Accept": "application/json;q=0.9, text/plain;q=0.1"})).json[0]
        assert row.pop("last_modified") and row == {"bytes": 5, "hash": md5(b"hello"), "name": "a", "content_type": "text/x-test"}
        xml = (await client.call("GET", "c", {"Accept": "text/xml"}, query="delimiter=/")).text
        assert xml.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<container name="c"><object><name>a</name><hash>')
        assert '<subdir name="photos/"><name>photos/</name></subdir>' in xml
        assert "<name>z&amp;&lt;&gt;&quot;&#x27;</name>" in xml


@pytest.mark.parametrize(("query", "expected"), [
    ("limit=2", ["a", "photos/"]), ("limit=0", []), ("limit=many", NAMES),
    ("marker=photos/2.jpg&end_marker=z", ["photos/old/0.jpg"]),
    ("prefix=photos/&delimiter=/", ["photos/", "photos/1.jpg", "photos/2.jpg", "photos/old/"]),
    ("delimiter=/", ["a", "photos/", "z&<>\"'", "\u00fc/", "\U0001f600"]),
    ("delimiter=/&marker=photos/", ["z&<>\"'", "\u00fc/", "\U0001f600"]),
    ("delimiter=.jp&prefix=photos/", ["photos/", "photos/1.jp", "photos/2.jp", "photos/old/0.jp"]),
    ("path=photos", ["photos/1.jpg", "photos/2.jpg"]), ("path=", ["a", "photos/", "z&<>\"'", "\U0001f600"]),
    ("reverse=true&limit=2", ["\U0001f600", "\u00fc/\u20ac"]),
    ("reverse=on&marker=photos/old/0.jpg&end_marker=a", ["photos/2.jpg", "photos/1.jpg", "photos/"]),
    ("reverse=1&delimiter=/", ["\U0001f600", "\u00fc/", "z&<>\"'", "photos/", "a"]),
    ("prefix=%C3%BC", ["\u00fc/\u20ac"]), ("prefix=none", []),
])
async def test_a_page_shows_what_its_query_asks_for(open_store, query, expected):
    async with swift(open_store) as client:
        await client.put("c")
        for name in NAMES:
            await client.put(f"c/{name}")
        assert await client.names("c", query) == expected


async def test_a_bad_listing_query_is_refused(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        assert (await client.call("GET", "c", query="limit=10001")).body == b"Maximum limit is 10000"
        assert (await client.call("GET", "c", query="limit=10001")).status == 412
        assert (await client.call("GET", "c", query="limit=" + "9" * 5000)).status == 412
        assert (await client.call("GET", "c", query="limit=" + "0" * 5000)).status == 204
        assert await client.names("c", query="limit=" + "0" * 5000 + "2") == await client.names("c", query="limit=2")
        assert (await client.call("GET", "c", query="prefix=%ff")).status == 400
        assert (await client.call("GET", "c", {"Accept": "image/png"})).status == 406
        assert (await client.call("GET", "c", {"Accept": "text"})).status == 400


# objects

@pytest.mark.parametrize("body", [b"", b"hello", BIG], ids=["empty", "small", "large"])
async def test_an_object_comes_back_as_it_was_sent(open_store, body):
    async with swift(open_store) as client:
        await client.put("c")
        fields = {"X-Object-Meta-Mood": "gr\u00fcn".encode(), "Content-Encoding": "br", "Etag": md5(body)}
        put = await client.put("c/o/o.txt", body, fields)
        assert put.status == 201 and put.headers["etag"] == md5(body) and put.headers["last-modified"].endswith("GMT")
        for method in ("GET", "HEAD"):
            found = await client.call(method, "c/o/o.txt")
            assert (found.status, found.body, found.length) == (200, body if method == "GET" else b"", len(body))
            assert found.headers["etag"] == md5(body) and found.headers["content-type"] == "text/plain"
            assert found.headers["x-object-meta-mood"] == "gr\u00fcn" and found.headers["content-encoding"] == "br"
            assert ("X-Object-Meta-Mood", "gr\u00fcn") in found.fields
            assert found.headers["last-modified"] == put.headers["last-modified"] and found.headers["accept-ranges"] == "bytes"
        await client.settle()
        assert (await client.call("HEAD", "c")).headers["x-container-bytes-used"] == str(len(body))


@pytest.mark.parametrize("name", [
    "/", "a//b", "..", ".", "a b", "%41", "?x=y", "\u00e9", "e\u0301", "\U0010ffff", "a\nb", "\x01", "x" * 1024])
async def test_any_utf8_name_is_a_name_of_its_own(open_store, name):
    async with swift(open_store) as client:
        await client.put("c")
        await client.put(f"c/{name}", name.encode())
        assert (await client.call("GET", f"c/{name}")).body == name.encode()
        assert await client.names("c") == [name]
        assert (await client.call("DELETE", f"c/{name}")).status == 204
        assert await client.names("c") == []


async def test_an_object_is_removed_once(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        await client.put("c/o", b"x")
        assert (await client.call("DELETE", "c/o")).status == 204
        for method in ("DELETE", "GET", "HEAD", "POST"):
            assert (await client.call(method, "c/o")).status == 404
        assert (await client.call("PUT", "none/o", body=b"x")).status == 404


async def test_post_replaces_metadata_and_keeps_the_type_and_the_body(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        await client.put("c/o", b"body", {"X-Object-Meta-A": "1", "Content-Type": "text/x-one", "Content-Disposition": "inline",
                                          "X-Delete-After": "60"})
        client.clock.advance(5_000_000)
        assert (await client.call("POST", "c/o", {"X-Object-Meta-B": "2"})).status == 202
        found = await client.call("GET", "c/o")
        assert found.body == b"body" and found.headers["content-type"] == "text/x-one" and found.headers["x-object-meta-b"] == "2"
        assert not {"x-object-meta-a", "content-disposition", "x-delete-at"} & set(found.headers)
        assert found.headers["x-timestamp"] >= f"{client.clock.now_us() / 1e6:.5f}"
        await client.call("POST", "c/o", {"Content-Type": "text/x-two"})
        assert (await client.call("HEAD", "c/o")).headers["content-type"] == "text/x-two"


async def test_an_expired_object_is_gone(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        now_s = client.clock.now_us() // 1_000_000
        await client.put("c/at", b"x", {"X-Delete-At": str(now_s + 10)})
        await client.put("c/after", b"x", {"X-Delete-After": "10"})
        assert (await client.call("HEAD", "c/after")).headers["x-delete-at"] == str(now_s + 10)
        client.clock.advance(10_000_000)
        assert [(await client.call("GET", f"c/{name}")).status for name in ("at", "after")] == [404, 404]


@pytest.mark.parametrize(("field", "value", "reason"), [
    ("X-Delete-At", "1", "X-Delete-At in past"), ("X-Delete-After", "0", "X-Delete-After in past"),
    ("X-Delete-After", "-5", "X-Delete-After in past"), ("X-Delete-At", "soon", "Non-integer X-Delete-At"),
    ("X-Delete-After", "", "Non-integer X-Delete-After"), ("X-Object-Meta-", "x", "Metadata name cannot be empty"),
    ("X-Object-Meta-A", "x" * 257, "Metadata value longer than 256: x-object-meta-a"),
    ("X-Object-Meta-" + "a" * 129, "x", "Metadata name too long: x-object-meta-" + "a" * 129),
    ("Content-Disposition", "x" * 8193, "Header value too long: content-disposition"),
    ("If-None-Match", '"abc"', "If-None-Match only supports *"),
    ("Content-Type", b"text/\xff", "Please specify a valid UTF-8 content type"),
])
async def test_a_field_that_means_nothing_is_refused_with_the_reason(open_store, field, value, reason):
    async with swift(open_store) as client:
        await client.put("c")
        refused = await client.call("PUT", "c/o", {field: value}, b"x")
        assert (refused.status, refused.text) == (400, reason)
        assert refused.headers["content-type"] == "text/plain; charset=UTF-8"
        assert await client.names("c") == []


async def test_metadata_has_a_limit_in_number_and_in_total(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        many = {f"X-Object-Meta-{n}": "v" for n in range(91)}
        assert (await client.call("PUT", "c/o", many, b"")).text == "Too many metadata items; max 90"
        heavy = {f"X-Object-Meta-{n}": "v" * 250 for n in range(17)}
        assert (await client.call("PUT", "c/o", heavy, b"")).text == "Total metadata too large; max 4096"
        first = {f"X-Container-Meta-A{n}": "v" for n in range(60)}
        second = {f"X-Container-Meta-B{n}": "v" for n in range(60)}
        assert (await client.call("POST", "c", first)).status == 204
        assert (await client.call("POST", "c", second)).status == 400            # together they are too many
        assert "x-container-meta-b0" not in (await client.call("HEAD", "c")).headers
        assert (await client.call("POST", "c", {"X-Container-Meta-X": b"\xff"})).text == "Metadata must be valid UTF-8"


async def test_names_have_a_limit(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        assert (await client.call("PUT", "x" * 257)).text == "Container name length of 257 longer than 256"
        assert (await client.call("PUT", "c/" + "\u00e9" * 513)).text == "Object name length of 1026 longer than 1024"
        assert (await client.call("PUT", "", user="ops:root", account="AUTH_" + "x" * 256)).status == 400


async def test_a_wrong_etag_leaves_nothing_behind(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        refused = await client.call("PUT", "c/o", {"Etag": md5(b"other")}, b"body")
        assert refused.status == 422 and b"Unprocessable Entity" in refused.body
        assert (await client.call("GET", "c/o")).status == 404
        assert (await client.call("PUT", "c/o", {"Etag": f'"{md5(b"body").upper()}"'}, b"body")).status == 201


async def test_a_body_without_a_length_needs_chunks(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        token = {"X-Auth-Token": await client.token()}
        assert (await client.raw("PUT", b"/v1/AUTH_demo/c/o", token, None, source=Slow(), length=0)).status == 411
        sent = await client.raw("PUT", b"/v1/AUTH_demo/c/o", token, None, source=Slow(b"abc", b"def"), length=None)
        assert sent.status == 201 and (await client.call("GET", "c/o")).body == b"abcdef"


async def test_a_body_that_is_too_large_is_refused_announced_or_not(open_store):
    async with swift(open_store, limits=LimitsConfig(max_file_size=10)) as client:
        await client.put("c")
        token = {"X-Auth-Token": await client.token()}
        announced = Slow(b"x" * 11)
        assert (await client.raw("PUT", b"/v1/AUTH_demo/c/o", token, None, source=announced, length=11)).status == 413
        assert not announced.was_read
        chunked = Slow(b"x" * 6, b"x" * 6)
        assert (await client.raw("PUT", b"/v1/AUTH_demo/c/o", token, None, source=chunked, length=None)).status == 413
        assert await client.names("c") == []


async def test_a_body_cut_short_leaves_the_old_object(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        await client.put("c/o", b"old")
        cut = Slow(b"ne", BodyTooShort(expected_bytes=3, got_bytes=2))
        token = {"X-Auth-Token": await client.token()}
        assert (await client.raw("PUT", b"/v1/AUTH_demo/c/o", token, None, source=cut, length=3)).status == 499
        assert (await client.call("GET", "c/o")).body == b"old"


async def test_large_objects_are_refused_until_they_are_served(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        assert (await client.call("PUT", "c/o", {"X-Object-Manifest": "c/seg"}, b"")).status == 501
        assert (await client.call("PUT", "c/o", body=b"[]", query="multipart-manifest=put")).status == 501


# ranges and conditions

@pytest.mark.parametrize("size", [10, 300_000])
@pytest.mark.parametrize(("text", "start", "stop"), [
    ("bytes=0-3", 0, 4), ("bytes=4-", 4, None), ("bytes=-3", -3, None), ("bytes=8-99999999", 8, None)])
async def test_a_range_is_answered_with_its_bytes(open_store, size, text, start, stop):
    async with swift(open_store) as client:
        body = BIG[:size]
        await client.put("c")
        await client.put("c/o", body)
        found = await client.call("GET", "c/o", {"Range": text})
        expected = body[start:stop]
        first = start % size
        assert (found.status, found.body, found.length) == (206, expected, len(expected))
        assert found.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{size}"


@pytest.mark.parametrize("body", [b"0123456789", BIG], ids=["small", "large"])
async def test_several_ranges_come_as_parts(open_store, body):
    async with swift(open_store) as client:
        await client.put("c")
        await client.put("c/o", body, {"Content-Type": "text/x-test"})
        found = await client.call("GET", "c/o", {"Range": "bytes=0-1,5-6,-2"})
        boundary = found.headers["content-type"].removeprefix("multipart/byteranges;boundary=")
        head = f"--{boundary}\r\nContent-Type: text/x-test\r\nContent-Range: bytes "
        size = len(body)
        expected = (f"{head}0-1/{size}\r\n\r\n".encode() + body[:2] + f"\r\n{head}5-6/{size}\r\n\r\n".encode() + body[5:7]
                    + f"\r\n{head}{size - 2}-{size - 1}/{size}\r\n\r\n".encode() + body[-2:] + f"\r\n--{boundary}--".encode())
        assert (found.status, found.body, found.length) == (206, expected, len(expected))


async def test_ranges_outside_are_refused_and_ranges_that_mean_nothing_are_ignored(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        await client.put("c/o", b"0123456789")
        await client.put("c/empty", b"")
        refused = await client.call("GET", "c/o", {"Range": "bytes=10-"})
        assert refused.status == 416 and refused.headers["content-range"] == "bytes */10" and refused.length is None
        for text in ("bytes=5-2", "lines=1-2", "bytes=a-b", "bytes="):
            assert (await client.call("GET", "c/o", {"Range": text})).status == 200
        assert (await client.call("GET", "c/empty", {"Range": "bytes=-5"})).status == 200
        assert (await client.call("GET", "c/empty", {"Range": "bytes=0-"})).status == 416
        assert (await client.call("GET", "c/o", {"Range": "bytes=0-1", "If-Range": '"other"'})).status == 200
        assert (await client.call("GET", "c/o", {"Range": "bytes=0-1", "If-Range": md5(b"0123456789")})).status == 206


PAST, FUTURE = "Mon, 01 Jan 2001 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"


@pytest.mark.parametrize(("fields", "status"), [
    ({"If-Match": "*"}, 200), ({"If-Match": "TAG"}, 200), ({"If-Match": '"x", "TAG"'}, 200), ({"If-Match": "x"}, 412),
    ({"If-None-Match": "*"}, 304), ({"If-None-Match": 'W/"TAG"'}, 304), ({"If-None-Match": "x"}, 200),
    ({"If-Modified-Since": PAST}, 200), ({"If-Modified-Since": FUTURE}, 304), ({"If-Modified-Since": "never"}, 200),
    ({"If-Unmodified-Since": PAST}, 412), ({"If-Unmodified-Since": FUTURE}, 200),
    ({"If-None-Match": "x", "If-Modified-Since": FUTURE}, 200), ({"If-Match": "TAG", "If-Unmodified-Since": PAST}, 200),
    ({"If-Modified-Since": "SAME"}, 304), ({"If-Unmodified-Since": "SAME"}, 200),
])
async def test_a_reader_may_set_conditions(open_store, fields, status):
    async with swift(open_store) as client:
        await client.put("c")
        put = await client.put("c/o", b"body")
        words = {"TAG": md5(b"body"), "SAME": put.headers["last-modified"]}
        fields = {name: re.sub("TAG|SAME", lambda found: words[found[0]], value) for name, value in fields.items()}
        for method in ("GET", "HEAD"):
            found = await client.call(method, "c/o", fields)
            assert found.status == status
            if status == 304:
                assert found.body == b"" and found.headers["etag"] == md5(b"body")


async def test_a_writer_may_set_conditions(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        assert (await client.call("PUT", "c/o", {"If-Match": "*"}, b"1")).status == 412
        assert (await client.call("PUT", "c/o", {"If-None-Match": "*"}, b"1")).status == 201
        assert (await client.call("PUT", "c/o", {"If-None-Match": "*"}, b"2")).status == 412
        assert (await client.call("PUT", "c/o", {"If-Match": md5(b"1")}, b"3")).status == 201
        assert (await client.call("DELETE", "c/o", {"If-Match": md5(b"1")})).status == 412
        assert (await client.call("GET", "c/o")).body == b"3"
        assert (await client.call("DELETE", "c/o", {"If-Match": md5(b"3")})).status == 204


# copies

@pytest.mark.parametrize("body", [b"", b"small", BIG], ids=["empty", "small", "large"])
@pytest.mark.parametrize("verb", ["COPY", "PUT"])
async def test_a_copy_has_the_bytes_and_the_metadata_of_its_source(open_store, verb, body):
    async with swift(open_store) as client:
        await client.put("c")
        await client.put("d")
        await client.put("c/\u00e4 b", body, {"X-Object-Meta-A": "1", "X-Object-Meta-B": "2", "Content-Type": "text/x-test",
                                             "Content-Encoding": "br"})
        fields = {"X-Object-Meta-B": "3"}
        if verb == "COPY":
            copied = await client.call("COPY", "c/\u00e4 b", fields | {"Destination": "d/x%2Fy"})
        else:
            copied = await client.call("PUT", "d/x/y", fields | {"X-Copy-From": "/c/%C3%A4%20b"})
        assert copied.status == 201 and copied.headers["etag"] == md5(body)
        assert copied.headers["x-copied-from"] == "c/%C3%A4%20b" and copied.headers["x-copied-from-account"] == "AUTH_demo"
        found = await client.call("GET", "d/x/y")
        assert found.body == body and found.headers["content-type"] == "text/x-test" and found.headers["content-encoding"] == "br"
        assert found.headers["x-object-meta-a"] == "1" and found.headers["x-object-meta-b"] == "3"


async def test_fresh_metadata_leaves_the_old_behind(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        await client.put("c/o", b"x", {"X-Object-Meta-A": "1", "Content-Type": "text/x-test"})
        await client.call("COPY", "c/o", {"Destination": "c/p", "X-Fresh-Metadata": "true", "X-Object-Meta-B": "2"})
        found = await client.call("HEAD", "c/p")
        assert "x-object-meta-a" not in found.headers and found.headers["x-object-meta-b"] == "2"
        assert found.headers["content-type"] == "text/x-test"


async def test_a_copy_can_take_a_part(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        await client.put("c/o", BIG)
        await client.call("COPY", "c/o", {"Destination": "c/p", "Range": "bytes=5-9"})
        assert (await client.call("GET", "c/p")).body == BIG[5:10]
        assert (await client.call("COPY", "c/o", {"Destination": "c/q", "Range": "bytes=999999999-"})).status == 416


@pytest.mark.parametrize(("fields", "status"), [
    ({}, 412), ({"Destination": "c"}, 412), ({"Destination": "c/"}, 412), ({"Destination": "/c/x%ff"}, 412),
    ({"Destination": "c/x", "Destination-Account": "a/b"}, 412), ({"Destination": "none/x"}, 404),
    ({"Destination": "c/" + "x" * 1025}, 400), ({"Destination": "c/x", "If-Match": "other"}, 412),
    ({"Destination": "c/x", "Destination-Account": "AUTH_other"}, 403),
])
async def test_a_copy_that_cannot_be_is_refused(open_store, fields, status):
    async with swift(open_store) as client:
        await client.put("c")
        await client.put("c/o", BIG)
        assert (await client.call("COPY", "c/o", fields)).status == status
        assert await client.names("c") == ["o"]


async def test_a_copy_needs_a_source_and_no_body(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        assert (await client.call("COPY", "c/none", {"Destination": "c/x"})).status == 404
        assert (await client.call("PUT", "c/x", {"X-Copy-From": "c/none"})).status == 404
        assert (await client.call("PUT", "c/x", {"X-Copy-From": "none"})).status == 412
        assert (await client.call("PUT", "c/x", {"X-Copy-From": "c/o"}, b"body")).status == 400


async def test_a_copy_goes_between_accounts_where_both_allow_it(open_store):
    async with swift(open_store) as client:
        await client.put("c", b"", {"X-Container-Read": "other:carol"})
        await client.put("c/o", b"shared")
        await client.put("inbox", user="other:carol", account="AUTH_other")
        fields = {"Destination": "inbox/o", "Destination-Account": "AUTH_other"}
        copied = await client.call("COPY", "c/o", fields, user="other:carol")
        assert copied.status == 201 and copied.headers["x-copied-from-account"] == "AUTH_demo"
        taken = await client.call("PUT", "inbox/p", {"X-Copy-From": "c/o", "X-Copy-From-Account": "AUTH_demo"},
                                  user="other:carol", account="AUTH_other")
        assert taken.status == 201
        back = await client.call("PUT", "c/p", {"X-Copy-From": "inbox/o", "X-Copy-From-Account": "AUTH_other"}, user="other:carol")
        assert back.status == 403


# the rest

async def test_info_tells_the_limits_and_health_is_ok(open_store):
    async with swift(open_store) as client:
        info = (await client.raw("GET", b"/info")).json
        assert info["swift"]["max_file_size"] == 5_368_709_122 and info["swift"]["container_listing_limit"] == 10_000
        assert info["swift"]["policies"] == [{"name": "standard", "aliases": "standard", "default": True},
                                             {"name": "Silver", "aliases": "Silver"}]
        assert (await client.raw("GET", b"/healthcheck")).body == b"OK"
        assert (await client.raw("POST", b"/info")).headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(("path", "status"), [
    (b"/v1", 412), (b"/v1/", 412), (b"/v1//c", 412), (b"/v1/AUTH_demo//o", 412), (b"/v1/AUTH_demo/c/%FF", 412),
    (b"/v1/AUTH_demo/c%00", 412), (b"/v1/AUTH_demo/c/%ed%a0%80", 412), (b"/v1.0/AUTH_demo/", 204),
    (b"/v1/AUTH_demo/c/", 404), (b"/recon/x", 404), (b"/auth/v9", 404), (b"/endpoints", 404), (b"/v1/AUTH_demo%2Fc", 404),
])
async def test_a_path_is_taken_apart_as_swift_does(open_store, path, status):
    async with swift(open_store) as client:
        assert (await client.raw("GET", path, {"X-Auth-Token": await client.token()})).status == status


async def test_a_method_that_is_not_there_is_405_with_those_that_are(open_store):
    async with swift(open_store) as client:
        refused = await client.call("PATCH", "c/o")
        assert refused.status == 405 and refused.headers["allow"] == "GET, HEAD, POST, PUT, DELETE, COPY, OPTIONS"
        options = await client.call("OPTIONS", "c", user=None)
        assert options.status == 200 and "COPY" not in options.headers["allow"]
        preflight = {"Origin": "http://x", "Access-Control-Request-Method": "GET"}
        assert (await client.call("OPTIONS", "c", preflight, user=None)).status == 401


async def test_every_answer_names_its_request(open_store):
    async with swift(open_store) as client:
        ids = set()
        for path in (b"/info", b"/v1/AUTH_demo", b"/v1/%FF", b"/auth/v1.0"):
            answer = await client.raw("GET", path)
            assert re.fullmatch(r"tx[0-9a-f]{21}-[0-9a-f]{10}", answer.headers["x-trans-id"])
            assert answer.headers["x-openstack-request-id"] == answer.headers["x-trans-id"]
            ids.add(answer.headers["x-trans-id"])
        assert len(ids) == 4


@pytest.mark.parametrize(("error", "status", "retry_after"), [
    (QuorumNotMet(needed=2), 503, "2"), (Overloaded(what="x", retry_after_s=7), 503, "7")])
async def test_errors_of_the_store_become_answers(open_store, error, status, retry_after):
    async with swift(open_store) as client:
        async def fail(*args, **options):
            raise error
        client.store.get_object = fail
        failed = await client.call("GET", "c/o")
        assert (failed.status, failed.headers["retry-after"], failed.headers["x-error-code"]) == (status, retry_after, error.code)
