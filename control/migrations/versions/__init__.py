"""Migrations of the tables of jobs, oldest first."""
