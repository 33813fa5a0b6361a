"""Container databases and the container service."""
