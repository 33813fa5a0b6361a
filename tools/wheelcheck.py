"""Top-level names belong to one distribution: ours are common words, so another package could bring the same."""
from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping


def find_conflicts(ours: Iterable[str], providers: Mapping[str, Iterable[str]]) -> list[str]:
    """One sentence for each of our names that another distribution provides as well, or that ours does not.

    providers: top-level name to distributions, as `importlib.metadata.packages_distributions()` tells.
    """
    out = []
    for name in sorted(ours):
        found = sorted({provider.lower() for provider in providers.get(name, ())})
        if found != ["holdfast"]:
            out.append(f"{name} comes from {', '.join(found) or 'nowhere'}")
    return out


if __name__ == "__main__":                     # in the environment that is looked at: names as arguments
    import sys

    problems = find_conflicts(sys.argv[1:], importlib.metadata.packages_distributions())
    print("\n".join(problems))
    raise SystemExit(1 if problems else 0)
