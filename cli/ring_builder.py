"""ring-builder: make and change rings by hand, with the verbs and arguments that operators know from swift-ring-builder."""
from __future__ import annotations

import argparse
import functools
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.ring_analyze import analyze
from common.clock import SystemClock
from common.errors import StorageError
from ring.builder import RebalancePlan, RingBuilder, add_devices
from ring.builderfile import load_builder, save_builder
from ring.device import RingDevice
from ring.ringfile import load_ring, save_ring
from ring.search import DeviceFilter, find_devices, parse_change, parse_new_device, parse_search

EXIT_OK, EXIT_WARNING, EXIT_ERROR = 0, 1, 2
_HOURS_UNKNOWN = 24                      # write_builder: as swift-ring-builder
_BALANCE_WARN = 5.0                      # percent, as in swift-ring-builder
_HELP = """\
A ring says which devices hold which partition. A node of `holdfast up` makes its own; this is for rings made by hand, and for
looking into those of others. A builder file is where a ring is made; NAME.ring.gz, beside it, is the result.
Also callable as `holdfast ring FILE ...`.

  ring-builder object.builder create 14 3 1                    2^14 partitions, 3 replicas, 1 hour between moves
  ring-builder object.builder add r1z1-10.0.0.1:6200/sda 100 r1z2-10.0.0.2:6200/sda 100 r1z3-10.0.0.3:6200/sda 100
  ring-builder object.builder rebalance --dry-run              show what would move, change nothing
  ring-builder object.builder rebalance                        assign partitions, write object.ring.gz
  ring-builder object.builder                                  show devices, balance, dispersion
  ring-builder object.builder set_weight d2 50                 then rebalance again
  ring-builder object.builder remove r1z2-10.0.0.2             every device there; then rebalance again
  ring-builder object.builder set_info d2 10.0.0.9:6200/sdb    its disk is elsewhere now; data does not move by this
  ring-builder object.builder set_zone z2 3                    likewise set_region; then rebalance
  ring-builder object.ring.gz write_builder 1                  the builder is lost: make it again from the ring
  ring-builder scenario.json analyze                           try out how rings behave: rounds of changes, what each moves

Choose 2^PART_POWER near 100 partitions for each device that the cluster may ever have.
SEARCH: d7 (id), r1 (region), z2 (zone), 10.0.0.1 (address), :6200 (port), /sda (name), _text (meta), or several together
in this order: r1z2-10.0.0.1:6200/sda. Or use --id, --region, --zone, --ip, --port, --device, --weight, --meta.
Exit code: 0 done, 1 done with a warning or nothing to do, 2 error. Changes take effect with the next rebalance.
"""


class _UsageError(Exception):
    """Arguments that cannot be used; the text is for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    path: Path
    builder: RingBuilder
    args: argparse.Namespace

    def say(self, text: str, **facts: object) -> None:
        """One result: `text` for people, `facts` under --json."""
        print(json.dumps(facts) if self.args.json else text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns 0, 1 (warning) or 2 (error); 2 also for arguments that cannot be parsed."""
    try:
        args = _parser().parse_intermixed_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        path = Path(args.builder)
        if args.verb in _FILE_VERBS:
            return _FILE_VERBS[args.verb](path, args)
        if args.verb not in _VERBS:
            raise _UsageError(f"no verb {args.verb!r}; there are: {' '.join(sorted((*_VERBS, *_FILE_VERBS)))}")
        return _VERBS[args.verb](_Call(path=path, builder=load_builder(path), args=args))
    except _UsageError as error:
        print(f"ring-builder: {error}", file=sys.stderr)
    except StorageError as error:
        print(f"ring-builder: {error.fields.get('reason') or error}", file=sys.stderr)
    except OSError as error:
        print(f"ring-builder: {error}", file=sys.stderr)
    return EXIT_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ring-builder", description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="ring-builder FILE [VERB [ARGUMENT ...]] [options]")
    parser.add_argument("builder", metavar="FILE", help="the builder file, for example object.builder")
    parser.add_argument("verb", nargs="?", default="show", help=", ".join(sorted((*_VERBS, *_FILE_VERBS))))
    parser.add_argument("values", nargs="*", metavar="ARGUMENT", help="what the verb needs, see above")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--yes", "-y", action="store_true", help="accepted for scripts: nothing here asks")
    run = parser.add_argument_group("rebalance")
    run.add_argument("--seed", type=int, help="the same seed and builder give the same ring")
    run.add_argument("--dry-run", action="store_true", help="show the moves, change nothing")
    run.add_argument("--force", "-f", action="store_true", help="save also when almost nothing changes")
    run.add_argument("--partition-bytes", type=int, default=0, help="bytes in one partition replica, to show bytes moved")
    device = parser.add_argument_group("devices, to add or to search for")
    for name, kind in (("id", int), ("region", int), ("zone", int), ("ip", str), ("port", int), ("device", str),
                       ("weight", float), ("meta", str), ("node", str)):
        device.add_argument(f"--{name}", type=kind)
    change = parser.add_argument_group("set_info, instead of a second value")
    for name, kind in (("ip", str), ("port", int), ("device", str), ("meta", str), ("node", str)):
        change.add_argument(f"--change-{name}", type=kind)
    for ignored in ("replication-ip", "replication-port", "change-replication-ip", "change-replication-port"):
        device.add_argument(f"--{ignored}", help=argparse.SUPPRESS)
    return parser


def _create(path: Path, args: argparse.Namespace) -> int:
    power, replicas, hours = _numbers(args, "PART_POWER REPLICAS MIN_PART_HOURS", int, float, int)
    if path.exists():
        raise _UsageError(f"{path} exists already: remove it first if you mean to start again")
    save_builder(RingBuilder(int(power), replicas, int(hours)), path)
    if not args.json:
        print(f"{path}: 2^{int(power)} partitions, {replicas:g} replicas. Next: add devices, then rebalance.")
    return EXIT_OK


def _write_builder(path: Path, args: argparse.Namespace) -> int:
    hours = int(_numbers(args, "MIN_PART_HOURS", int)[0]) if args.values else _HOURS_UNKNOWN
    ring_file = ring_path(path) if path.name.endswith(".builder") else path
    target = ring_file.with_name(ring_file.name.removesuffix(".gz").removesuffix(".ring") + ".builder")
    if target.exists():
        raise _UsageError(f"{target} exists already: remove it first if the ring is newer")
    builder = RingBuilder.from_ring(load_ring(ring_file), min_part_hours=hours)
    save_builder(builder, target)
    if args.json:
        print(json.dumps({"path": str(target), "version": builder.state.ring_version}))
    else:
        print(f"wrote {target} of ring version {builder.state.ring_version}. Unknown to a ring, so set them if they were not so: "
              f"overload 0, min_part_hours {hours}, and that no partition moved lately.")
    return EXIT_OK


def _analyze(path: Path, args: argparse.Namespace) -> int:
    try:
        rounds = analyze(json.loads(path.read_text()))
    except ValueError as error:
        raise _UsageError(f"{path} is no scenario: {error}") from error
    if args.json:
        print(json.dumps([asdict(step) for step in rounds]))
        return EXIT_OK
    print("round pass    moved  balance dispersion   removed")
    for step in rounds:
        print(f"{step.round:5d} {step.number:4d} {step.moved:8d} {step.balance:8.2f} {step.dispersion:10.2f} {step.removed:9d}")
    return EXIT_OK


def _add(call: _Call) -> int:
    args = call.args
    if args.values:
        if len(args.values) % 2:
            raise _UsageError("add takes pairs: DEVICE WEIGHT [DEVICE WEIGHT ...]")
        new = [parse_new_device(text, _number(weight, float))
               for text, weight in zip(args.values[::2], args.values[1::2])]
    else:
        missing = [n for n in ("zone", "ip", "port", "device", "weight") if getattr(args, n) is None]
        if missing:
            raise _UsageError("add needs DEVICE WEIGHT, or also " + ", ".join(f"--{n}" for n in missing))
        new = [RingDevice(id=0, region=1 if args.region is None else args.region, zone=args.zone, ip=args.ip,
                          port=args.port, device=args.device, weight=args.weight, meta=args.meta or "",
                          node=args.node or "")]
    ids = add_devices(call.builder, new)
    save_builder(call.builder, call.path)
    added = [call.builder.device(i) for i in ids]
    call.say("\n".join(f"added {d} weight {d.weight:g}" for d in added), added=[asdict(d) for d in added])
    return EXIT_OK


def _remove(call: _Call) -> int:
    found = _found(call)
    for device in found:
        call.builder.remove_dev(device.id)
    save_builder(call.builder, call.path)
    call.say("\n".join(f"{d} leaves at the next rebalance" for d in found), removed=[d.id for d in found])
    return EXIT_OK


def _pairs(args: argparse.Namespace, what: str) -> list[tuple[DeviceFilter, str]]:
    """SEARCH VALUE pairs, or one value for the devices that options name."""
    if args.values and len(args.values) % 2 == 0:
        return [(parse_search(search), value) for search, value in zip(args.values[::2], args.values[1::2])]
    if len(args.values) == 1:
        return [(_option_search(args), args.values[0])]
    raise _UsageError(f"{args.verb} takes pairs: SEARCH {what} [SEARCH {what} ...]")


def _set_place(call: _Call, *, name: str) -> int:
    """set_region, set_zone."""
    changed = {}
    for search, value in _pairs(call.args, name.upper()):
        number = int(_number(value, int))
        if number < 0:
            raise _UsageError(f"a {name} is a number from 0 on, not {number}")
        for device in _some(call.builder, search):
            call.builder.set_dev_info(device.id, **{name: number})
            changed[device.id] = number
    save_builder(call.builder, call.path)
    call.say("\n".join(f"{call.builder.device(i)} is now in {name} {n}: rebalance to spread replicas by it"
                       for i, n in changed.items()), **{f"{name}s": changed})
    return EXIT_OK


def _set_info(call: _Call) -> int:
    args = call.args
    options = {name: value for name in ("ip", "port", "device", "meta", "node")
               if (value := getattr(args, f"change_{name}")) is not None}
    if options:
        searches = [parse_search(text) for text in args.values] or [_option_search(args)]
        pairs = [(search, options) for search in searches]
    else:
        pairs = [(search, parse_change(text)) for search, text in _pairs(args, "IP:PORT/DEVICE_META")]
    found = [(device, changes) for search, changes in pairs for device in _some(call.builder, search)]
    for device, changes in found:
        call.builder.set_dev_info(device.id, **changes)
    save_builder(call.builder, call.path)
    call.say("\n".join(f"{device} is now {call.builder.device(device.id)}: write_ring tells the nodes" for device, _ in found),
             changed=[asdict(call.builder.device(device.id)) for device, _ in found])
    return EXIT_OK


def _set_weight(call: _Call) -> int:
    changed = {}
    for search, weight in [(search, _number(value, float)) for search, value in _pairs(call.args, "WEIGHT")]:
        for device in _some(call.builder, search):
            call.builder.set_dev_weight(device.id, weight)
            changed[device.id] = weight
    save_builder(call.builder, call.path)
    call.say("\n".join(f"{call.builder.device(i)} now has weight {w:g}" for i, w in changed.items()), weights=changed)
    return EXIT_OK


def _set_overload(call: _Call) -> int:
    text = call.args.values[0] if len(call.args.values) == 1 else ""
    if not text:
        raise _UsageError("set_overload takes one number: 0.1 or 10%")
    overload = _number(text.rstrip("%"), float) / (100 if text.endswith("%") else 1)
    call.builder.set_overload(overload)
    save_builder(call.builder, call.path)
    call.say(f"overload is now {overload:.2%}: rebalance to use it", overload=overload)
    return EXIT_OK


def _set_min_part_hours(call: _Call) -> int:
    (hours,) = _numbers(call.args, "HOURS", int)
    call.builder.set_min_part_hours(int(hours))
    save_builder(call.builder, call.path)
    call.say(f"a partition moves at most once in {int(hours)} hours", min_part_hours=int(hours))
    return EXIT_OK


def _set_replicas(call: _Call) -> int:
    (replicas,) = _numbers(call.args, "REPLICAS", float)
    call.builder.set_replicas(replicas)
    save_builder(call.builder, call.path)
    call.say(f"{replicas:g} replicas from the next rebalance on", replicas=replicas)
    return EXIT_OK


def _pretend_min_part_hours_passed(call: _Call) -> int:
    call.builder.pretend_min_part_hours_passed()
    save_builder(call.builder, call.path)
    call.say("every partition may move again: be sure that replication has caught up", done=True)
    return EXIT_OK


def _rebalance(call: _Call) -> int:
    args, builder = call.args, call.builder
    seed = args.seed if args.seed is not None else random.SystemRandom().getrandbits(32)
    now_s = SystemClock().now_us() // 1_000_000
    is_first, is_leaving, replicas = builder.state.ring_version == 0, bool(builder.state.removed), builder.parts_of().sum()
    run = builder.plan_rebalance if args.dry_run else builder.rebalance
    plan = run(seed=seed, now_s=now_s, bytes_per_partition=args.partition_bytes)
    call.say(_plan_text(plan, args.dry_run), dry_run=args.dry_run, seed=seed, **asdict(plan))
    gain = plan.balance_before - plan.balance_after + plan.dispersion_before - plan.dispersion_after
    is_worth_it = is_first or is_leaving or builder.parts_of().sum() != replicas or gain >= 1
    if not plan.moved_replicas and not is_worth_it:
        _warn("nothing moved: " + (f"{plan.held_partitions} partitions moved less than min_part_hours ago"
                                   if plan.held_partitions else "the ring is as balanced as it can be"))
        return EXIT_WARNING
    if args.dry_run:
        return EXIT_OK
    if not is_worth_it and not args.force:
        _warn("not saved: balance and dispersion change by less than 1 %; use --force to save it")
        return EXIT_WARNING
    builder.validate()
    _write(call)
    if plan.balance_after > _BALANCE_WARN:
        _warn(f"balance is {plan.balance_after:.2f} %: push the ring, wait {builder.state.min_part_hours} h, rebalance again")
        return EXIT_WARNING
    return EXIT_OK


def _plan_text(plan: RebalancePlan, is_dry: bool) -> str:
    lines = [f"{'would move' if is_dry else 'moved'} {plan.moved_replicas} partition replicas"
             + (f", {plan.moved_bytes} bytes, at most {plan.peak_device_bytes} to one device" if plan.moved_bytes else ""),
             f"balance {plan.balance_before:.2f} -> {plan.balance_after:.2f} %, "
             f"dispersion {plan.dispersion_before:.2f} -> {plan.dispersion_after:.2f} %, "
             f"at least {plan.lowest_replicas} replicas of each partition stay in place"]
    if is_dry:
        lines += [f"  {'new' if m.source is None else f'd{m.source}'} -> d{m.target}: {m.count}" for m in plan.moves]
    return "\n".join(lines)


def _write(call: _Call) -> Path:
    """Ring first, then builder: after a crash between the two the same rebalance can be run again."""
    path = ring_path(call.path)
    save_ring(call.builder.ring(), path)
    save_builder(call.builder, call.path)
    return path


def _write_ring(call: _Call) -> int:
    path = _write(call)
    call.say(f"wrote {path}, version {call.builder.state.ring_version}", path=str(path),
             version=call.builder.state.ring_version)
    return EXIT_OK


def _validate(call: _Call) -> int:
    call.builder.validate()
    call.say("the ring is valid", valid=True)
    return EXIT_OK


def _search(call: _Call) -> int:
    found = _found(call)
    _show_devices(call, found)
    return EXIT_OK


def _show(call: _Call) -> int:
    _show_devices(call, list(call.builder.devices))
    return EXIT_OK


def _show_devices(call: _Call, devices: list[RingDevice]) -> None:
    builder, state = call.builder, call.builder.state
    parts, balances = builder.parts_of(), builder.device_balances()
    if call.args.json:
        rows = [{**asdict(d), "partitions": int(parts[d.id]), "balance": float(balances[d.id]),
                 "flags": "DEL" if d.id in state.removed else ""} for d in devices]
        print(json.dumps({
            "version": state.version, "ring_version": state.ring_version, "partitions": builder.partition_count,
            "replicas": state.replicas, "min_part_hours": state.min_part_hours, "overload": state.overload,
            "balance": builder.balance(), "dispersion": builder.dispersion(), "devices": rows}))
        return
    regions, zones = {d.region for d in builder.devices}, {(d.region, d.zone) for d in builder.devices}
    print(f"{call.path}, build version {state.version}, ring version {state.ring_version}\n"
          f"{builder.partition_count} partitions, {state.replicas:.6f} replicas, {len(regions)} regions, "
          f"{len(zones)} zones, {len(builder.devices)} devices, {builder.balance():.2f} balance, "
          f"{builder.dispersion():.2f} dispersion\n"
          f"The minimum number of hours before a partition can be reassigned is {state.min_part_hours}\n"
          f"The overload factor is {state.overload:.2%} ({state.overload:.6f})")
    if devices:
        width = max(len(f"{d.ip}:{d.port}") for d in devices) + 1
        print(f"Devices:   id region zone {'address':>{width}} {'name':>12}   weight partitions balance flags meta")
    for d in devices:
        print(f"       {d.id:6d} {d.region:6d} {d.zone:4d} {f'{d.ip}:{d.port}':>{width}} {d.device:>12} {d.weight:8.2f}"
              f" {int(parts[d.id]):10d} {balances[d.id]:7.2f} {'DEL' if d.id in state.removed else '':>5} {d.meta}".rstrip())


def _dispersion(call: _Call) -> int:
    report = call.builder.dispersion_by_tier()
    if call.args.json:
        print(json.dumps({"dispersion": call.builder.dispersion(), "tiers": {
            key: {"crowded": over, "max": cap, "partitions": counts} for key, (over, cap, counts) in report.items()}}))
        return EXIT_OK
    print(f"Dispersion is {call.builder.dispersion():.2f} %; overload {call.builder.overload_needed():.2%} "
          f"would make it complete\nTier: partitions with too many, the most that are right, partitions with 0, 1, 2 ... replicas")
    for key, (over, cap, counts) in report.items():
        print(f"  {key}: {over} {cap}   {' '.join(map(str, counts))}")
    return EXIT_OK


def _list_parts(call: _Call) -> int:
    found = _found(call)
    wanted = {d.id for d in found}
    ring = call.builder.ring()
    counts = {p: n for p in range(ring.partition_count) if (n := sum(d.id in wanted for d in ring.primaries(p)))}
    call.say("Partition   Matches\n" + "\n".join(f"{p:9d} {n:9d}" for p, n in counts.items()), partitions=counts)
    return EXIT_OK


def ring_path(builder_path: Path) -> Path:
    """object.builder -> object.ring.gz, in the same directory."""
    return builder_path.with_name(builder_path.name.removesuffix(".builder") + ".ring.gz")


def _found(call: _Call) -> list[RingDevice]:
    """The devices that all arguments, or else the options, name; each once. Raises when any of them names none."""
    searches = [parse_search(text) for text in call.args.values] or [_option_search(call.args)]
    found = {device.id: device for search in searches for device in _some(call.builder, search)}
    return list(found.values())


def _some(builder: RingBuilder, search: DeviceFilter) -> list[RingDevice]:
    found = find_devices(builder.devices, search)
    if not found:
        raise _UsageError("no device matches")
    return found


def _option_search(args: argparse.Namespace) -> DeviceFilter:
    search = DeviceFilter(id=args.id, region=args.region, zone=args.zone, ip=args.ip, port=args.port, device=args.device,
                          weight=args.weight, meta=args.meta)
    if search.is_empty:
        raise _UsageError("which devices? give a SEARCH value such as d7, or options such as --zone 2")
    return search


def _numbers(args: argparse.Namespace, names: str, *kinds: Callable[[str], float]) -> list[float]:
    if len(args.values) != len(kinds):
        raise _UsageError(f"{args.verb} takes {names}")
    return [_number(text, kind) for text, kind in zip(args.values, kinds)]


def _number(text: str, kind: Callable[[str], float]) -> float:
    try:
        return kind(text)
    except ValueError as error:
        raise _UsageError(f"{text!r} is not a number that fits here") from error


def _warn(text: str) -> None:
    print(f"ring-builder: {text}", file=sys.stderr)


_VERBS: dict[str, Callable[[_Call], int]] = {
    "add": _add, "dispersion": _dispersion, "list_parts": _list_parts,
    "pretend_min_part_hours_passed": _pretend_min_part_hours_passed, "rebalance": _rebalance, "remove": _remove,
    "search": _search, "set_info": _set_info, "set_min_part_hours": _set_min_part_hours, "set_overload": _set_overload,
    "set_region": functools.partial(_set_place, name="region"), "set_replicas": _set_replicas, "set_weight": _set_weight,
    "set_zone": functools.partial(_set_place, name="zone"), "show": _show, "validate": _validate,
    "write_ring": _write_ring,
}
_FILE_VERBS: dict[str, Callable[[Path, argparse.Namespace], int]] = {       # FILE is not, or not yet, a builder
    "analyze": _analyze, "create": _create, "write_builder": _write_builder,
}


if __name__ == "__main__":
    sys.exit(main())
