"""Who may do what through the Swift door, and logins, over any store."""
import re

import pytest

from tests.contract.swift_client import Slow, swift

EVERYTHING = [(method, path) for path in ("", "c", "c/o", "none", "none/o")
              for method in ("GET", "HEAD", "PUT", "POST", "DELETE", "COPY") if method != "COPY" or "/" in path]


@pytest.mark.parametrize(("method", "path"), EVERYTHING)
async def test_strangers_get_401_and_others_403_whatever_exists(open_store, method, path):
    async with swift(open_store) as client:
        await client.put("c")
        await client.put("c/o", b"x")
        fields = {"Destination": "c/p"} if method == "COPY" else {}
        stranger = await client.call(method, path, fields, user=None)
        assert stranger.status == 401 and stranger.headers["www-authenticate"] == 'Swift realm="AUTH_demo"'
        for user in ("demo:bob", "other:carol"):
            assert (await client.call(method, path, fields, user=user)).status == 403
        assert await client.names("c") == ["o"]


async def test_a_refused_upload_is_not_read(open_store):
    async with swift(open_store) as client:
        await client.put("c")
        for token, status in (("", 401), ("AUTH_tkforged", 401), (await client.token("demo:bob"), 403)):
            body, fields = Slow(b"secret"), {"X-Auth-Token": token}
            refused = await client.raw("PUT", b"/v1/AUTH_demo/c/o", fields, None, source=body, length=6)
            assert refused.status == status and not body.was_read


async def test_a_forged_token_is_refused_even_where_all_may_read(open_store):
    async with swift(open_store) as client:
        await client.put("c", b"", {"X-Container-Read": ".r:*"})
        await client.put("c/o", b"x")
        token = await client.token()
        for forged in (token[:-2] + "AA", "AUTH_tk", "AUTH_tk!!", "AUTH_tk\u00e9".encode(), token + "A" * 10_000):
            refused = await client.raw("GET", b"/v1/AUTH_demo/c/o", {"X-Auth-Token": forged})
            assert refused.status == 401 and refused.headers["www-authenticate"] == 'Swift realm="AUTH_demo"'
        assert (await client.raw("GET", b"/v1/AUTH_demo/c/o", {"X-Auth-Token": "of another system"})).status == 200


async def test_a_public_container_is_read_by_all_and_listed_if_it_says_so(open_store):
    async with swift(open_store) as client:
        await client.put("c", b"", {"X-Container-Read": ".r:*"})
        await client.put("c/o", b"x")
        assert (await client.call("GET", "c/o", user=None)).body == b"x"
        assert (await client.call("GET", "c/none", user=None)).status == 404
        assert (await client.call("GET", "c", user=None)).status == 401
        await client.call("POST", "c", {"X-Container-Read": ".r:*,.rlistings", "X-Container-Meta-Temp-Url-Key": "k"})
        listing = await client.call("GET", "c", user=None)
        assert listing.text == "o\n"
        assert not {"x-container-read", "x-container-meta-temp-url-key"} & set(listing.headers)
        own = await client.call("HEAD", "c")
        assert own.headers["x-container-read"] == ".r:*,.rlistings" and own.headers["x-container-meta-temp-url-key"] == "k"
        await client.call("POST", "c", {"X-Remove-Container-Read": "x"})
        assert (await client.call("GET", "c/o", user=None)).status == 401


async def test_referrers_are_let_in_by_host(open_store):
    async with swift(open_store) as client:
        await client.put("c", b"", {"X-Container-Read": ".r:*.example.com,.r:-evil.example.com"})
        await client.put("c/o", b"x")
        for page, status in (("http://www.example.com/x", 200), ("http://evil.example.com/", 401), ("http://example.org", 401),
                             ("http://[", 401)):
            assert (await client.call("GET", "c/o", {"Referer": page}, user=None)).status == status


@pytest.mark.parametrize(("acl", "may"), [
    ("demo:bob", True), ("demo", True), ("readers", True), ("*", True), ("*:*", True), ("demo:*", True),
    ("other", False), ("demo:alice", False), ("bob", False), (".rlistings", False)])
async def test_acls_name_users_accounts_and_groups(open_store, acl, may):
    async with swift(open_store) as client:
        await client.put("c", b"", {"X-Container-Read": acl, "X-Container-Write": acl})
        await client.put("c/o", b"x")
        for method, path, allowed in (("GET", "c/o", 200), ("GET", "c", 200), ("POST", "c/o", 202), ("PUT", "c/o", 201),
                                      ("DELETE", "c/o", 204)):
            assert (await client.call(method, path, user="demo:bob")).status == (allowed if may else 403)
            assert (await client.call(method, path, user=None)).status == 401
        for method in ("PUT", "POST", "DELETE"):
            assert (await client.call(method, "c", user="demo:bob")).status == 403


@pytest.mark.parametrize(("field", "acl"), [
    ("Read", ".x:y"), ("Read", ".r:"), ("Read", ".r:-"), ("Read", ".r:*."), ("Write", ".r:*"), ("Read", b"\xff")])
async def test_an_acl_that_means_nothing_is_refused(open_store, field, acl):
    async with swift(open_store) as client:
        await client.put("c")
        for method in ("PUT", "POST"):
            assert (await client.call(method, "c", {f"X-Container-{field}": acl})).status == 400
        assert f"x-container-{field.lower()}" not in (await client.call("HEAD", "c")).headers


async def test_a_prefix_with_a_required_group_needs_a_service_token_beside_the_users(open_store):
    async with swift(open_store) as client:
        assert (await client.call("PUT", "c", account="SERVICE_demo")).status == 403
        service = {"X-Service-Token": await client.token("svc:glance")}
        assert (await client.call("PUT", "c", service, account="SERVICE_demo")).status == 201
        assert (await client.call("PUT", "c", service, account="SERVICE_demo", user="other:carol")).status == 403
        bob = {"X-Service-Token": await client.token("demo:bob")}
        assert (await client.call("PUT", "c", bob, account="SERVICE_demo")).status == 403


@pytest.mark.parametrize("account", ["OTHER_demo", "AUTH_", "AUTH_.internal", ".internal"])
async def test_nobody_reaches_accounts_that_are_not_clients(open_store, account):
    async with swift(open_store) as client:
        assert (await client.call("PUT", "c", account=account, user="ops:root")).status == 403
        assert (await client.call("GET", "c/o", account=account, user=None)).status == 401


# logins

async def test_a_login_gives_a_token_and_the_storage_url(open_store):
    async with swift(open_store) as client:
        for path, fields in ((b"/auth/v1.0", {"X-Auth-User": "demo:alice", "X-Auth-Key": "wonder"}),
                             (b"/auth/v1.0/", {"X-Storage-User": "demo:alice", "X-Storage-Pass": "wonder"})):
            granted = await client.raw("GET", path, fields, scheme="https")
            assert granted.status == 200 and granted.headers["x-storage-url"] == "https://store.example:8080/v1/AUTH_demo"
            assert granted.headers["x-auth-token"] == granted.headers["x-storage-token"]
            assert granted.headers["x-auth-token-expires"] == "86400"
            assert (await client.raw("GET", b"/v1/AUTH_demo", {"X-Storage-Token": granted.headers["x-auth-token"]})).status == 204


@pytest.mark.parametrize(("host", "shown"), [
    ("a.example", "a.example"), ("[::1]:80", "[::1]:80"), ("", "10.0.0.1:81"), ("x/y", "10.0.0.1:81"), ("a b", "10.0.0.1:81"),
    ("a@b", "10.0.0.1:81"), ("<script>", "10.0.0.1:81"), ("a:b", "10.0.0.1:81"), ("a:80:80", "10.0.0.1:81"),
])
async def test_a_storage_url_repeats_only_what_is_a_host(open_store, host, shown):
    async with swift(open_store, listen="10.0.0.1:81") as client:
        fields = {"X-Auth-User": "demo:alice", "X-Auth-Key": "wonder"}
        granted = await client.raw("GET", b"/auth/v1.0", fields, scheme="https", host=host)
        assert granted.headers["x-storage-url"] == f"https://{shown}/v1/AUTH_demo"


@pytest.mark.parametrize("fields", [
    {}, {"X-Auth-User": "demo:alice"}, {"X-Auth-User": "demo:alice", "X-Auth-Key": "wrong"},
    {"X-Auth-User": "demo", "X-Auth-Key": "wonder"}, {"X-Auth-User": "demo:nobody", "X-Auth-Key": "wonder"},
    {"X-Auth-User": b"\xff:\xff", "X-Auth-Key": b"\xff"},
    {"X-Auth-User": "a\"b:c", "X-Auth-Key": "x"},
])
async def test_a_login_that_is_not_right_is_401(open_store, fields):
    async with swift(open_store) as client:
        refused = await client.raw("GET", b"/auth/v1.0", fields)
        assert refused.status == 401 and re.fullmatch(r'Swift realm="[^"\r\n]+"', refused.headers["www-authenticate"])


async def test_a_login_in_the_clear_can_be_forbidden(open_store):
    async with swift(open_store, refuses_plain_logins=True) as client:
        fields = {"X-Auth-User": "demo:alice", "X-Auth-Key": "wonder"}
        assert (await client.raw("GET", b"/auth/v1.0", fields, scheme="http")).status == 403
        assert (await client.raw("GET", b"/auth/v1.0", fields, scheme="https")).status == 200
