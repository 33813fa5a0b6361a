"""Who did what is in the log at each level, secrets are not, and no disk keeps anybody waiting."""
import asyncio
import json
import os
import threading

import pytest

from common.clock import ManualClock
from common.errors import Forbidden
from common.metrics import Registry, format_prometheus
from proxy.audit import HIDDEN, AuditConfig, AuditFile, AuditLog, Entry, format_entry
from proxy.http.message import Body, Headers, Request, Response

TOKEN = "AUTH_tk" + "Ab3-_xyZ" * 9


def request(method="PUT", path="/v1/AUTH_a/c", query="", headers=(), failed=None):
    made = Request(method=method, raw_path=path.encode(), raw_query=query.encode(), body=Body(5, b"12345"), peer="10.0.0.7",
                   headers=Headers([(name.encode(), value.encode()) for name, value in headers]))
    made.txid, made.failed = "tx1", failed
    return made


async def lines_of(tmp_path, *asked, level="admin", **config):
    """What is in the file after (request, status) or a function of the log."""
    audit = AuditLog(AuditConfig(level=level, **config), tmp_path, ManualClock())
    audit.who = lambda request: "demo:bob" if "x-auth-token" in request.headers else ""
    for what in asked:
        if callable(what):
            what(audit)
        else:
            audit.note(what[0], Response(what[1]), 7, 0.0021)
    await asyncio.sleep(0)
    await audit.close()
    path = tmp_path / "audit" / "audit.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def test_a_line_says_who_did_what_to_what_from_where_and_how_it_ended(tmp_path):
    line, = await lines_of(tmp_path, (request(headers=[("X-Auth-Token", TOKEN)]), 201))
    assert line == {"time": "2023-11-14T22:13:19.997900Z", "event": "container", "request": "tx1", "peer": "10.0.0.7",
                    "user": "demo:bob", "account": "AUTH_a", "door": "swift", "method": "PUT", "path": "/v1/AUTH_a/c",
                    "status": 201, "received": 5, "sent": 7, "ms": 2.1}


async def test_a_refusal_names_its_cause(tmp_path):
    error = Forbidden().because("acl.write")
    asked = request(path="/v1/AUTH_a/c/o", headers=[("X-Auth-Token", "t")], failed=(error, "demo:bob"))
    line, = await lines_of(tmp_path, (asked, 403))
    assert (line["event"], line["cause"], line["status"], line["user"]) == ("object", "acl.write", 403, "demo:bob")


CASES = [                                    # method, path, status, the lowest level that has it
    ("PUT", "/v1/AUTH_a", 201, "admin"), ("DELETE", "/v1/AUTH_a/c", 204, "admin"), ("POST", "/v1/AUTH_a/c/", 204, "admin"),
    ("POST", "/v1%2FAUTH_a/c", 204, "admin"), ("PUT", "/v1/AUTH_a/c", 503, "admin"),
    ("GET", "/auth/v1.0", 200, "admin"), ("GET", "/auth/v1.0", 401, "admin"),
    ("GET", "/v1/AUTH_a/c/o", 403, "admin"), ("HEAD", "/v1/AUTH_a", 401, "admin"),
    ("PUT", "/v1/AUTH_a/c/o", 201, "writes"), ("DELETE", "/v1/AUTH_a/c/o/", 404, "writes"),
    ("COPY", "/v1/AUTH_a/c/o", 201, "writes"), ("PUT", "/v1/AUTH_a/c%2Fo", 201, "writes"),
    ("GET", "/v1/AUTH_a/c/o", 200, "all"), ("GET", "/v1/AUTH_a/c", 200, "all"), ("HEAD", "/v1/AUTH_a", 204, "all"),
    ("GET", "/info", 200, "all"), ("GET", "/v1/AUTH_a/c/o", 404, "all"),
]
ORDER = ("none", "admin", "writes", "all")


@pytest.mark.parametrize("level", ORDER)
@pytest.mark.parametrize(("method", "path", "status", "lowest"), CASES)
async def test_each_level_has_what_it_says_and_no_more(tmp_path, method, path, status, lowest, level):
    found = await lines_of(tmp_path, (request(method, path), status), level=level)
    assert bool(found) == (ORDER.index(level) >= ORDER.index(lowest))


async def test_a_login_names_who_tried_and_not_with_which_key(tmp_path):
    asked = request("GET", "/auth/v1.0", headers=[("X-Auth-User", "demo:bob"), ("X-Auth-Key", "wonderland")])
    line, = await lines_of(tmp_path, (asked, 401))
    assert line["event"] == "login" and line["user"] == "demo:bob" and "wonderland" not in json.dumps(line)


async def test_calls_of_the_admin_api_are_there_with_who_was_let_in(tmp_path):
    good, bad = await lines_of(tmp_path, lambda audit: audit.note_admin("GET", "/admin/v1/status", "127.0.0.1", 200, 0.01, ""),
                               lambda audit: audit.note_admin("POST", "/admin/v1/x", "10.0.0.9", 401, 0.01, "unauthorized"))
    assert (good["door"], good["user"], good["path"]) == ("admin", "operator", "/admin/v1/status")
    assert "user" not in bad and bad["cause"] == "unauthorized" and bad["peer"] == "10.0.0.9"


HEADERS = [("X-Auth-Token", TOKEN), ("X-Service-Token", "service-secret-1"), ("X-Storage-Pass", "pass-word-2"),
           ("Authorization", "AWS4 Signature=abcdef99")]


@pytest.mark.parametrize(("path", "query"), [
    (f"/v1/AUTH_a/c/{TOKEN}", ""), (f"/v1/{TOKEN}/c", ""), ("/v1/AUTH_a/c/service-secret-1", ""),
    ("/v1/AUTH_a/c/o", "temp_url_sig=0123456789abcdef&temp_url_expires=5"), ("/v1/AUTH_a/c/token=0123456789abcdef", ""),
    ("/v1/AUTH_a/c/0123456789abcdef", "X-Amz-Signature=0123456789abcdef"), ("/v1/AUTH_a/c/sig%3D0123456789abcdef", ""),
    ("/v1/AUTH_a/c/" + "".join(f"%{ord(c):02x}" for c in TOKEN), ""), ("/v1/AUTH_a/c/%70ass-word-2", ""),
    ("/auth/v1.0", "key=0123456789abcdef&password=0123456789abcdef"),
])
async def test_no_secret_of_a_request_gets_in(tmp_path, path, query):
    lines = await lines_of(tmp_path, (request("PUT", path, query, HEADERS), 403), level="all")
    text = json.dumps(lines)
    for secret in (TOKEN, TOKEN[10:40], "service-secret-1", "pass-word-2", "abcdef99", "0123456789abcdef",
                   "".join(f"%{ord(c):02x}" for c in TOKEN), "%70ass-word-2"):
        assert secret not in text
    assert len(lines) == 1


@pytest.mark.parametrize("path", ["/v1/AUTH_a/c/Atkinson-family-2026-pictures", "/v1/AUTH_a/c/design=final",
                                  "/v1/AUTH_a/c/backup:1"])
async def test_plain_names_stay_as_they_are(tmp_path, path):
    line, = await lines_of(tmp_path, (request("DELETE", path), 204), level="all")
    assert line["path"] == path and HIDDEN not in json.dumps(line)


@pytest.mark.parametrize("query", [f"prefix={TOKEN}&marker=a", f"marker=x{TOKEN}", f"prefix={TOKEN.replace('_', '%5F')}"])
async def test_no_token_gets_in_as_the_value_of_a_parameter_that_is_shown(tmp_path, query):
    asked = request("GET", "/v1/AUTH_a/c", query, headers=[("X-Auth-Token", TOKEN)])
    line, = await lines_of(tmp_path, (asked, 200), level="all")
    assert TOKEN not in json.dumps(line) and HIDDEN in json.dumps(line["parameters"])


async def test_the_file_is_for_its_owner_and_group(tmp_path):
    await lines_of(tmp_path, (request(), 201))
    assert (tmp_path / "audit" / "audit.log").stat().st_mode & 0o777 == 0o640


async def test_level_and_file_follow_a_new_configuration(tmp_path):
    audit = AuditLog(AuditConfig(), tmp_path, ManualClock())
    audit.note(request(), Response(201), 0, 0.0)
    await asyncio.sleep(0)
    audit.configure(AuditConfig(level="all", file=str(tmp_path / "other.log")))
    audit.note(request("GET"), Response(200), 0, 0.0)
    await audit.close()
    assert [json.loads(line)["method"] for line in (tmp_path / "audit" / "audit.log").read_text().splitlines()] == ["PUT"]
    assert [json.loads(line)["method"] for line in (tmp_path / "other.log").read_text().splitlines()] == ["GET"]


# the file

def entry(number=0, path="/v1/a/c"):
    return Entry(number, "container", f"tx{number}", "10.0.0.7", "a:b", "a", "swift", "PUT", path, 201)


def numbers(*paths):
    return [json.loads(line).get("request") or json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_files_are_set_aside_by_size_and_the_oldest_go(tmp_path):
    path = tmp_path / "audit.log"
    file = AuditFile(path, bytes_max=1000, files_max=3)
    for number in range(40):
        file.add([entry(number)])
    file.close()
    names = sorted(os.listdir(tmp_path))
    assert names == ["audit.log", "audit.log.1", "audit.log.2"]
    found = numbers(tmp_path / "audit.log.2", tmp_path / "audit.log.1", path)
    assert found == [f"tx{number}" for number in range(40 - len(found), 40)] and len(found) > 10


def test_two_processes_that_rotate_one_file_lose_no_line_of_what_is_kept(tmp_path):
    path = tmp_path / "audit.log"
    files = [AuditFile(path, bytes_max=3000, files_max=1000) for _ in range(2)]
    for number in range(300):
        files[number % 2].add([entry(number)])
    for file in files:
        file.close()
    assert sorted(numbers(*tmp_path.iterdir())) == sorted(f"tx{number}" for number in range(300))


def test_after_others_have_renamed_the_file_lines_go_to_a_new_one(tmp_path):
    path = tmp_path / "audit.log"
    file = AuditFile(path)
    file.add([entry(1)])
    file.reopen(path)                            # done when what was before it is
    while file.waiting:
        pass
    path.rename(tmp_path / "old")
    file.add([entry(2)])
    file.close()
    assert numbers(tmp_path / "old") == ["tx1"] and numbers(path) == ["tx2"]


class Stuck(AuditFile):
    """A disk that does not answer until it is told to."""

    def __init__(self, path, **bounds):
        self.go_on, self.began = threading.Event(), threading.Event()
        super().__init__(path, **bounds)

    def _append(self, data):
        self.began.set()
        self.go_on.wait()
        super()._append(data)


def test_lines_that_a_stuck_disk_has_no_room_for_are_dropped_counted_and_told_of(tmp_path):
    path = tmp_path / "audit.log"
    file = Stuck(path, waiting_max=10)
    file.add([entry(0)])
    file.began.wait()
    for number in range(1, 30):
        file.add([entry(number)])
    assert file.waiting == 10 and file.dropped == 20
    file.go_on.set()
    file.add([])
    while file.waiting:
        pass
    file.add([entry(99)])
    file.close()
    found = [json.loads(line) for line in path.read_text().splitlines()]
    told = [line["lines"] for line in found if line["event"] == "dropped"]
    assert sum(told) == 20 and len([line for line in found if line["event"] == "container"]) == 11


def test_a_full_disk_costs_its_lines_and_the_file_stays_readable(tmp_path, monkeypatch):
    path = tmp_path / "audit.log"
    file = AuditFile(path)
    file.add([entry(1)])
    while file.waiting:
        pass
    write, calls = os.write, []

    def half(fd, data):
        calls.append(1)
        if len(calls) == 1:
            return write(fd, data[:20])
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "write", half)
        file.add([entry(2)])
        while file.waiting:
            pass
    file.add([entry(3)])
    file.close()
    good, torn = [], []
    for line in path.read_text().splitlines():
        try:
            good.append(json.loads(line))
        except ValueError:
            torn.append(line)
    assert [line.get("request") for line in good] == ["tx1", None, "tx3"] and good[1]["lines"] == 1
    assert len(torn) == 1 and file.dropped == 1


async def test_what_is_dropped_and_what_waits_are_metrics(tmp_path):
    registry = Registry()
    made = []

    def make(path):
        made.append(Stuck(path, waiting_max=2))
        return made[0]

    audit = AuditLog(AuditConfig(), tmp_path, ManualClock(), registry=registry, make_file=make)
    for _ in range(5):
        audit.note(request(), Response(201), 0, 0.0)
    await asyncio.sleep(0)
    text = format_prometheus(registry.snapshot())
    assert 'holdfast_audit_lines{state="dropped"} 3' in text and 'holdfast_audit_lines{state="waiting"} 2' in text
    made[0].go_on.set()
    await audit.close()


def test_a_line_without_a_value_leaves_the_field_out():
    assert json.loads(format_entry(entry()))["status"] == 201 and "cause" not in json.loads(format_entry(entry()))
