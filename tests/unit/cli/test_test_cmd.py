"""`holdfast test`: which stages run, and what counts as a failure."""
from __future__ import annotations

import sys

from cli.test_cmd import Stage, main, plan_stages, run_stages


def names(stages):
    return [stage.name for stage in stages]


def test_root_runs_everything_in_one_go():
    assert names(plan_stages([], can_mount=True, can_unshare=True)) == ["ruff", "mypy", "pytest"]


def test_what_a_test_mounts_never_outlives_the_run():
    assert plan_stages([], can_mount=True, can_unshare=True)[-1].command[:2] == ("unshare", "-m")


def test_without_root_what_needs_it_runs_in_namespaces_and_nothing_runs_twice():
    *_, apart, rest = plan_stages([], can_mount=False, can_unshare=True)
    assert apart.command[0] == "unshare" and apart.command[-2:] == ("-m", "needs_root")
    assert rest.command[-2:] == ("-m", "not needs_root")


def test_where_nothing_gives_mounts_all_tests_are_still_collected_to_be_counted():
    assert names(plan_stages([], can_mount=False, can_unshare=False)) == ["ruff", "mypy", "pytest"]


def test_arguments_for_pytest_run_pytest_alone():
    (stage,) = plan_stages(["tests/unit", "-x"], can_mount=True, can_unshare=True)
    assert stage.command[-2:] == ("tests/unit", "-x") and "-n" in stage.command


def test_the_caller_may_choose_the_workers():
    (stage,) = plan_stages(["-n0"], can_mount=True, can_unshare=True)
    assert stage.command[-1] == "-n0" and "2" not in stage.command


def test_one_failed_stage_fails_the_run_and_the_others_still_run(capfd):
    stages = [Stage(name=name, command=(sys.executable, "-c", f"import sys; print('ran {name}'); sys.exit({code})"))
              for name, code in (("a", 0), ("b", 3), ("c", 0))]
    assert run_stages(stages, is_all=False) == 1
    out = capfd.readouterr().out
    assert "ran c" in out and "a ok" in out and "b FAILED" in out
    assert run_stages([stages[0], stages[2]], is_all=False) == 0


def test_no_matching_test_is_a_failure_unless_the_stage_expects_it():
    command = (sys.executable, "-c", "raise SystemExit(5)")
    assert run_stages([Stage(name="x", command=command)], is_all=False) == 1
    assert run_stages([Stage(name="x", command=command, is_empty_fine=True)], is_all=False) == 0


def test_a_command_line_it_cannot_read_exits_2(capsys):
    assert main(["al"]) == 2
    assert "Usage:" in capsys.readouterr().err
