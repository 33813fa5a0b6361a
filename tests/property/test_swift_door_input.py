"""Whatever bytes a client sends as path, query or field: an answer in Swift's form, never a crash; and rules that hold for all."""
import asyncio
from contextlib import asynccontextmanager

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import Refusal
from proxy.model import ObjectEntry, Page, Subdir
from proxy.swift.acl import clean_acl, parse_acl
from proxy.swift.conditional import parse_http_date
from proxy.swift.listing import _as_xml
from proxy.swift.ranges import parse_range, spans_for
from proxy.swift.router import split_path
from tests.contract.memory_store import MemoryStore, list_rows
from tests.contract.swift_client import swift

FIELDS = ["Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "X-Delete-At",
          "X-Delete-After", "X-Container-Read", "X-Container-Write",
          "Destination", "Destination-Account", "X-Copy-From", "Etag", "Content-Type",
          "X-Object-Meta-A", "X-Container-Meta-A", "X-Account-Meta-A", "Accept", "Referer", "X-Service-Token", "X-Storage-Policy",
          "X-Fresh-Metadata", "X-Detect-Content-Type", "Cache-Control"]
WORDS = ["bytes=", "0-", ",", "-5", "*", '"', "W/", ".r:", ".rlistings", "c/o", "/", "%", "%ff", "http://", "[", ":", ";q=",
         "9", "text/plain", "Sun, 06 Nov 1994 08:49:37 GMT", "99999999999999999999", "true"]
VALUES = st.one_of(st.binary(max_size=20), st.lists(st.sampled_from(WORDS), max_size=6).map(lambda words: "".join(words).encode()))
METHODS = st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE", "COPY", "OPTIONS", "PATCH"])
TARGETS = st.one_of(st.binary(max_size=30).map(b"/v1/AUTH_demo/".__add__), st.binary(max_size=30).map(b"/".__add__),
                    st.sampled_from([b"/v1/AUTH_demo", b"/v1/AUTH_demo/c", b"/v1/AUTH_demo/c/o", b"/auth/v1.0", b"/info"]))
QUERIES = st.one_of(st.binary(max_size=30), st.lists(st.sampled_from(
    [b"format=", b"json", b"xml", b"&", b"limit=", b"0", b"-1", b"marker=", b"%ff", b"delimiter=", b"/", b"reverse=on",
     b"path=", b"c"]), max_size=8).map(b"".join))


@asynccontextmanager
async def open_memory(clock):
    store = MemoryStore(clock)
    yield store, None
    assert store.open_bodies == 0


@settings(max_examples=500)
@given(method=METHODS, target=TARGETS, query=QUERIES, fields=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4))
def test_every_request_gets_an_answer(method, target, query, fields):
    async def run():
        async with swift(open_memory) as client:
            await client.put("c", b"", {"X-Container-Read": ".r:*"})
            await client.put("c/o", b"0123456789" * 20_000)
            token = {"X-Auth-Token": await client.token()}
            answer = await client.raw(method, target, fields | token, b"", query=query)
            assert 200 <= answer.status < 500 or answer.status == 501
            assert "x-trans-id" in answer.headers
            assert answer.length is None or method == "HEAD" or answer.length == len(answer.body)
            assert not any(c in name + value for name, value in answer.fields for c in "\r\n\0")
    asyncio.run(run())


@given(st.binary(max_size=40))
def test_a_path_becomes_names_or_412(raw):
    try:
        path = split_path(b"/v1/" + raw)
    except Refusal as refusal:
        assert refusal.status == 412
        return
    assert path.account and not (path.object and not path.container)
    assert "/" not in path.account and "/" not in path.container
    assert "/".join(filter(None, path)).encode() == raw.rstrip(b"/") or path.object or raw.endswith(b"/")


@given(account=st.text("ab\u00e9", min_size=1), container=st.text("ab\u00e9.", min_size=1), name=st.text("a/\u00e9\n", min_size=1))
def test_names_come_back_out_of_their_path(account, container, name):
    assert split_path(f"/v1/{account}/{container}/{name}".encode()) == (account, container, name)


@given(text=st.text(alphabet="bytes=0123-, ", max_size=25), length=st.integers(0, 50))
def test_spans_lie_inside_of_the_body_and_hold_what_was_asked_for(text, length):
    specs = parse_range("bytes=" + text)
    for span in spans_for(specs or [], length):
        assert 0 <= span.start < span.stop <= length
    if specs is not None and len(specs) == 1:
        (first, last), body = specs[0], bytes(range(length))
        if first is None:
            expected = body[-last:] if last else b""
        else:
            expected = body[first:None if last is None else last + 1]
        spans = spans_for(specs, length)
        assert (body[spans[0].start:spans[0].stop] if spans else b"") == expected


@given(st.text(alphabet=".r:*-,a b%c\u00e9", max_size=30), st.booleans())
def test_a_clean_acl_stays_clean_and_lets_in_nobody_new(text, is_write):
    try:
        cleaned = clean_acl(text, is_write=is_write)
    except Exception as error:
        assert getattr(error, "code", "") == "bad_request"
        return
    assert clean_acl(cleaned, is_write=is_write) == cleaned
    assert not (is_write and parse_acl(cleaned).referrers)


@given(st.text(max_size=40))
def test_any_text_is_a_date_or_none(text):
    assert parse_http_date(text) is None or isinstance(parse_http_date(text), int)


NOT_IN_XML = "".join(map(chr, [*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF]))
LEGAL = st.text(st.characters(exclude_categories=("Cs",), exclude_characters=NOT_IN_XML), min_size=1)


@given(st.lists(LEGAL, max_size=5), LEGAL)
def test_names_come_back_out_of_xml(names, container):
    from xml.etree import ElementTree
    entries = [ObjectEntry(name, 1, "e", "t/t", 0) for name in names] + [Subdir(name) for name in names]
    root = ElementTree.fromstring(_as_xml("container", container, entries).encode())
    assert root.get("name") == container
    assert [child.findtext("name") for child in root] == names + names
    assert [child.get("name") for child in root.iter("subdir")] == names


@given(names=st.sets(st.text("ab/", min_size=1, max_size=5), max_size=20), delimiter=st.sampled_from(["", "/", "a/"]),
       reverse=st.booleans(), limit=st.integers(1, 4))
def test_pages_one_after_the_other_are_the_whole_listing(names, delimiter, reverse, limit):
    rows = {name: ObjectEntry(name, 0, "", "", 0) for name in names}
    whole = list_rows(rows, Page(limit=1000, delimiter=delimiter, reverse=reverse))
    paged, marker = [], ""
    while page := list_rows(rows, Page(limit=limit, delimiter=delimiter, reverse=reverse, marker=marker)):
        paged += page
        marker = page[-1].name
    assert [row.name for row in paged] == [row.name for row in whole]
