"""Migrations of identity, oldest first."""
