"""`holdfast explain TXID`: why a request was refused or failed, as a short story: what was asked, what decided, what to do."""
from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

from cli.explain_control import CONTROL_RULES
from cli.explain_rules import FALLBACK, Rule
from cli.explain_rules import RULES as OBJECT_RULES
from common.admin import AdminClient
from node.config import load_config
from node.explain import parse_txid

_TIMEOUT_S = 15.0
RULES = {**OBJECT_RULES, **CONTROL_RULES}
UNKNOWN = "(unknown)"
_ABOUT = """\
Why a request was refused (4xx) or failed (5xx). TXID is the X-Trans-Id of its answer, as printed by the client, or the
x-openstack-request-id (req-...) of an answer of the control plane."""
_AFTER = """\
Each worker keeps its last 2000 refusals and 500 failures since it was started; of requests that succeed nothing is kept.
No tokens, keys or signatures are among it.

Exit code: 0 found, 1 nothing is known of it (standard error says why, and how far back entries go)."""
_QUESTIONS = {"look": "to say what it holds", "prepare": "to promise", "accept": "to take the write", "row": "to list it",
              "rows": "for its rows", "page": "for a page", "body": "for the body"}
_CODES = {"deadline_exceeded": "no answer", "device_unavailable": "not available",
          "transport_lost": "its process could not be reached", "not_counted": "not counted", "full": "full",
          "overloaded": "overloaded", "promise_outstanding": "held up by another change", "no_body": "has no body",
          "corruption": "damaged", "clock": "clocks too far apart", "older_config": "has another ring"}


def explain(argv: list[str]) -> int:
    """Print the story. Returns 0. Raises `NotFound` (no such entry), `BadRequest` (no request id), `TransportLost`."""
    parser = argparse.ArgumentParser(prog="holdfast explain", description=_ABOUT, epilog=_AFTER,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("txid", metavar="TXID", help="the request id")
    parser.add_argument("--data", metavar="DIR", help="state directory of the node (its default: `holdfast up --help`)")
    parser.add_argument("--config", metavar="FILE", help="configuration file, instead of the one that would be found")
    parser.add_argument("--json", action="store_true", help="the whole entry, for programs")
    options = parser.parse_args(argv)
    txid = parse_txid(options.txid)
    root = load_config(options.config, os.environ, overrides={"node.data": options.data}).value.state_dir()
    entry = AdminClient.from_state(root, timeout_s=_TIMEOUT_S).get(f"/explain/{quote(txid)}")
    print(json.dumps(entry, indent=2) if options.json else format_story(entry), end="\n" if options.json else "")
    return 0


def format_story(entry: Mapping[str, Any]) -> str:
    """What was asked, what decided, why, and what to do."""
    chain = entry["chain"]
    rule = RULES.get(chain[0]["rule"], FALLBACK)
    out = [_asked(entry), f"\nDecided by  {chain[0]['rule']}\n", f"Because     {_fill(rule.why, entry, chain[0])}\n"]
    for link in chain[1:]:
        out.append(f"and         {_fill(RULES.get(link['rule'], FALLBACK).why, entry, link)}  ({link['rule']})\n")
    if entry.get("reason") and "{reason}" not in rule.why:
        out.append(f"Told        {entry['reason']}\n")
    out += _devices(entry)
    advice = _advice(rule, entry)
    if advice:
        out.append(f"What to do  {advice}\n")
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in "".join(out))      # names are for no terminal to obey


def _asked(entry: Mapping[str, Any]) -> str:
    when = datetime.fromtimestamp(entry["time_us"] / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    parameters = "&".join(f"{name}={value}" for name, value in entry["parameters"].items())
    path = entry["path"] + (f"?{parameters}" if parameters else "")
    what = f"{entry['method']} {path}" if entry["method"] else "bytes that are no request"
    user = f"as {entry['user']}" if entry["user"] else "by nobody we know"
    return (f"{entry['txid']}\nAsked       {what}\n"
            f"            {when} UTC, from {entry['peer'] or 'an unknown address'}, {user}\n"
            f"Answered    {entry['status']}{' ' + entry['code'] if entry['code'] else ''} after {entry['ms']:g} ms, "
            f"by worker {entry['worker']}\n")


def _devices(entry: Mapping[str, Any]) -> list[str]:
    """A line for each answer of a device, and for each that answered well."""
    out = []
    for link in entry["chain"]:
        for answer in _answers(link):
            times = f", {answer['times']} times" if answer["times"] > 1 else ""
            said = _said(_CODES.get(answer["code"], answer["code"]), answer.get("reason") or "")
            out.append(f"  {_name(entry, answer['device'])} was asked {_QUESTIONS.get(answer['asked'], answer['asked'])}: "
                       f"{said}, after {answer['ms']:g} ms{times}\n")
        failed = {answer["device"] for answer in _answers(link)}
        out += [f"  {_name(entry, device)} answered\n" for device in link["facts"].get("answered", ()) if device not in failed]
    return ["Devices\n", *out] if out else []


def _answers(link: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What devices said, without the short form {device: code} of an error whose operation kept no more."""
    found = link["facts"].get("answers", ())
    return [answer for answer in found if isinstance(answer, dict)] if isinstance(found, list) else []


def _advice(rule: Rule, entry: Mapping[str, Any]) -> str:
    text = _fill(rule.advice, entry, entry["chain"][0])
    named = {str(answer["device"]) for link in entry["chain"] for answer in _answers(link)}
    for device in sorted(named):
        now = entry["devices"].get(device)
        if now is not None and (now["state"] != "ok" or not now["is_counted"]):
            about = now["reason"] or ("waits for copy" if not now["is_counted"] else "see holdfast status")
            text += f"\n            now: device {now['name']} is {_said(_state(now), about)}"
        elif now is not None:
            text += f"\n            now: device {now['name']} says that it is well"
    return text


def _said(what: str, reason: str) -> str:
    """Both, without saying it twice."""
    return reason if reason.startswith(what) else f"{what}: {reason}" if reason else what


def _state(now: Mapping[str, Any]) -> str:
    if now["state"] == "unknown":
        return "out of reach"
    return "not counted" if now["state"] == "ok" else str(now["state"])


def _name(entry: Mapping[str, Any], device: object) -> str:
    known = entry["devices"].get(str(device))
    return f"device {known['name']}" if known is not None else f"device {device} of the ring"


class _Facts(dict[str, Any]):
    """Facts for a format; a link that lacks one still has its story."""

    def __missing__(self, name: str) -> str:
        return UNKNOWN


def _fill(text: str, entry: Mapping[str, Any], link: Mapping[str, Any]) -> str:
    names = unquote(entry["path"]).split("/", 4)
    facts = _Facts({**{name: entry[name] for name in ("user", "path", "method", "status")},
                    "reason": entry.get("reason") or UNKNOWN,
                    "container": names[3] if len(names) > 3 else UNKNOWN, "account": names[2] if len(names) > 2 else UNKNOWN,
                    "rule": link["rule"], **link["facts"]})
    if "limit_bytes" in facts:
        facts["limit"] = facts["limit_bytes"]
    user, acl = facts["user"], facts.get("acl") or ""
    facts["facts_shown"] = ", ".join(f"{name}={value}" for name, value in link["facts"].items()) or "no more is known"
    facts["user_or_stranger"] = user or "somebody without a token"
    facts["kind_lower"] = str(facts.get("kind", "object")).lower()
    facts["acl_shown"] = f'"{acl}"' if acl else "empty"
    facts["acl_granted"] = _with(acl, user or "ACCOUNT:USER")
    facts["acl_listed"] = _with(acl, user or ".r:*,.rlistings")
    facts["acl_linked"] = _with(acl, f".r:{facts['referrer']}" if facts["referrer"] not in (UNKNOWN, "unknown") else ".r:*")
    facts["container_quoted"] = shlex.quote(str(facts["container"]))
    for name in ("policies", "allowed"):
        if isinstance(facts.get(name), list):
            facts[name] = ", ".join(map(str, facts[name]))
    return text.format_map(facts)


def _with(acl: str, element: str) -> str:
    return shlex.quote(",".join(part for part in (acl, element) if part))
