"""The `holdfast` command: finds the module of a subcommand, and turns what went wrong into one line and an exit code.

Exit codes: 0 done, 1 it did not work (the reason is on standard error), 2 the command line makes no sense.
"""
from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

from common.config import hint
from common.errors import StorageError
from common.version import VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`module`.`function`(arguments after the command) -> exit code; imported only when it is asked for."""

    group: str
    name: str
    arguments: str
    summary: str
    module: str
    function: str = "main"


COMMANDS = (
    Command(group="Run a node", name="up", arguments="[--data DIR] [--listen HOST:PORT] [--devices N] [--detach]",
            summary="start a node; the first start makes a store of three devices", module="cli.up", function="up"),
    Command(group="Run a node", name="down", arguments="[--data DIR]", summary="stop it; requests that run may end",
            module="cli.up", function="down"),
    Command(group="Run a node", name="status", arguments="[--data DIR] [--json]",
            summary="what is wrong and what to do; workers, devices, fill, journals", module="cli.status", function="status"),
    Command(group="Run a node", name="explain", arguments="TXID [--data DIR] [--json]",
            summary="why a request was refused or failed, by the X-Trans-Id of its answer", module="cli.explain",
            function="explain"),
    Command(group="Run a node", name="jobs", arguments="[--state live|done|failed] [--resource ID] [--json]",
            summary="what the control plane is at: steps, attempts, errors", module="cli.jobs", function="jobs"),
    Command(group="Run a node", name="usage", arguments="[--account A] [--day D | --from D --to D] [--json]",
            summary="bytes, objects, requests and traffic, per account and day", module="cli.usage", function="usage"),
    Command(group="Run a node", name="identity", arguments="rotate-keys [--data DIR]",
            summary="seal tokens with a new key", module="cli.identity"),
    Command(group="Run a node", name="backup", arguments="create|verify|restore FILE [--data DIR] [--json]",
            summary="databases, keys, rings and configuration as one archive, and back", module="cli.backup"),
    Command(group="Install", name="install", arguments="[--dry-run] [--root DIR] [--no-start] [--rollback]",
            summary="as a service of this machine, or upgrade it; needs root", module="cli.install", function="install"),
    Command(group="Install", name="uninstall", arguments="[--dry-run] [--root DIR] [--purge [--yes]]",
            summary="remove it; data and configuration stay unless --purge", module="cli.uninstall", function="uninstall"),
    Command(group="Install", name="completion", arguments="bash|zsh|fish",
            summary="print a script that completes commands and options",
            module="cli.completion", function="completion"),
    Command(group="Configure", name="config", arguments="show|check|sample|hash-key",
            summary="what is set and where; is a file right; a file that explains all", module="cli.config_cmd"),
    Command(group="Configure", name="ring", arguments="FILE VERB ...",
            summary="make and inspect rings by hand; a node makes its own", module="cli.ring_builder"),
    Command(group="Measure", name="bench", arguments="[compare A B] [--data DIR]",
            summary="rates, latencies, CPU, memory, and was it all stored; two commits", module="cli.bench"),
    Command(group="Develop", name="test", arguments="[all] [-- PYTEST ARGUMENTS]", summary="lint, types and all tests",
            module="cli.test_cmd"),
    Command(group="Develop", name="version", arguments="", summary="print the version", module="cli.main", function="version"),
)

EXAMPLES = """\
Examples:
  holdfast up                             a store on 127.0.0.1:8080
  holdfast up --detach --data ~/store     in the background, in that directory
  holdfast status --data ~/store          how it is
  holdfast explain tx00c7...-006918e2a4   why that request was refused
  holdfast down --data ~/store            stop it; the data stays
  holdfast config sample > holdfast.toml  a file that explains every setting
  holdfast config check                   is it right? if not, which line?

`holdfast COMMAND --help` tells more about one command; in a checkout write
./holdfast. README.md has a tour of five minutes.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        return _help(arguments[1:])
    if arguments[0] in ("--version", "-V"):
        return version([])
    command = next((command for command in COMMANDS if command.name == arguments[0]), None)
    if command is None:
        near = hint(arguments[0], [command.name for command in COMMANDS])
        print(f"holdfast: no such command {arguments[0]!r}{near}\nRun `holdfast --help` for the commands.", file=sys.stderr)
        return 2
    return _run(command, arguments[1:])


def version(_: list[str]) -> int:
    """Print it."""
    print(f"holdfast {VERSION}")
    return 0


def format_help() -> str:
    """What `holdfast --help` prints: commands by group, then examples."""
    out = ["Holdfast: an object store that explains itself.\n", "Usage: holdfast COMMAND [ARGUMENTS]\n"]
    for group in dict.fromkeys(command.group for command in COMMANDS):
        out.append(f"{group}:")
        for command in COMMANDS:
            if command.group == group:
                out.append(f"  {f'{command.name} {command.arguments}'.rstrip()}\n      {command.summary}")
        out.append("")
    return "\n".join(out) + "\n" + EXAMPLES


def _help(arguments: list[str]) -> int:
    if arguments and not arguments[0].startswith("-"):
        return main([arguments[0], "--help"])
    print(format_help(), end="")
    return 0


def _run(command: Command, arguments: list[str]) -> int:
    """The edge: errors of ours become one line; a bug keeps its traceback."""
    try:
        run: Callable[[list[str]], int] = getattr(importlib.import_module(command.module), command.function)
        return run(arguments)
    except StorageError as error:
        print(f"holdfast: {describe_error(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()                     # `| head` has seen enough: no complaint at exit either
        return 141
    except KeyboardInterrupt:
        return 130


def describe_error(error: StorageError) -> str:
    """One sentence for an operator; problems of a configuration one line each."""
    fields = error.fields
    problems = fields.get("problems")
    if isinstance(problems, list):
        return "\n          ".join(str(problem) for problem in problems)
    if "where" in fields and "reason" in fields:
        return f"{fields['where']}: {fields['reason']}"
    return str(fields["reason"]) if "reason" in fields else str(error)
