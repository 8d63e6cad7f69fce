"""The command line of the registry store."""

import click

from registry_store.cli import gitops, keys, log, serve


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="agent-pdp")
def main() -> None:
    """The registry of AI agents: agents, policies, MCP servers, and the sidecars that sync from it.

    Every option is also an environment variable: REGISTRY_STORE_DATABASE for --database, and so on.
    """


for command in (
    serve.serve,
    serve.migrate,
    serve.new_epoch,
    keys.keys,
    log.export_log,
    log.verify_log,
    gitops.apply,
    gitops.export,
):
    main.add_command(command)
