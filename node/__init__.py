"""Supervisor, worker, consistency process: the only place that wires services together."""
