"""The table of operations in docs/openstack.md, made from the route tables of the services.

    python tools/openstack_table.py         writes it anew; tests/unit/identity holds that it is the one of the code
"""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from control.routes import Route
from identity.app import ROUTES

DOCUMENT = Path(__file__).parents[1] / "docs" / "openstack.md"
BEGIN, END = "<!-- identity: written by tools/openstack_table.py -->", "<!-- end of identity -->"


def table(routes: Iterable[Route]) -> str:
    """Markdown: one row per path, with the status of each verb and the rules that decide."""
    by_path: dict[str, list[Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, []).append(route)
    out = ["| path | verbs and their status | rules |", "|---|---|---|"]
    for path, rows in sorted(by_path.items()):
        verbs = ", ".join(f"{row.method} {row.ok}" for row in rows)
        rules = ", ".join(dict.fromkeys(_rule(row) for row in rows))
        out.append(f"| {path} | {verbs} | {rules} |")
    return "\n".join(out)


def _rule(route: Route) -> str:
    if route.policy is not None:
        return route.policy.removeprefix("identity:")
    return "any token" if route.needs_token else "open"


def with_table(text: str) -> str:
    """The document with the table of the code in it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table(ROUTES)}\n\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text()))
