"""Figures of the ring builder for docs/performance.md: CPU of a large build, and what one more device moves.

    python -m tools.ring_figures
"""
from __future__ import annotations

import time

from ring.builder import RingBuilder
from ring.device import RingDevice

DAY_S = 86_400


def make_device(zone: int, number: int) -> RingDevice:
    """One of ten on its node."""
    return RingDevice(id=0, region=1, zone=zone, ip=f"10.{zone}.{number // 250}.{number % 250 + 1}", port=6200, device="sda",
                      weight=100.0, meta="", node=f"n{zone}-{number // 10}")


def make_builder(part_power: int, *, zones: int, devices_per_zone: int) -> RingBuilder:
    """Three replicas, devices of equal weight, nothing assigned yet."""
    builder = RingBuilder(part_power, 3, 1)
    for number in range(devices_per_zone):
        for zone in range(zones):
            builder.add_dev(make_device(zone, number))
    return builder


def main() -> None:
    """Print them."""
    builder = make_builder(18, zones=10, devices_per_zone=100)
    before_s = time.process_time()
    builder.rebalance(seed=1, now_s=0)
    print(f"2^18 partitions x 3 replicas x 1000 devices, 10 zones: {time.process_time() - before_s:.2f} s CPU, "
          f"balance {builder.balance():.2f} %, dispersion {builder.dispersion():.2f} %")
    for zones in (1, 3, 10):
        builder = make_builder(16, zones=zones, devices_per_zone=25)
        builder.rebalance(seed=1, now_s=0)
        builder.add_dev(make_device(0, 25))
        before_s = time.process_time()
        plan = builder.rebalance(seed=2, now_s=2 * DAY_S)
        share = 3 * 2**16 / (25 * zones + 1)
        print(f"{zones} zones of 25, one device added to one: {plan.moved_replicas} moves, {plan.moved_replicas / share:.3f} x "
              f"its share, {time.process_time() - before_s:.2f} s CPU, balance {builder.balance():.2f} %")


if __name__ == "__main__":
    main()
