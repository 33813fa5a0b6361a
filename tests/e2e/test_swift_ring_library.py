"""Swift's published ring library and ours, on each other's files: the same devices for every partition and every name."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ring.builder import RingBuilder
from ring.device import RingDevice
from ring.placement import hash_path
from ring.ringfile import load_ring, save_ring

# without its dependencies: what the ring needs of them, and nothing that has to be compiled
PACKAGES = ("swift>=2.30", "eventlet", "greenlet", "dnspython", "six", "requests", "lxml", "setuptools<81")
READ = """
import json, sys
from swift.common.ring import Ring
from swift.common import utils
utils.HASH_PATH_PREFIX, utils.HASH_PATH_SUFFIX = b"pre", b"suf"
ring = Ring(sys.argv[1])
names = [["a", "c", f"o{n}"] for n in range(200)] + [["a", "c", None], ["a", None, None]]
print(json.dumps({
    "partitions": [[device["id"] for device in ring.get_part_nodes(part)] for part in range(ring.partition_count)],
    "names": [ring.get_part(*name) for name in names],
    "weights": {str(device["id"]): device["weight"] for device in ring.devs if device}}))
"""
WRITE = """
import json, sys
from swift.common.ring import RingBuilder
builder = RingBuilder(8, 3, 0)
for number in range(9):
    builder.add_dev({"id": number, "region": 1 + number % 2, "zone": number % 3, "ip": f"10.0.0.{number}", "port": 6200,
                     "device": f"sd{number}", "weight": 100.0 + 10 * number, "meta": "m" * number})
builder.rebalance(seed=7)
builder.remove_dev(4)
builder.pretend_min_part_hours_passed()
builder.rebalance(seed=8)
builder.get_ring().save(sys.argv[1])
print(json.dumps([[builder._replica2part2dev[r][p] for r in range(3)] for p in range(256)]))
"""


@pytest.fixture(scope="session")
def swift_python(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("swift")
    subprocess.run([sys.executable, "-m", "venv", str(root)], check=True)
    subprocess.run([root / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", *PACKAGES], check=True)
    return root / "bin" / "python"


def run_swift(python: Path, program: str, *arguments: str):
    done = subprocess.run([python, "-W", "ignore", "-c", program, *arguments], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def make_ring(replicas: float):
    builder = RingBuilder(10, replicas, 0)
    for number in range(12):
        builder.add_dev(RingDevice(id=0, region=1 + number % 2, zone=number % 4, ip=f"10.0.0.{number}", port=6200, device="sda",
                                   weight=50.0 + number, meta="", node=f"n{number}"))
    builder.rebalance(seed=3, now_s=0)
    builder.remove_dev(5)
    builder.rebalance(seed=4, now_s=0)
    return builder.ring()


@pytest.mark.all_only
@pytest.mark.parametrize("replicas", [3.0, 2.5])
def test_swift_finds_every_partition_of_our_ring_where_we_do(swift_python, tmp_path, replicas):
    ring = make_ring(replicas)
    save_ring(ring, tmp_path / "object.ring.gz")
    found = run_swift(swift_python, READ, str(tmp_path / "object.ring.gz"))
    assert found["partitions"] == [[device.id for device in ring.primaries(part)] for part in range(ring.partition_count)]
    names = [("a", "c", f"o{n}") for n in range(200)] + [("a", "c", None), ("a", None, None)]
    assert found["names"] == [ring.partition(hash_path(*name, prefix=b"pre", suffix=b"suf")) for name in names]
    assert found["weights"] == {str(device.id): device.weight for device in ring.devices if device is not None}


@pytest.mark.all_only
def test_we_find_every_partition_of_a_ring_of_swift_where_it_does(swift_python, tmp_path):
    table = run_swift(swift_python, WRITE, str(tmp_path / "object.ring.gz"))
    ring = load_ring(tmp_path / "object.ring.gz")
    assert [[device.id for device in ring.primaries(part)] for part in range(256)] == table
    assert ring.devices[4] is None and ring.devices[8].weight == 180.0
