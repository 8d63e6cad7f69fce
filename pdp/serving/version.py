"""The version of this project, as pyproject.toml has it."""

VERSION = "0.1.0"
"""A constant, because `importlib.metadata` loads parsers of archives, tables and mail: a megabyte in each sidecar."""
