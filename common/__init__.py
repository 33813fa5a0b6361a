"""The ground: clock, files, transport, errors, configuration, metrics, logs. Imports no service."""
