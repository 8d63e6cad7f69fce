"""Entry point of the program; reports a missing extra in one line."""

import sys
from importlib.util import find_spec

EXTRA = ("aiosqlite", "alembic", "asyncpg", "fastapi", "sqlalchemy", "yaml")


def main() -> None:
    """Runs the command line; exit code 2 if the extra `store` is not installed."""
    missing = [library for library in EXTRA if find_spec(library) is None]
    if missing:
        sys.stderr.write(f"registry-store: `{missing[0]}` is not installed: pip install 'agent-pdp[store]'\n")
        sys.exit(2)
    from registry_store.cli import main as run

    run(prog_name="registry-store")


if __name__ == "__main__":
    main()
