"""Write the next migration of a service from what its tables are and what its migrations make: a draft to be read and corrected.

    python tools/make_migration.py identity "what it is for"
"""
from __future__ import annotations

import importlib
import sys
from pathlib import Path

from alembic.autogenerate import produce_migrations, render_python_code
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from control.migrate import upgrade

_TEMPLATE = '''"""{title}."""
from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = {down!r}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """{title}."""
{body}
'''


def main(service: str, title: str) -> None:
    """Prints the path of what it wrote."""
    folder = Path(service) / "migrations"
    scripts = ScriptDirectory(str(folder))
    head = scripts.get_current_head()
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        upgrade(connection, folder, service=service)
        own = f"{service}_revision"
        context = MigrationContext.configure(connection, opts={"version_table": own, "render_as_batch": True,
                                                               "include_object": lambda _, name, *__: name != own})
        metadata = importlib.import_module(f"{service}.model").metadata
        operations = produce_migrations(context, metadata).upgrade_ops
        assert operations is not None
        body = render_python_code(operations, render_as_batch=True)
    number = f"{int(head or '0') + 1:04}"
    path = folder / "versions" / f"v{number}.py"
    path.write_text(_TEMPLATE.format(title=title, revision=number, down=head, body="    " + body.strip()))
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:3])
