"""Only a process that is known to have ended is taken for ended."""
from __future__ import annotations

import os
import subprocess
import sys

from control.lease_owner import has_ended, make_owner


def owner_of_child():
    """Its name, and the process, which waits for the end of its input."""
    code = "import sys; from control.lease_owner import make_owner; print(make_owner(), flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             env={**os.environ, "PYTHONPATH": os.getcwd()})
    return child.stdout.readline().strip(), child


def test_a_process_that_runs_has_not_ended_and_one_that_was_killed_has_even_before_it_is_waited_for():
    owner, child = owner_of_child()
    try:
        assert not has_ended(make_owner()) and not has_ended(owner)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)      # a zombie now
        assert has_ended(owner)
    finally:
        child.communicate()
    assert has_ended(owner)


def test_another_process_with_the_same_number_is_not_the_same():
    host, boot, space, pid, start, rest = make_owner().split("/")
    assert has_ended("/".join((host, boot, space, pid, str(int(start) - 1), rest)))


def test_of_other_machines_boots_and_namespaces_nothing_is_known():
    host, boot, space, _, start, rest = make_owner().split("/")
    for other in ((f"{host}x", boot, space), (host, "00000000", space), (host, boot, "1")):
        assert not has_ended("/".join((*other, "999999999", start, rest)))
    assert not any(has_ended(text) for text in ("", "somebody", "a/b/c/d/e/f", "/////"))
