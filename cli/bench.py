"""`holdfast bench` and `bench compare`: rates, latencies, CPU and memory of a running system, and whether it stored it all."""
from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from bench.compare import Comparison, compare_commits
from bench.generator import AUTO, KINDS, Generator, make_generator
from bench.report import (
    Compared,
    format_comparison,
    format_notes,
    format_results,
    make_compare_document,
    make_document,
)
from bench.session import Measured, Session
from bench.target import Login, Target
from bench.workloads import DEFAULT, Workload, parse_workloads
from cli.main import describe_error
from cli.up import add_where, find_root
from common.config import hint
from common.errors import BenchFailed
from common.secrets import load_secret
from node.endpoint import load_endpoint

_ABOUT = """\
Measure a running system, and check what it stored: rates, latencies, server CPU per operation, memory. It writes into containers of
its own and deletes them. `holdfast bench compare A B` runs two commits alternately: see `holdfast bench compare --help`.

The exit code is 1 if any operation failed or any check did, 2 for a command line that makes no sense."""
_AFTER = """\
Workloads: put get head delete mixed (4 GETs to 1 PUT), each of 4k 1m 64m; list (one operation is a page of 1000 names).
`put4k:64` is 64 connections; `get*` is all of the usual ones that match. The usual ones:
  """ + DEFAULT + """
Columns: others is the CPU that strangers took (cores); checks are bodies, ETags, rows and answers that were compared.

Examples:
  holdfast bench                                           the node of the default state directory
  holdfast bench --data /srv/store --workloads put4k:64,get4k:64 --seconds 3
  holdfast bench --endpoint http://10.0.0.5:8080 --user demo:demo --key-file key      a system elsewhere: no CPU, no memory
docs/performance.md says how each figure is taken and how to read it."""
_ABOUT_COMPARE = """\
Run two commits of this checkout alternately, each with a store of its own on free ports, and print B/A: the median of the ratios
of the pairs, and their quartiles. `~` marks a median that noise can explain: 1 lies between the quartiles. `.` is the checkout as
it is."""
_AFTER_COMPARE = """\
Trees and stores are made below $XDG_CACHE_HOME/holdfast-bench (--place elsewhere) and removed at the end; environments of commits
with other dependencies than this one stay there for the next time.

Examples:
  holdfast bench compare HEAD~1 HEAD
  holdfast bench compare main . --workloads put4k:64,get4k:64 --pairs 11 --seconds 2"""
_COMPARED = "put4k:64,get4k:64"


def main(argv: list[str]) -> int:
    """Run `holdfast bench ...`. Raises `StorageError`."""
    if argv[:1] == ["compare"]:
        return _compare(argv[1:])
    if argv and not argv[0].startswith("-"):
        print(f"holdfast bench: no such verb {argv[0]!r}{hint(argv[0], ['compare'])}; without one it measures", file=sys.stderr)
        return 2
    options = _parse(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    workloads = _workloads(options)
    generator = make_generator(os.environ, options.generator)
    results, problems = _measure(Target(find_login(options)), generator, workloads, options)
    document = make_document(results, generator=generator.kind, warning=generator.warning, problems=problems,
                             options={name: getattr(options, name) for name in ("seconds", "names", "objects", "seed")})
    _print(document, format_results(results) + format_notes(results, problems, generator.warning), options.json)
    return 0 if document["is_good"] else 1


def find_login(options: argparse.Namespace) -> Login:
    """From the endpoint.json of a node of this machine, or from --endpoint; --user and --key-file win over the demo user.

    Raises `BenchFailed`, `ConfigError`.
    """
    user, key = options.user, load_secret(Path(options.key_file)) if options.key_file else None
    if options.endpoint:
        if not user or key is None:
            raise BenchFailed(reason="--endpoint needs --user ACCOUNT:USER and --key-file FILE")
        url = options.endpoint.rstrip("/")
        return Login(auth_url=f"{url}/auth/v1.0" if urlsplit(url).path == "" else url, user=user, key=key, root_pid=options.pid)
    root = find_root(options)
    endpoint = load_endpoint(root)
    if endpoint is None:
        raise BenchFailed(reason=f"no node runs in {root}; `holdfast up --data {root}` starts one")
    demo: dict[str, Any] = endpoint.get("demo", {})
    user, key = user or demo.get("user"), key or demo.get("key")
    if not user or not key:
        raise BenchFailed(reason=f"the node in {root} has users of its own: --user ACCOUNT:USER and --key-file FILE are needed")
    return Login(auth_url=endpoint["urls"]["auth"], user=user, key=key, root_pid=options.pid or endpoint["pids"]["supervisor"])


def _measure(target: Target, generator: Generator, workloads: Sequence[Workload],
             options: argparse.Namespace) -> tuple[list[Measured], list[str]]:
    """What was measured, and what went wrong besides; a failure ends the run, and what it wrote is deleted."""
    session = Session(target, generator, seconds=options.seconds, seed=options.seed, names=options.names, objects=options.objects,
                      say=_say)
    results: list[Measured] = []
    problems: list[str] = []
    try:
        for workload in workloads:
            _say(f"{workload.name}: {options.seconds:g} s")
            results.append(session.measure(workload))
    except BenchFailed as error:
        problems.append(describe_error(error))
    finally:
        _say("deleting what was written")
        problems += session.close()
    return results, problems


def _compare(argv: list[str]) -> int:
    options = _parse_compare(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    workloads = _workloads(options)
    generator = make_generator(os.environ, options.generator)
    comparison = Comparison(commits=(options.a, options.b), workloads=tuple(workloads), pairs=options.pairs,
                            seconds=options.seconds, names=options.names, objects=options.objects, seed=options.seed,
                            place=options.place)
    compared, problems = compare_commits(comparison, generator, os.environ, say=_say)
    document = make_compare_document(compared, commits=(options.a, options.b), generator=generator.kind, warning=generator.warning,
                                     problems=problems, options={"seconds": options.seconds, "pairs": options.pairs})
    _print(document, _describe(compared, problems, generator.warning), options.json)
    return 0 if document["is_good"] else 1


def _describe(compared: Sequence[Compared], problems: Sequence[str], warning: str | None) -> str:
    measured = [one for row in compared for pair in row.pairs for one in pair if not one.is_good]
    return format_comparison(compared) + format_notes(measured, problems, warning)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="holdfast bench", description=_ABOUT, epilog=_AFTER,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_where(parser)
    parser.add_argument("--endpoint", metavar="URL", help="a system elsewhere: http://HOST:PORT, or its whole auth URL")
    parser.add_argument("--user", metavar="ACCOUNT:USER", help="who logs in (the demo user)")
    parser.add_argument("--key-file", metavar="FILE", help="a file, 0600, with the key of that user")
    parser.add_argument("--pid", type=int, metavar="N", help="with --endpoint: process whose tree is the server")
    _add_common(parser, usual=DEFAULT, seconds=8.0)
    return parser.parse_args(argv)


def _parse_compare(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="holdfast bench compare", description=_ABOUT_COMPARE, epilog=_AFTER_COMPARE,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="COMMIT_A")
    parser.add_argument("b", metavar="COMMIT_B")
    parser.add_argument("--pairs", type=_count, default=7, metavar="N", help="pairs of windows per workload (7)")
    parser.add_argument("--place", metavar="DIR", help="where trees and stores are made")
    _add_common(parser, usual=_COMPARED, seconds=3.0)
    return parser.parse_args(argv)


def _add_common(parser: argparse.ArgumentParser, *, usual: str, seconds: float) -> None:
    parser.set_defaults(usual=usual)
    parser.add_argument("--workloads", metavar="LIST", help=f"comma list ({'see below' if usual == DEFAULT else usual})")
    parser.add_argument("--connections", default="", metavar="LIST", help="for workloads that do not say how many, as in 1,16,64")
    parser.add_argument("--seconds", type=_seconds, default=seconds, metavar="S", help=f"of one window ({seconds:g})")
    parser.add_argument("--names", type=_count, default=10_000, metavar="N", help="names in the container that is listed (10000)")
    parser.add_argument("--objects", type=_count, default=2000, metavar="N",
                        help="objects of 4 KiB to read from (2000); a 32th of 1 MiB, a 500th of 64 MiB")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random choices (1)")
    parser.add_argument("--generator", choices=KINDS, default=AUTO, help="of the load: compiled C, or Python without a compiler")
    parser.add_argument("--json", action="store_true", help="everything, for a program")


def _workloads(options: argparse.Namespace) -> list[Workload]:
    try:
        connections = [_count(word) for word in options.connections.split(",") if word]
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise BenchFailed(reason=f"--connections {options.connections}: {error}") from error
    usual = re.sub(r":\d+", "", options.usual) if connections else options.usual
    return parse_workloads(options.workloads or usual, connections)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.05 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.05 and 3600")
    return value


def _print(document: dict[str, Any], text: str, is_json: bool) -> None:
    print(json.dumps(document, indent=2) if is_json else text, end="\n" if is_json else "")


def _say(line: str) -> None:
    """Progress goes where no result goes."""
    print(f"holdfast bench: {line}", file=sys.stderr, flush=True)


def _interrupt(_: int, __: FrameType | None) -> None:
    """SIGTERM ends it as Ctrl-C does: what was written and started is removed."""
    raise KeyboardInterrupt
