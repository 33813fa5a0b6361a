"""Requests count for the account they are about, by class; what anybody could make up counts for nobody."""
import pytest

from proxy import usage as usage_module
from proxy.http.message import Body, Headers, Request
from proxy.usage import DELETES, LISTS, OTHERS, READS, RECEIVED, SENT, WRITES, UsageCounter


def request(method, path, received=0):
    return Request(method=method, raw_path=path.encode(), raw_query=b"", headers=Headers([]), body=Body(received, b""))


def counted(*asked):
    """Rows after (method, path, status, received, sent)."""
    counter = UsageCounter()
    for method, path, status, received, sent in asked:
        counter.note(request(method, path, received), status, sent)
    return counter.rows


@pytest.mark.parametrize(("method", "path", "kind"), [
    ("GET", "/v1/AUTH_a/c/o", READS), ("HEAD", "/v1/AUTH_a/c/o", READS), ("HEAD", "/v1/AUTH_a/c", READS),
    ("HEAD", "/v1/AUTH_a", READS), ("GET", "/v1/AUTH_a/c/x/y/", READS),
    ("GET", "/v1/AUTH_a/c", LISTS), ("GET", "/v1/AUTH_a", LISTS), ("GET", "/v1/AUTH_a/c/", LISTS), ("GET", "/v1.0/AUTH_a/", LISTS),
    ("PUT", "/v1/AUTH_a/c", WRITES), ("POST", "/v1/AUTH_a/c/o", WRITES), ("COPY", "/v1/AUTH_a/c/o", WRITES),
    ("DELETE", "/v1/AUTH_a/c/o", DELETES),
])
def test_a_request_counts_once_in_its_class_with_its_bytes(method, path, kind):
    row = counted((method, path, 200, 7, 11))["AUTH_a"]
    assert [at for at in (READS, WRITES, LISTS, DELETES) if row[at]] == [kind] and row[kind] == 1
    assert row[RECEIVED] == 7 and row[SENT] == 11


@pytest.mark.parametrize("status", [401, 403, 405, 500, 503])
def test_what_was_refused_or_failed_is_on_nobodys_account(status):
    rows = counted(("PUT", "/v1/AUTH_a/c/o", 201, 5, 0), ("GET", "/v1/AUTH_a/c/o", status, 0, 99))
    assert rows["AUTH_a"] == [0, 1, 0, 0, 5, 0]


def test_a_miss_counts_for_an_account_that_is_known_and_makes_no_other_one_known():
    rows = counted(("GET", "/v1/AUTH_b/c/o", 404, 0, 9), ("PUT", "/v1/AUTH_a/c/o", 201, 0, 0), ("GET", "/v1/AUTH_a/c/o", 404, 0, 9))
    assert rows == {"AUTH_a": [1, 1, 0, 0, 0, 9]}


@pytest.mark.parametrize("status", [408, 422, 499])
def test_an_upload_that_was_let_in_and_went_wrong_counts_also_as_the_first_of_its_account(status):
    assert counted(("PUT", "/v1/AUTH_a/c/o", status, 5, 9)) == {"AUTH_a": [0, 1, 0, 0, 5, 9]}
    assert counted(("PUT", "/v1/AUTH_a/c/o", status, 0, 9)) == {}


def test_every_way_to_write_a_name_is_the_same_account():
    rows = counted(*(("GET", f"/v1/{name}/c/o", 200, 0, sent)
                     for name, sent in (("AUTH_%61", 1), ("AUTH_a", 2), ("%41UTH_a", 4), ("AUTH_%61", 0))),
                   ("GET", "/v1%2FAUTH_a/c/o", 200, 0, 8), ("GET", "/%761/AUTH_a/c%2Fo", 200, 0, 16))
    assert rows == {"AUTH_a": [6, 0, 0, 0, 0, 31]}


@pytest.mark.parametrize("path", ["/", "/info", "/auth/v1.0", "/v1", "/v2/AUTH_a/c", "/healthcheck", "/v1//c"])
def test_what_is_about_no_account_counts_for_none(path):
    assert counted(("GET", path, 200, 0, 3)) == {}


def test_options_are_free_for_they_are_answered_to_anybody():
    assert counted(("OPTIONS", "/v1/made-up/c", 200, 0, 0)) == {}


def test_accounts_beyond_the_bound_count_together_and_lose_nothing(monkeypatch):
    monkeypatch.setattr(usage_module, "ACCOUNTS_MAX", 3)
    rows = counted(*(("GET", f"/v1/AUTH_{n}/c/o", 200, 0, 1) for n in range(10)))
    assert len(rows) == 4 and rows[OTHERS][SENT] == 7 and sum(row[READS] for row in rows.values()) == 10


def test_a_new_day_begins_at_zero():
    counter = UsageCounter()
    counter.note(request("GET", "/v1/AUTH_a/c/o"), 200, 5)
    counter.begin_day()
    counter.note(request("GET", "/v1/AUTH_a/c/o"), 200, 1)
    assert counter.rows == {"AUTH_a": [1, 0, 0, 0, 0, 1]}
