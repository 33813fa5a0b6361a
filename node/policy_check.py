"""Whether the policy files of a state directory can be used, found out before a service stumbles over one."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from common.errors import ConfigError
from node.spawner import ROOT

POLICY_FILE = Path("policy") / "identity.yaml"           # below STATE; here, where a supervisor can know it without the service
_CHECK = ("import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; from node.policy_check import *; "
          "tell_mistake(Path(sys.argv[1]))")
_CHECK_S = 30.0


def check_policies(root: Path) -> None:
    """In this process, which then has imported the control plane. Raises `ConfigError` that names file and line."""
    if (root / POLICY_FILE).exists():
        from identity.app import make_policy

        make_policy(root / POLICY_FILE)


def tell_mistake(root: Path) -> None:
    """Print what `check_policies` raises."""
    try:
        check_policies(root)
    except ConfigError as error:
        print(f"{error.fields['where']}: {error.fields['reason']}", end="")


def find_mistake(root: Path) -> str:
    """The mistake as a sentence, or "". In a process of its own: half a second, only where there is such a file."""
    if not (root / POLICY_FILE).exists():
        return ""
    try:
        done = subprocess.run([sys.executable, "-P", "-c", _CHECK, str(root), str(ROOT)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=False, timeout=_CHECK_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""                                        # the Identity API itself will tell
    return done.stdout
