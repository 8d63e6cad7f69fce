"""The command line of the registry store."""

import click

from registry_store.cli import alerts, gitops, keys, log, serve


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="agent-pdp")
def main() -> None:
    """The registry of AI agents, policies and MCP servers, from which sidecars sync.

    Every option is also an environment variable: `--database` is REGISTRY_STORE_DATABASE.
    """


for command in (
    serve.serve,
    serve.migrate,
    serve.new_epoch,
    keys.keys,
    alerts.alerts,
    log.export_log,
    log.verify_log,
    log.verify_decisions,
    gitops.apply,
    gitops.export,
):
    main.add_command(command)
