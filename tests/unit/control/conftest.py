"""A job engine in this process, on each database."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.db import Database
from control.jobs import JobEngine
from control.jobs_store import JobStore
from tests.job_sample import Boxes, make_engine, make_store, make_tables, problems, submit_create, submit_delete


class Shop:
    """Boxes, their database and a store; engines are started by the test."""

    def __init__(self, url: str, root: Path) -> None:
        self.database, self.root = Database(url), root
        self.database.run_here(make_tables)
        self.store = make_store(self.database)
        self.boxes = Boxes(root)

    def engine(self, *, boxes: Boxes | None = None, **options: Any) -> JobEngine:
        return make_engine(self.database, boxes or self.boxes, store=self.store, **options)

    async def create(self, box_id: str = "b1", **options: Any) -> str:
        return await self.database.run(submit_create, self.store, self.boxes, box_id, **options)

    async def delete(self, box_id: str = "b1") -> str:
        return await self.database.run(submit_delete, self.store, self.boxes, box_id)

    async def problems(self, wanted: str, box_id: str = "b1") -> list[str]:
        return await self.database.read(problems, self.root, box_id, wanted=wanted)

    async def claim(self, owner: str = "me", *, store: JobStore | None = None, kinds: tuple[str, ...] = (),
                    targets: tuple[str, ...] = (), lease_us: int = 30_000_000) -> Any:
        kinds = kinds or tuple(workflow.kind for workflow in self.boxes.workflows)
        return await self.database.run((store or self.store).claim, owner=owner, kinds=kinds, targets=targets, lease_us=lease_us)


@pytest.fixture
def shop(database_url: str, tmp_path: Path) -> Iterator[Shop]:
    root = tmp_path / "files"
    root.mkdir()
    made = Shop(database_url, root)
    yield made
    made.database.close()

