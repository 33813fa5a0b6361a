"""Tables: those of the migrations and those that an empty database gets at once are the same, and only migrations need Alembic."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, create_engine, inspect

import control.jobs_model
import identity.main
import identity.model
from control.migrate import current_revision, differences, make_or_upgrade, newest_revision, upgrade

ROOT = Path(__file__).parents[3]
OPEN = """
import sys
from pathlib import Path
from identity.config import IdentityConfig
from identity.main import open_database
open_database(IdentityConfig(), Path(sys.argv[1])).close()
print("alembic" in sys.modules)
"""


HISTORIES = pytest.mark.parametrize(("folder", "metadata", "service"), [
    (identity.main.MIGRATIONS, identity.model.metadata, "identity"),
    (control.jobs_model.MIGRATIONS, control.jobs_model.metadata, control.jobs_model.HISTORY)], ids=["identity", "jobs"])


def shape(connection):
    """Everything that can be seen of the tables."""
    seen = inspect(connection)
    return {name: ([(one["name"], str(one["type"]), one["nullable"], one["default"]) for one in seen.get_columns(name)],
                   seen.get_pk_constraint(name), sorted(seen.get_foreign_keys(name), key=str),
                   sorted(seen.get_indexes(name), key=str), sorted(seen.get_unique_constraints(name), key=str),
                   sorted(seen.get_check_constraints(name), key=str))
            for name in seen.get_table_names()}


@HISTORIES
def test_tables_that_are_made_at_once_are_those_of_the_migrations(database_url, folder, metadata, service):
    engine = create_engine(database_url)
    shapes = []
    for way in (lambda connection: upgrade(connection, folder, service=service),
                lambda connection: make_or_upgrade(connection, folder, metadata, service=service)):
        with engine.begin() as connection:
            way(connection)
            assert current_revision(connection, service=service) == newest_revision(folder)
            assert differences(connection, metadata, service=service) == []
            shapes.append(shape(connection))
            there = MetaData()
            there.reflect(connection)
            there.drop_all(connection)
    engine.dispose()
    assert shapes[0] and shapes[0] == shapes[1]


@HISTORIES
def test_the_newest_file_is_the_one_head_of_its_history(folder, metadata, service):
    scripts = ScriptDirectory(str(folder))
    revisions = {script.revision for script in scripts.walk_revisions()}
    assert scripts.get_heads() == [newest_revision(folder)]
    assert revisions == {path.stem[1:] for path in (folder / "versions").glob("v*.py")}


def test_a_database_that_is_made_or_up_to_date_loads_no_alembic(tmp_path):
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"
