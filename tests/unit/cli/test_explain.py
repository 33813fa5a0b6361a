"""The story of a request, in words."""
from cli.explain import format_story

ENTRY = {"txid": "tx1", "time_us": 1_700_000_000_123_000, "status": 503, "ms": 5.25, "method": "PUT", "path": "/v1/a/c/o",
         "parameters": {}, "peer": "10.0.0.1", "user": "", "code": "quorum_not_met", "reason": "", "worker": 1,
         "devices": {"0": {"name": "d1", "state": "ok", "is_counted": True, "reason": ""},
                     "1": {"name": "d2", "state": "ok", "is_counted": False, "reason": "not counted, waits for copy"}}}


def tell(*chain, **fields):
    return format_story({**ENTRY, "chain": [{"rule": rule, "facts": facts} for rule, facts in chain], **fields})


def test_devices_have_their_names_and_how_they_are_now():
    reason = "not counted, waits for copy"
    answers = [{"device": 0, "asked": "look", "code": "deadline_exceeded", "ms": 5000.0, "times": 2},
               {"device": 1, "asked": "look", "code": "not_counted", "ms": 0.1, "times": 1, "reason": reason}]
    facts = {"path": "/a/c", "needed": 2, "replicas": 3, "answered": [7], "answers": answers}
    assert tell(("quorum.look", facts)) == """\
tx1
Asked       PUT /v1/a/c/o
            2023-11-14 22:13:20.123 UTC, from 10.0.0.1, by nobody we know
Answered    503 quorum_not_met after 5.25 ms, by worker 1

Decided by  quorum.look
Because     too few devices could be asked about /a/c: 2 of 3 are needed
Devices
  device d1 was asked to say what it holds: no answer, after 5000 ms, 2 times
  device d2 was asked to say what it holds: not counted, waits for copy, after 0.1 ms
  device 7 of the ring answered
What to do  bring the devices named here back; `holdfast status` says what each of them needs. Then the client may try again
            now: device d1 says that it is well
            now: device d2 is not counted, waits for copy
"""


def test_a_rule_without_words_shows_its_facts():
    story = tell(("older_config", {"mine": 3, "theirs": 2, "answers": {"0": "full"}}))
    assert "Because     older_config: mine=3, theirs=2" in story


def test_names_of_clients_do_not_reach_the_terminal_as_commands():
    story = tell(("acl.write", {"user": "a:\x1b[2J", "acl": "x\ny"}), path="/v1/a/\x1b]0;c/o", parameters={"\x07": "\x9b"})
    assert all(c.isprintable() or c == "\n" for c in story)


def test_a_command_that_is_shown_can_be_pasted():
    story = tell(("acl.write", {"user": "a:b c", "acl": "", "container": "my $(reboot)"}))
    assert "swift post -w 'a:b c' 'my $(reboot)'" in story
