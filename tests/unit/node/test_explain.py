"""Finding the entry of a request among the workers, and the likely reason when there is none."""
import pytest

from common.clock import ManualClock
from common.errors import BadRequest, NotFound
from node.explain import explain, parse_txid

NOW_S = 1_700_000_000
MEMORY = {"refusals_max": 2000, "failures_max": 500, "started_us": (NOW_S - 3_600) * 1_000_000, "oldest_us": None}


def txid(age_s):
    return f"tx{7:021x}-{NOW_S - age_s:010x}"


def reason(age_s, answers):
    with pytest.raises(NotFound) as caught:
        explain(txid(age_s), answers, [], [], ManualClock(NOW_S * 1_000_000))
    return caught.value.fields["reason"]


@pytest.mark.parametrize("text", [txid(0), f" {txid(0)}\n", f"X-Trans-Id: {txid(0)}", txid(0).upper()])
def test_an_id_is_found_in_what_was_pasted(text):
    assert parse_txid(text) == txid(0)


@pytest.mark.parametrize("text", ["", "tx1", "../status", "tx" + "g" * 21 + "-0123456789"])
def test_what_is_no_id_is_refused(text):
    with pytest.raises(BadRequest):
        parse_txid(text)


def test_the_worker_that_has_the_entry_is_named():
    found = explain(txid(5), [None, {"entry": {"status": 404}, "memory": MEMORY}], [], [], ManualClock())
    assert found == {"status": 404, "worker": 1, "devices": {}}


def test_an_unknown_id_says_what_became_of_it():
    here = {"entry": None, "memory": MEMORY}
    assert "the request succeeded" in reason(60, [here, here])
    assert "nothing before 1 h ago is sure to be here" in reason(7_200, [here, here])
    full = {"entry": None, "memory": {**MEMORY, "oldest_us": (NOW_S - 60) * 1_000_000}}
    assert "nothing before 1 min ago" in reason(90, [here, full])
    assert "of another cluster" in reason(-7_200, [here])
    assert "1 of 2 workers did not answer" in reason(60, [here, None])
    assert "no worker answers" in reason(60, [None])
