"""The command line of the sidecar. Every option is an environment variable too: --data-dir is PDP_DATA_DIR."""

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pdp.core.action import FIELDS, Held, kind_of
from pdp.core.fields import quote_path
from pdp.core.json import strict_json
from pdp.core.kinds import Flag, Json, ListOf, Number, Whole
from pdp.serving import logs
from pdp.settings import LOG_FULL, STALE_MODES, Settings, SettingsError, address

if TYPE_CHECKING:
    from pdp.ask import Told

Function = TypeVar("Function", bound=Callable[..., Any])
FOLDER = click.Path(file_okay=False, path_type=Path)


def option(name: str, *parameter: str, **how: Any) -> Callable[[Function], Function]:
    """An option that can also be given as `PDP_…` in the environment."""
    variable = "PDP_" + name.removeprefix("--").replace("-", "_").upper()
    how.setdefault("envvar", variable)
    return click.option(name, *parameter, show_envvar=True, show_default=True, **how)


def json_object(_context: click.Context, _option: click.Parameter, text: str) -> dict[str, Any]:
    """The JSON object that an option's text is, or a wrong option."""
    try:
        found = strict_json.loads(text.encode())
    except ValueError as error:
        raise click.BadParameter(f"it is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise click.BadParameter("it is not a JSON object")
    return found


FLAGS = {
    "agent_id": "--agent",
    "action_type": "--action",
    "risk_score": "--risk",
    "estimated_cost_usd": "--cost",
    "data_classifications": "--data-classification",
}
"""Of the fields whose flag is not their name."""


def describes_action(function: Function) -> Function:
    """The options of a command that puts one action to a sidecar: its fields, and where and how to ask."""
    for name, field in reversed(FIELDS.items()):
        flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
        function = option(flag, name, required=field.required, help=f"{field.about}.", **_value(name))(function)
    for one in reversed(
        (
            option("--target", envvar=["PDP_TARGET", "PDP_ADDRESS"], default="127.0.0.1:50051", help="The sidecar."),
            option("--timeout", default=5.0, type=click.FloatRange(0, 3600, min_open=True), help="In seconds."),
            option("--json", "as_json", is_flag=True, help="Print the whole answer as JSON."),
        )
    ):
        function = one(function)
    return function


def _value(name: str) -> dict[str, Any]:
    """How click reads the value of a field."""
    kind = kind_of(name)
    inner = kind.kind if isinstance(kind, Held) else kind
    match inner:
        case Flag():
            return {"is_flag": True}
        case Whole():
            return {"type": click.IntRange(inner.low, inner.high)}
        case Number():
            return {"type": float}
        case ListOf():
            return {"multiple": True}
        case Json():
            return {"default": "{}", "callback": json_object, "metavar": "JSON"}
        case _:
            return {} if FIELDS[name].required else {"default": ""}


def main() -> None:
    """Runs a command; a wrong setting is one line on standard error and exit code 2."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except (click.ClickException, SettingsError) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(f"pdp: {message}", err=True)
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="agent-pdp", prog_name="pdp")
def cli() -> None:
    """The policy decision point: decides the actions of AI agents, from memory, beside them."""


@cli.command()
@option("--store", required=True, metavar="HOST:PORT", help="gRPC address of the registry store.")
@option("--key-file", required=True, type=click.Path(path_type=Path), help="File with a sidecar's API key.")
@option("--agents", metavar="ID,…", help="Decide for these agents only.")
@option("--tags", metavar="TAG,…", help="Decide for agents with one of these tags.")
@option("--all-agents", is_flag=True, help="Decide for every agent.")
@option("--listen", required=True, multiple=True, metavar="unix:PATH|HOST:PORT", help="Where to serve gRPC.")
@option(
    "--http",
    default="127.0.0.1:8181",
    metavar="HOST:PORT",
    help="Where to serve metrics, probes and the JSON endpoint.",
)
@option(
    "--http-hosts",
    metavar="NAME,…",
    help="Host names that HTTP requests may use, in addition to IP addresses and localhost.",
)
@option(
    "--data-dir",
    required=True,
    type=FOLDER,
    help="Folder for the last good state, the decision log, the counters and the node id.",
)
@option(
    "--max-staleness",
    type=float,
    metavar="SECONDS",
    help="Registry data is stale when the store has not confirmed it for so long.",
)
@option(
    "--stale-mode",
    type=click.Choice(STALE_MODES),
    help="What to do with decisions when registry data is stale. Default: block.",
)
@option("--node-name", help="Name of this sidecar in the store's list, for people. Default: the host's name.")
@option("--drain-seconds", default=10.0, help="How long a shutdown waits for calls in flight.")
@option("--reflection", is_flag=True, help="Serve gRPC reflection.")
@option("--log-bytes", default=256 << 20, help="Maximum size of the decision log on disk.")
@option(
    "--log-full",
    default="drop",
    type=click.Choice(LOG_FULL),
    help="When the log is full: drop the oldest records, or refuse decisions.",
)
@option("--log-decisions", is_flag=True, help="Print each decision as a line of JSON.")
@option(
    "--redact",
    multiple=True,
    metavar="PATH",
    help="Attribute to keep out of the decision log, such as cards.*.number. Repeatable.",
)
@option("--log-level", default="info", type=click.Choice(logs.LEVELS), help="Lowest level to log.")
@option(
    "--log-format",
    default="plain",
    type=click.Choice(logs.FORMATS),
    help="Lines for people, or one JSON object a line.",
)
def serve(log_level: str, log_format: str, **given: Any) -> None:
    """Run a sidecar."""
    from pdp import app

    settings = Settings.from_text(**given)
    logs.configure(log_level, log_format)
    _run(lambda stop: app.serve(settings, stop))


@cli.command()
@option(
    "--dir",
    "folder",
    type=FOLDER,
    help="Folder for the registry and its keys. Default: a temporary folder, deleted at the end.",
)
@option("--registry", default="127.0.0.1:8080", metavar="HOST:PORT", help="REST API of the registry.")
@option("--store", default="127.0.0.1:50052", metavar="HOST:PORT", help="gRPC address of the registry.")
@option("--listen", default="127.0.0.1:50051", metavar="unix:PATH|HOST:PORT", help="gRPC address of the sidecar.")
@option("--http", default="127.0.0.1:8181", metavar="HOST:PORT", help="HTTP address of the sidecar.")
@option("--log-level", default="warning", type=click.Choice(logs.LEVELS), help="Lowest level to log.")
def dev(log_level: str, **given: Any) -> None:
    """Run a registry and a sidecar in one process; what is registered is active at once."""
    try:
        from pdp import dev as development
    except ModuleNotFoundError as error:
        raise click.ClickException(f"`{error.name}` is not installed: pip install 'agent-pdp[store]'") from error
    logs.configure(log_level, "plain")
    _run(lambda stop: development.run(stop, click.echo, **given))


@cli.command()
@describes_action
@option("--idempotency-key", default="", help="The same key and action count once.")
@option("--approval-id", default="", help="Id of the approval for this action.")
@option("--dry-run", is_flag=True, help="Decide without counting.")
def evaluate(target: str, timeout: float, as_json: bool, **given: Any) -> int:
    """Ask a sidecar for a decision. Exit code 1: it could not answer; 2: the action is malformed."""
    from pdp import ask

    beside = {name: given.pop(name) for name in ("idempotency_key", "approval_id", "dry_run")}
    question = ask.Question(_address(target), timeout, ask.action(given))
    return _tell(lambda: question.evaluate(**beside), as_json)


@cli.command()
@describes_action
def explain(target: str, timeout: float, as_json: bool, **action: Any) -> int:
    """Ask a sidecar why it would decide as it does, stage by stage; counts nothing."""
    from pdp import ask

    question = ask.Question(_address(target), timeout, ask.action(action))
    return _tell(question.explain, as_json)


@cli.command("verify-log")
@option("--data-dir", required=True, type=FOLDER, help="The data folder of a sidecar, which may be running.")
def verify_log(data_dir: Path) -> int:
    """Check that a decision log is what was written. Exit code 1: it is not."""
    from pdp.decision_log import verify

    folder = data_dir / "decisions"
    if not folder.is_dir():
        raise SettingsError("--data-dir", f"there is no decision log in {quote_path(data_dir)}")
    verdict = verify.verify(folder)
    click.echo("\n".join(verdict.lines))
    return 0 if verdict.whole else 1


def _tell(put: "Callable[[], Told]", as_json: bool) -> int:
    from pdp import ask

    try:
        told = put()
    except ask.NoAnswerError as error:
        click.echo(f"pdp: {error}", err=True)
        return 2 if error.malformed else 1
    click.echo(json.dumps(told.document, indent=2) if as_json else told.text.rstrip())
    return 0


def _address(target: str) -> str:
    return str(address("--target", target))


def _run(program: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    async def until_signalled() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await program(stop)

    asyncio.run(until_signalled())
