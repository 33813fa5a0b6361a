"""The `holdfast` command and its verbs."""
