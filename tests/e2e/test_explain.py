"""What a client got wrong finds its cause by the id in the answer, with one command."""
import asyncio
import io
import json
from contextlib import redirect_stdout
from urllib.parse import quote

import pytest

from cli.explain import UNKNOWN
from cli.main import main
from common.clock import ManualClock, SystemClock
from proxy.auth import User, V1Auth
from proxy.config import AuthConfig
from tests.e2e.conftest import call
from tests.e2e.raw_client import raw_node, read_answer

USER = User(account="demo", name="alice", groups=frozenset({".admin"}), key="wonder")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    with raw_node(tmp_path_factory.mktemp("node")) as made:
        yield made


def told(raw, txid, *options):
    """What `holdfast explain` prints."""
    with redirect_stdout(io.StringIO()) as out:
        assert main(["explain", txid, "--data", str(raw.node.root), *options]) == 0
    return out.getvalue()


def is_explained(raw, answer, status, rule, *words):
    """The answer has this status, its id leads to this rule; no story holds a secret."""
    assert answer.status == status, answer.text
    story = told(raw, answer.fields["x-trans-id"])
    assert f"Decided by  {rule}\n" in story and UNKNOWN not in story, story
    assert all(word in story for word in words), story
    whole = told(raw, answer.fields["x-trans-id"], "--json")
    assert json.loads(whole)["status"] == status
    assert all(secret not in whole for secret in ("wonder", "singer", "s3cret", *raw.tokens.values()))
    return story


def ask_with(raw, method, path, token, *lines):
    return raw.send(raw.head(method, path, f"X-Auth-Token: {token}", *lines, user=None), method=method)


def login(raw, user, key):
    status, body, fields = call("GET", raw.node.endpoint["urls"]["auth"], **{"X-Auth-User": user, "X-Auth-Key": key})
    return type("Answer", (), {"status": status, "text": body.decode(), "fields": fields})


def test_a_token_that_is_cut_short(raw):
    answer = ask_with(raw, "GET", "/v1/AUTH_demo/c", raw.tokens["demo:alice"][:-9])
    is_explained(raw, answer, 401, "auth.token_forged", "log in again")


def test_a_token_that_has_expired(raw):
    key = (raw.node.root / "secrets" / "token.key").read_text().strip().encode()
    auth = V1Auth([USER], AuthConfig(), token_key=key, clock=ManualClock(SystemClock().now_us() - 100 * 86_400 * 1_000_000))
    token = asyncio.run(auth.login("demo:alice", "wonder")).token
    auth.close()
    answer = ask_with(raw, "GET", "/v1/AUTH_demo/c", token)
    assert token not in is_explained(raw, answer, 401, "auth.token_expired", "demo:alice expired")


@pytest.mark.parametrize(("token", "rule", "words"), [
    ("0123456789abcdef-s3cret", "auth.token_unknown", "another cluster"),
    ("gAAAA-of-keystone-s3cret", "token.forged", "another cloud")], ids=["of no form we know", "like one of identity"])
def test_a_token_of_another_store(raw, token, rule, words):
    answer = ask_with(raw, "GET", "/v1/AUTH_demo", token)
    is_explained(raw, answer, 401, rule, words)


def test_a_wrong_key_and_a_user_that_is_none(raw):
    is_explained(raw, login(raw, "demo:alice", "s3cret"), 401, "auth.wrong_key", "wrong key for demo:alice")
    is_explained(raw, login(raw, "demo:alcie", "s3cret"), 401, "auth.unknown_user", "there is no user demo:alcie")


def test_the_account_of_somebody_else(raw):
    answer = raw.ask("GET", "/v1/AUTH_demo", user="other:carol")
    is_explained(raw, answer, 403, "account.owner", "other:carol is not one", "as other:carol")


def test_a_write_that_no_acl_grants(raw):
    raw.ask("POST", "/v1/AUTH_demo/c", "X-Container-Write: demo:bob", "Content-Length: 0")
    answer = raw.ask("PUT", "/v1/AUTH_demo/c/o", "Content-Length: 1", body=b"x", user="other:carol")
    is_explained(raw, answer, 403, "acl.write", 'write ACL is "demo:bob"', "swift post -w demo:bob,other:carol c")


def test_a_page_that_the_referrer_acl_leaves_out(raw):
    raw.ask("PUT", "/v1/AUTH_demo/open", "X-Container-Read: .r:.example.org", "Content-Length: 0")
    path = "/v1/AUTH_demo/open/x?temp_url_sig=s3cret&limit=3"
    answer = raw.ask("GET", path, "Referer: http://evil.example.com/s3cret", user=None)
    story = is_explained(raw, answer, 401, "acl.referrer", "swift post -r .r:.example.org,.r:evil.example.com open")
    assert "temp_url_sig=..." in story


def test_a_container_that_is_missing(raw):
    answer = raw.ask("PUT", "/v1/AUTH_demo/nowhere/o", "Content-Length: 0")
    is_explained(raw, answer, 404, "container.not_found", "PUT /v1/AUTH_demo/nowhere/o", "as demo:alice")
    is_explained(raw, raw.ask("PUT", "/v1/AUTH_demo/nowhere/o", "Content-Length: 0", user="other:carol"), 403, "container.hidden")


def test_an_object_that_is_missing(raw):
    is_explained(raw, raw.ask("GET", "/v1/AUTH_demo/c/nothing"), 404, "object.not_found", "check the name")


def test_a_name_that_is_too_long(raw):
    answer = raw.ask("PUT", f"/v1/AUTH_demo/c/{'n' * 1025}", "Content-Length: 0")
    is_explained(raw, answer, 400, "limits.name", "1025 bytes", "max_object_name_length")


def test_a_name_that_is_not_utf8(raw):
    is_explained(raw, raw.ask("PUT", "/v1/AUTH_demo/c/%ff", "Content-Length: 0"), 412, "names.utf8", "/v1/AUTH_demo/c/%ff")


def test_metadata_that_is_too_large(raw):
    answer = raw.ask("PUT", "/v1/AUTH_demo/c/o", f"X-Object-Meta-Note: s3cret{'m' * 300}", "Content-Length: 0")
    is_explained(raw, answer, 400, "limits.meta_value", "x-object-meta-note of 306 bytes")


def test_a_body_with_the_wrong_etag(raw):
    answer = raw.ask("PUT", "/v1/AUTH_demo/c/o", f"ETag: {'0' * 32}", "Content-Length: 1", body=b"x")
    is_explained(raw, answer, 422, "body.etag", "9dd4e461268c8034f5c8564e155c67a6", "0" * 32)


def test_a_body_that_ends_early(raw):
    with raw.connection() as sock, sock.makefile("rb") as reader:
        sock.sendall(raw.head("PUT", "/v1/AUTH_demo/c/o", "Content-Length: 1000000") + b"only this")
        sock.shutdown(1)
        is_explained(raw, read_answer(reader, method="PUT"), 499, "body.short", "9 of 1000000 bytes", "send it again")


def test_a_condition_that_does_not_hold(raw):
    answer = raw.ask("PUT", "/v1/AUTH_demo/c/held", "If-None-Match: *", "Content-Length: 1", body=b"x")
    is_explained(raw, answer, 412, "precondition.if_none_match", "another writer was first")
    answer = raw.ask("GET", "/v1/AUTH_demo/c/held", "If-Match: abc")
    is_explained(raw, answer, 412, "precondition.if_match", "asked for the state with ETag abc")


def test_a_container_that_is_not_empty(raw):
    is_explained(raw, raw.ask("DELETE", "/v1/AUTH_demo/c"), 409, "container.not_empty", "swift delete c")


def test_a_policy_that_is_unknown(raw):
    answer = raw.ask("PUT", "/v1/AUTH_demo/new", "X-Storage-Policy: gold", "Content-Length: 0")
    is_explained(raw, answer, 400, "policy.unknown", "no storage policy gold", "there are: ")


def test_what_is_no_http(raw):
    answer = raw.send(b"GET /v1/AUTH_demo?temp_url_sig=s3cret HTTP/1.1\r\nHost: h\r\nX: 1\r\n folded\r\n\r\n")
    is_explained(raw, answer, 400, "http.malformed", "GET /v1/AUTH_demo\n", "Malformed request")
    answer = raw.send(b"X-Auth-Key: s3cret\r\n\r\n")
    is_explained(raw, answer, 405, "http.malformed", "bytes that are no request")


def test_an_id_of_which_nothing_is_known_says_how_long_entries_are_kept(raw):
    answer = raw.ask("GET", "/v1/AUTH_demo/c")
    for txid, words in ((answer.fields["x-trans-id"], "the request succeeded"), (f"tx{1:021x}-{1:010x}", " d ago")):
        done = raw.node.run("explain", txid, "--data", str(raw.node.root))
        assert done.returncode == 1 and words in done.stderr and "last 2000 refusals (4xx) and 500 failures (5xx)" in done.stderr
    done = raw.node.run("explain", "what?", "--data", str(raw.node.root))
    assert done.returncode == 1 and "X-Trans-Id" in done.stderr


def test_an_id_is_taken_as_it_was_printed(raw):
    txid = raw.ask("GET", f"/v1/AUTH_demo/c/{quote('who knows')}").fields["x-trans-id"]
    done = raw.node.run("explain", f"< X-Trans-Id: {txid}", "--data", str(raw.node.root))
    assert done.returncode == 0 and "GET /v1/AUTH_demo/c/who%20knows\n" in done.stdout, done.stderr
