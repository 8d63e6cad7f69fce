"""The command line of the sidecar. Every option is also an environment variable: `--data-dir` is `PDP_DATA_DIR`."""

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pdp.core.action import FIELDS, Converted, kind_of
from pdp.core.fields import quote_path
from pdp.core.json import strict_json
from pdp.core.kinds import Flag, Json, ListOf, Number, Whole
from pdp.serving import logs
from pdp.serving.addresses import Address
from pdp.serving.tls.certificates import ClientFiles
from pdp.settings import LOG_FULL, STALE_MODES, Settings, SettingsError, address, client_files

if TYPE_CHECKING:
    from pdp.ask import Answer

Function = TypeVar("Function", bound=Callable[..., Any])
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


def option(name: str, *parameter: str, **how: Any) -> Callable[[Function], Function]:
    """An option that can also be given as `PDP_…` in the environment."""
    variable = "PDP_" + name.removeprefix("--").replace("-", "_").upper()
    how.setdefault("envvar", variable)
    return click.option(name, *parameter, show_envvar=True, show_default=True, **how)


def json_object(_context: click.Context, _option: click.Parameter, text: str) -> dict[str, Any]:
    """Parses the value of an option as a JSON object."""
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
"""The flags of fields whose flag differs from their name."""


def action_options(function: Function) -> Function:
    """Adds the options of a command that sends one action to a sidecar: the fields, the address, the output format."""
    for name, field in reversed(FIELDS.items()):
        flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
        function = option(flag, name, required=field.required, help=f"{field.about}.", **_value_options(name))(function)
    for one in reversed(
        (
            option("--target", envvar=["PDP_TARGET", "PDP_ADDRESS"], default="127.0.0.1:50051", help="The sidecar."),
            option("--ca", type=FILE, help="Authorities of the sidecar's certificate; it is then called over TLS."),
            option("--cert", type=FILE, help="Certificate to show to the sidecar."),
            option("--key", type=FILE, help="Key of that certificate."),
            option("--timeout", default=5.0, type=click.FloatRange(0, 3600, min_open=True), help="In seconds."),
            option("--json", "as_json", is_flag=True, help="Print the whole answer as JSON."),
        )
    ):
        function = one(function)
    return function


def _value_options(name: str) -> dict[str, Any]:
    """Options of click for the value of a field."""
    kind = kind_of(name)
    inner = kind.kind if isinstance(kind, Converted) else kind
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
    """Runs a command; reports a wrong setting in one line on standard error, with exit code 2."""
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
    """The policy decision point: a sidecar that decides the actions of AI agents from memory."""


@cli.command()
@option("--store", required=True, metavar="HOST:PORT", help="gRPC address of the registry store.")
@option("--key-file", type=FILE, help="File with a sidecar's API key. Not needed with `--store-cert`.")
@option(
    "--store-ca", type=FILE, help="Authorities of the store's certificate, in PEM; the store is then called over TLS."
)
@option("--store-cert", type=FILE, help="Certificate that this sidecar shows to the store.")
@option("--store-key", type=FILE, help="Key of that certificate.")
@option("--agents", metavar="ID,…", help="Decide for these agents only.")
@option("--tags", metavar="TAG,…", help="Decide for agents with one of these tags.")
@option("--all-agents", is_flag=True, help="Decide for every agent.")
@option("--listen", required=True, multiple=True, metavar="unix:PATH|HOST:PORT", help="Where to serve gRPC.")
@option(
    "--http",
    default=("127.0.0.1:8181",),
    multiple=True,
    metavar="HOST:PORT|unix:PATH",
    help="Where to serve the Connect protocol, the JSON endpoint, metrics and probes. Repeatable.",
)
@option("--tls-cert", type=FILE, help="Certificate of `--http` and of `--listen` on TCP, in PEM.")
@option("--tls-key", type=FILE, help="Key of that certificate.")
@option("--tls-client-ca", type=FILE, help="Authorities of client certificates, which callers on TCP must then have.")
@option("--caller-agents", type=FILE, help="YAML file: which agents the names in client certificates may ask for.")
@option("--plaintext", is_flag=True, help="A mesh encrypts: allow addresses beyond this host without TLS.")
@option("--socket-mode", default="0660", metavar="OCTAL", help="Mode of the Unix socket.")
@option(
    "--metrics",
    metavar="HOST:PORT",
    help="Where to serve metrics and probes alone, beside `--http`; in clear on any address.",
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
    help="Registry data is stale if the store has not confirmed it for this time.",
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
@option("--traces", is_flag=True, help="Send a span of each decision by OTLP; needs the extra `otel`.")
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
    help="Plain text, or one JSON object per line.",
)
def serve(log_level: str, log_format: str, **given: Any) -> None:
    """Run a sidecar.

    To listen on every address of the machine, of IPv6 and IPv4, give [::]:PORT.
    """
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
@option("--plaintext", is_flag=True, help="Allow addresses beyond this host, where everything is sent in clear.")
@option("--log-level", default="warning", type=click.Choice(logs.LEVELS), help="Lowest level to log.")
def dev(log_level: str, **given: Any) -> None:
    """Run a registry and a sidecar in one process, for development; new agents are active at once."""
    try:
        from pdp import dev as development
    except ModuleNotFoundError as error:
        raise click.ClickException(f"`{error.name}` is not installed: pip install 'agent-pdp[store]'") from error
    logs.configure(log_level, "plain")
    _run(lambda stop: development.run(stop, click.echo, **given))


def injector_option(name: str, **how: Any) -> Callable[[Function], Function]:
    """An option of the injector, which can also be given as `PDP_INJECTOR_…` in the environment."""
    return option(name, envvar="PDP_INJECTOR_" + name.removeprefix("--").replace("-", "_").upper(), **how)


@cli.command()
@injector_option("--listen", default="[::]:8443", metavar="HOST:PORT", help="Where to take reviews, by HTTPS.")
@injector_option("--tls-cert", required=True, type=FILE, help="Certificate of this server and its chain, in PEM.")
@injector_option("--tls-key", required=True, type=FILE, help="Key of the certificate, in PEM.")
@injector_option("--metrics", metavar="HOST:PORT", help="Where to serve metrics and probes alone, without TLS.")
@injector_option("--image", required=True, metavar="REF", help="Image of the sidecar.")
@injector_option("--store", required=True, metavar="HOST:PORT", help="gRPC address of the registry store.")
@injector_option("--key-secret", required=True, metavar="NAME", help="Secret with the sidecar's API key as `key`.")
@injector_option("--store-ca-secret", metavar="NAME", help="Secret with the authority of the store as `ca.crt`.")
@injector_option("--plaintext", is_flag=True, help="A mesh encrypts between sidecar and store.")
@injector_option(
    "--native",
    default="auto",
    type=click.Choice(("auto", "always", "never")),
    help="Inject a native sidecar, or a container. auto: native if every node runs native sidecars.",
)
@injector_option("--agents-file", type=FILE, help="YAML: which service account may claim which agent ids.")
@injector_option("--max-staleness", type=float, metavar="SECONDS", help="Handed to each sidecar.")
@injector_option("--stale-mode", type=click.Choice(STALE_MODES), help="Handed to each sidecar.")
@injector_option(
    "--fail-mode",
    default="closed",
    type=click.Choice(("closed", "open")),
    help="What a client does when its sidecar does not answer: refuse actions, or allow them.",
)
@injector_option(
    "--resources", default="cpu=100m,memory=128Mi", metavar="cpu=…,memory=…", help="What a sidecar requests."
)
@injector_option(
    "--resources-max", default="cpu=1,memory=512Mi", metavar="cpu=…,memory=…", help="What a pod may ask for at most."
)
@injector_option(
    "--revision", default="default", metavar="NAME", help="Name of this configuration, for `pdp.dev/status`."
)
@injector_option(
    "--otlp-endpoint",
    metavar="URL",
    help="Collector of traces, http://HOST:PORT or https://HOST:PORT; each sidecar then has `--traces`.",
)
@injector_option("--log-level", default="info", type=click.Choice(logs.LEVELS), help="Lowest level to log.")
@injector_option(
    "--log-format", default="plain", type=click.Choice(logs.FORMATS), help="Plain text, or one JSON object per line."
)
def injector(log_level: str, log_format: str, **given: Any) -> None:
    """Run the admission webhook that adds the sidecar to pods.

    To listen on every address of the machine, of IPv6 and IPv4, give [::]:PORT.
    """
    from pdp.injector import app
    from pdp.injector.settings import Settings as InjectorSettings

    settings = InjectorSettings.from_text(**given)
    logs.configure(log_level, log_format)
    _run(lambda stop: app.serve(settings, stop))


@cli.command()
@action_options
@option("--idempotency-key", default="", help="Requests with the same key and action count once.")
@option("--approval-id", default="", help="Id of the approval for this action.")
@option("--dry-run", is_flag=True, help="Decide without counting.")
def evaluate(timeout: float, as_json: bool, **given: Any) -> int:
    """Ask a sidecar for a decision. Exit code 1: the sidecar did not answer; 2: the action is malformed."""
    from pdp import ask

    options = {name: given.pop(name) for name in ("idempotency_key", "approval_id", "dry_run")}
    target, files = _target(given)
    question = ask.Question(target, timeout, ask.action(given), files)
    return _print_answer(lambda: question.evaluate(**options), as_json)


@cli.command()
@action_options
def explain(timeout: float, as_json: bool, **given: Any) -> int:
    """Ask a sidecar to explain its decision, stage by stage. Nothing is counted."""
    from pdp import ask

    target, files = _target(given)
    question = ask.Question(target, timeout, ask.action(given), files)
    return _print_answer(question.explain, as_json)


@cli.command("verify-log")
@option("--data-dir", required=True, type=FOLDER, help="Data folder of a sidecar; the sidecar may be running.")
@option(
    "--records", is_flag=True, help="Print each intact record as a line of JSON; the findings go to standard error."
)
def verify_log(data_dir: Path, records: bool) -> int:
    """Check the integrity of a decision log. Exit code 1: the log was changed."""
    from pdp.decision_log import verify

    folder = data_dir / "decisions"
    if not folder.is_dir():
        raise SettingsError("--data-dir", f"there is no decision log in {quote_path(data_dir)}")
    result = verify.verify(folder)
    for line in verify.records(folder) if records else ():
        click.echo(line)
    click.echo("\n".join(result.lines), err=records)
    return 0 if result.whole else 1


def _print_answer(request: "Callable[[], Answer]", as_json: bool) -> int:
    from pdp import ask

    try:
        answer = request()
    except ask.NoAnswerError as error:
        click.echo(f"pdp: {error}", err=True)
        return 2 if error.malformed else 1
    click.echo(json.dumps(answer.document, indent=2) if as_json else answer.text.rstrip())
    return 0


def _target(given: dict[str, Any]) -> tuple[Address, ClientFiles | None]:
    """Takes the sidecar's address out of the options of a command, and what TLS towards it needs."""
    target = address("--target", given.pop("target"))
    files = client_files("--", *(given.pop(name) for name in ("ca", "cert", "key")))
    if files is not None and target.path:
        raise SettingsError("--ca", f"`{target}` is a Unix socket, which takes no TLS")
    return target, files


def _run(program: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    async def until_signalled() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await program(stop)

    asyncio.run(until_signalled())
