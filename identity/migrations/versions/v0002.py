"""Application credentials know with which other one they were made, and end with it."""
from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What is there already has no parent that anybody knows of."""
    op.add_column("app_credential", sa.Column("parent_id", sa.String(length=255), nullable=True))
    op.create_index("ix_app_credential_parent_id", "app_credential", ["parent_id"], unique=False)
