"""The table of errors: every class has an answer, and none tells a client what belongs in the log."""
import pytest

import common.errors as e
from proxy.errors import answer, error_answer, front_errors, kind_of, make_txid

CLASSES = [cls for cls in vars(e).values() if isinstance(cls, type) and issubclass(cls, e.StorageError)]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_an_answer(cls):
    response = error_answer(cls())
    assert response.status == kind_of(cls()).status and 400 <= response.status <= 599 and response.body
    retries = [name for name, _ in response.headers if name == "Retry-After"]
    assert bool(retries) == (response.status in (503, 507))


@pytest.mark.parametrize(("cls", "status"), [
    (e.BadRequest, 400), (e.Unauthorized, 401), (e.Forbidden, 403), (e.NotFound, 404), (e.Conflict, 409),
    (e.PreconditionFailed, 412), (e.ChecksumMismatch, 422),
    (e.BodyTooShort, 499), (e.BodyTooLarge, 413), (e.ClientTimeout, 408), (e.QuorumNotMet, 503),
    (e.OutcomeUnknown, 503), (e.Overloaded, 503), (e.DeviceFull, 507), (e.DeadlineExceeded, 503), (e.DeviceUnavailable, 503)])
def test_statuses_are_those_of_swift(cls, status):
    assert kind_of(cls()).status == status


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls().is_retryable])
def test_what_may_be_tried_again_says_so(cls):
    assert kind_of(cls()).status == 503


def test_a_subclass_has_the_row_of_its_parent():
    class Wrong(e.BadRequest):
        code = "wrong_for_this_test"
    assert kind_of(Wrong()).status == 400


def test_the_reason_of_a_client_error_is_told_and_that_of_a_server_error_is_not():
    assert error_answer(e.BadRequest(reason="too long <b>")).body == b"too long <b>"
    assert ("Content-Type", "text/plain; charset=UTF-8") in error_answer(e.BadRequest(reason="x")).headers
    assert b"/dev/sda" not in error_answer(e.DeviceUnavailable(reason="/dev/sda broke")).body


def test_pages_have_swifts_form():
    page = answer(404)
    assert page.body == b"<html><h1>Not Found</h1><p>The resource could not be found.</p></html>"
    assert page.headers == [("Content-Type", "text/html; charset=UTF-8")]
    assert answer(201).body == answer(204).body == b""


def test_ids_and_the_answers_of_the_front():
    assert make_txid(1_700_000_000_000_000, 10) == "tx" + "0" * 20 + "a-006553f100"
    refused = front_errors(lambda: "txid")(431, "too large")
    assert (refused.status, refused.body) == (431, b"too large") and ("X-Trans-Id", "txid") in refused.headers
