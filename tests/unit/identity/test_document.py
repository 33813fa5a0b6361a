"""docs/openstack.md says what the route table says."""
from __future__ import annotations

from dataclasses import replace

from identity.app import ROUTES
from tools.openstack_table import DOCUMENT, table, with_table


def test_the_table_in_the_document_is_the_one_of_the_code():
    text = DOCUMENT.read_text()
    assert with_table(text) == text, "run: python tools/openstack_table.py"


def test_a_changed_route_is_a_changed_table():
    assert table([replace(ROUTES[0], ok=299), *ROUTES[1:]]) != table(ROUTES)
