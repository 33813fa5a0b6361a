"""`holdfast up` and `holdfast down`: start a node in this terminal or in the background, and stop it."""
from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cli.demo import CURL_FILE, ENV_FILE, save_demo_files
from cli.main import describe_error
from common.clock import SystemClock
from common.config import Loaded
from common.errors import StorageError
from node.config import HoldfastConfig, load_config
from node.files import find_running
from node.state import LOG_FILE

_ABOUT_UP = """\
Start a node and print how to use it. It runs until Ctrl-C; with --detach in the background, until `holdfast down`.

The first start makes a store: a state directory with keys, a user demo:demo (unless the configuration has users), three
devices and a ring over them. Every later start with the same directory takes up what is there."""
_AFTER_UP = """\
Examples:
  holdfast up                                   a store in the default state directory, on 127.0.0.1:8080
  holdfast up --detach --data /srv/store        in the background; the log is /srv/store/holdfast.log
  holdfast up --data /tmp/try --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0     beside another one, on free ports

The state directory is --data, else node.data of the configuration, else /var/lib/holdfast (root) or ~/.local/share/holdfast.
For a disk of its own per device mount it at DIR/devices/d1, d2 ... before the first start.
SIGTERM or Ctrl-C: requests that run may end. SIGHUP: users, limits, TLS files and log settings are read again."""
_LOG_BYTES_MAX = 16 << 20                    # a log of an earlier run that is larger is set aside
_POLL_S = 0.05
_TAKING_LONG_S = 2.0


def up(argv: list[str]) -> int:
    """Run a node until it is told to stop; with --detach return once it serves. Raises `StorageError`."""
    options = _parse_up(argv)
    overrides = {"node.data": options.data, "node.listen": options.listen, "node.admin_listen": options.admin_listen,
                 "node.workers": options.workers, "node.devices": options.devices}

    def load() -> Loaded[HoldfastConfig]:
        return load_config(options.config, os.environ, overrides=overrides)

    loaded = load()
    device_count = loaded.value.node.devices if loaded.origins.get("node.devices", "default") != "default" else None
    if options.detach:
        return _run_detached(load, device_count, loaded.value.state_dir())
    return _run(load, device_count, say=_say, on_ready=_say_ready)


def down(argv: list[str]) -> int:
    """Stop the node of a state directory and wait for its end. Raises `StorageError`."""
    parser = argparse.ArgumentParser(prog="holdfast down", description="Stop a node: requests that run may end.")
    add_where(parser)
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="how long to wait for its end (60)")
    options = parser.parse_args(argv)
    root = find_root(options)
    pid = find_running(root)
    if pid is None:
        print(f"nothing runs in {root}")
        return 0
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass                                 # it ended between the two lines
    except PermissionError:
        print(f"holdfast: the node in {root} (process {pid}) belongs to another user", file=sys.stderr)
        return 1
    return _wait_stopped(root, pid, options.timeout)


def add_where(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which node a command is about."""
    parser.add_argument("--data", metavar="DIR", help="state directory of the node (its default: `holdfast up --help`)")
    parser.add_argument("--config", metavar="FILE", help="configuration file, instead of the one that would be found")


def find_root(options: argparse.Namespace) -> Path:
    """The state directory that `add_where`'s arguments mean. Raises `ConfigError`."""
    return load_config(options.config, os.environ, overrides={"node.data": options.data}).value.state_dir()


def announce(endpoint: Mapping[str, Any], loaded: Loaded[HoldfastConfig], say: Callable[[str], None]) -> str:
    """The ready message, and the files that its lines name. A disk that has no room for them stops no node."""
    try:
        save_demo_files(loaded.value.state_dir(), endpoint)
    except OSError as error:
        say(f"the demo user's files cannot be written: {error}")
    return ready_message(endpoint, loaded)


def ready_message(endpoint: Mapping[str, Any], loaded: Loaded[HoldfastConfig]) -> str:
    """Three lines to copy, and what else to know. No key is in them: command lines and screens are read by others."""
    urls, root = endpoint["urls"], loaded.value.state_dir()
    where = f" --data {shlex.quote(str(root))}" if loaded.origins.get("node.data", "default") != "default" else ""
    out = [f"\nready: {urls['swift']}   (`holdfast status{where}` tells more)\n"]
    if demo := endpoint.get("demo"):
        out.append(f"  curl:   curl -K {shlex.quote(str(root / CURL_FILE))} | curl -K - -i {demo['storage_url']}\n")
        out.append(f"  swift:  . {shlex.quote(str(root / ENV_FILE))}; swift stat\n")
    else:
        trust = f"--cacert {shlex.quote(endpoint['tls_cert'])} " if "tls_cert" in endpoint else ""
        out.append(f"  curl:   curl -i {trust}{urls['auth'].removesuffix('/auth/v1.0')}/info\n")
        out.append(f"  swift:  ST_AUTH={urls['auth']} ST_USER=ACCOUNT:USER ST_KEY=... swift stat, "
                   "for a user of the configuration\n")
    out.append(f"  keys:   {root}/secrets   docs: README.md, `holdfast --help`, `holdfast config sample`\n\n")
    if loaded.value.is_login_refused:
        out.append(f"holdfast: {loaded.value.node.listen} can be reached from outside and does not speak TLS, so logins are "
                   "refused. Set tls.cert and tls.key, or tls.insecure_http = true.\n\n")
    return "".join(out)


def _parse_up(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="holdfast up", description=_ABOUT_UP, epilog=_AFTER_UP,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_where(parser)
    parser.add_argument("--listen", metavar="HOST:PORT",
                        help="where clients connect (127.0.0.1:8080); :8080 is every interface, port 0 any free port")
    parser.add_argument("--admin-listen", metavar="HOST:PORT", help="status, metrics, health (127.0.0.1:9180)")
    parser.add_argument("--devices", type=int, metavar="N", help="devices to make at the first start (3); fixed after it")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that serve (one per core)")
    parser.add_argument("--detach", action="store_true", help="return when the node serves, and leave it running")
    return parser.parse_args(argv)


def _run(load: Callable[[], Loaded[HoldfastConfig]], device_count: int | None, *, say: Callable[[str], None],
         on_ready: Callable[[str], None]) -> int:
    """on_ready: takes the ready message."""
    from node.main import Launch, run_node

    return run_node(Launch(load=load, device_count=device_count, say=say,
                           on_ready=lambda endpoint: on_ready(announce(endpoint, load(), say))))


def _say_ready(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except OSError:
        pass                                 # the terminal is closed; the node goes on


def _say(line: str) -> None:
    try:
        print(f"holdfast: {line}", flush=True)
    except OSError:
        pass                                 # the terminal is closed; the node goes on


# detached: a child leads a session of its own and reports through a pipe; its standard output is the log from the start

def _run_detached(load: Callable[[], Loaded[HoldfastConfig]], device_count: int | None, root: Path) -> int:
    reading, writing = os.pipe()
    pid = os.fork()                          # before any thread or event loop
    if pid == 0:
        os.close(reading)
        _live_detached(load, device_count, root, writing)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as reports:
        code = _follow(reports)
    if code is not None:
        return code
    print(f"holdfast: the node ended before it was ready; {root / LOG_FILE} says why", file=sys.stderr)
    return 1


def _follow(reports: Any) -> int | None:
    """Print what the child reports: say, ready, failed, each a line of words up to a blank line. None if it just ended."""
    for line in reports:
        kind, _, text = line.rstrip("\n").partition(" ")
        text = text.replace("\x1f", "\n")
        if kind == "say":
            _say(text)
        elif kind == "ready":
            print(text, end="", flush=True)
            return 0
        elif kind == "failed":
            print(f"holdfast: {text}", file=sys.stderr)
            return 1
    return None


def _live_detached(load: Callable[[], Loaded[HoldfastConfig]], device_count: int | None, root: Path, writing: int) -> None:
    """The child; never returns."""
    pipe = os.fdopen(writing, "w", encoding="utf-8", errors="replace")

    def report(kind: str, text: str) -> None:
        try:
            print(kind, text.replace("\n", "\x1f"), file=pipe, flush=True)
        except (BrokenPipeError, ValueError):
            pass                             # the command that started us was interrupted, or has what it waited for

    def say(line: str) -> None:
        report("say", line)

    def on_ready(text: str) -> None:
        report("ready", text)
        pipe.close()

    code, is_redirected = 1, False
    try:
        os.setsid()
        from node.state import prepare_directory

        prepare_directory(root)
        _redirect(root / LOG_FILE)
        is_redirected = True
        code = _run(load, device_count, say=say, on_ready=on_ready)
    except StorageError as error:
        if is_redirected:                    # else it is the terminal, where the report is shown anyway
            print(f"holdfast: {describe_error(error)}", file=sys.stderr)
        report("failed", describe_error(error))
    except BaseException as error:           # the edge: nothing may go on as if this were the command that forked
        traceback.print_exc()
        report("failed", f"{error!r}; {root / LOG_FILE} has the traceback")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: Path) -> None:
    """Standard output and error go to the log, standard input comes from nowhere."""
    if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
        log.rename(log.with_name(log.name + ".1"))
    for path, flags, fds in ((os.devnull, os.O_RDONLY, (0,)), (os.fspath(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, (1, 2))):
        opened = os.open(path, flags, 0o640)
        for fd in fds:
            os.dup2(opened, fd)
        os.close(opened)


def _wait_stopped(root: Path, pid: int, timeout_s: float) -> int:
    clock = SystemClock()
    begin_s = clock.monotonic_s()
    has_told = False
    while find_running(root) == pid:
        waited_s = clock.monotonic_s() - begin_s
        if waited_s > timeout_s:
            print(f"holdfast: process {pid} has not ended within {timeout_s:g} s; it still finishes requests. "
                  f"`kill -9 {pid}` ends it at once and loses nothing that was acknowledged.", file=sys.stderr)
            return 1
        if waited_s > _TAKING_LONG_S and not has_told:
            print(f"holdfast: waiting for process {pid}: requests that run may end")
            has_told = True
        time.sleep(_POLL_S)
    print("stopped")
    return 0
