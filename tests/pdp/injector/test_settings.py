"""Settings of the injector: each is bounded, and a wrong one is refused by its name."""

import re
from pathlib import Path
from typing import Any

import pytest

from pdp.injector import claims, container, quantities
from pdp.injector.annotations import Wishes
from pdp.injector.settings import Resources, Settings
from pdp.injector.verdicts import Refusal, RefusedError, Skip
from pdp.serving.monitoring import traces
from pdp.settings import SettingsError
from tests import console
from tests.pdp.injector.calling import webhook
from tests.pdp.injector.cases import SETTINGS
from tests.programs import run

PAGE = (Path(__file__).parents[3] / "docs/reference/injector.md").read_text()

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"listen": "here"}, "`--listen`: `here` is not HOST:PORT"),
    ({"metrics": "9181"}, "`--metrics`: `9181` is not HOST:PORT"),
    ({"image": "two words"}, "`--image`: `two words` is not the reference of an image"),
    ({"image": "i" * 600}, "`--image`: "),
    ({"store": "store:0"}, "`--store`: port `0` is not within 1 to 65535"),
    ({"key_secret": "Key"}, "`--key-secret`: `Key` is not the name of a Secret"),
    ({"store_ca_secret": "-"}, "`--store-ca-secret`: `-` is not the name of a Secret"),
    ({"store_ca_secret": None}, "`--store-ca-secret`: is required unless `--plaintext` says that a mesh encrypts"),
    ({"plaintext": True}, "`--plaintext`: cannot be combined with `--store-ca-secret`"),
    ({"native": "perhaps"}, "`--native`: `perhaps` is not one of auto, always, never"),
    ({"max_staleness": 0.0}, "`--max-staleness`: `0` is not above 0 and at most 2592000"),
    ({"max_staleness": 10.0, "stale_mode": "x"}, "`--stale-mode`: `x` is not one of serve, escalate, block"),
    ({"stale_mode": "serve"}, "`--stale-mode`: requires `--max-staleness`"),
    ({"fail_mode": "ajar"}, "`--fail-mode`: `ajar` is not one of closed, open"),
    ({"resources": "cpu=1"}, "`--resources`: `cpu=1` is not cpu=QUANTITY,memory=QUANTITY"),
    ({"resources": "cpu=1,cpu=2,memory=1Gi"}, "`--resources`: "),
    ({"resources": "cpu=x,memory=1Gi"}, "`--resources`: a value in `cpu=x,memory=1Gi` is not a CPU quantity"),
    ({"resources": "cpu=2,memory=128Mi"}, "`--resources`: `cpu=2,memory=128Mi` is not within cpu=10m,memory=64Mi to"),
    ({"resources": "cpu=1m,memory=128Mi"}, "`--resources`: "),
    ({"resources_max": "cpu=1,memory=1Ti"}, "`--resources-max`: "),
    ({"resources_max": "cpu=65,memory=1Gi"}, "`--resources-max`: `cpu=65,memory=1Gi` is not within"),
    ({"revision": ""}, "`--revision`: `` is not a label's value"),
    *(
        ({"otlp_endpoint": url}, f"`--otlp-endpoint`: `{url}` is not http://HOST:PORT or https://HOST:PORT")
        for url in (
            "",
            "collector:4317",
            "grpc://collector:4317",
            "http://collector",
            "http://collector:0",
            "http://collector:65536",
            "http://collector:4317/v1/traces",
            "http://user:secret@collector:4317",
            "http://$(HOST):4317",
            "http://[::1:4317",
            "http://[1:2]:4317",
        )
    ),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=str)
def test_a_wrong_setting_is_named(changes: dict[str, Any], message: str) -> None:
    """With what it may be."""
    with pytest.raises(SettingsError, match=f"^{re.escape(message)}"):
        Settings.from_text(**SETTINGS | changes)


def test_a_staleness_without_a_mode_is_the_sidecars_default() -> None:
    """It is handed through as it is."""
    settings = Settings.from_text(**SETTINGS | {"max_staleness": 5.0})
    assert (settings.sidecar.max_staleness, settings.sidecar.stale_mode) == (5.0, None)


@pytest.mark.parametrize("url", ["http://collector.observability.svc:4317", "https://[2001:db8::1]:443"])
def test_a_collector_is_one_that_the_sidecar_takes(url: str) -> None:
    """In clear too, beyond this host and without a mesh: the injector gives no headers, which may hold a key."""
    settings = Settings.from_text(**SETTINGS | {"otlp_endpoint": url}).sidecar
    made = container.sidecar(settings, Wishes("agent-1", settings.resources), native=True)
    assert "--traces" in made["args"]
    assert "--plaintext" not in made["args"]
    traces.check({each["name"]: each["value"] for each in made["env"]}, plaintext=False)


async def test_the_command_line_refuses_a_wrong_setting(tmp_path: Path) -> None:
    """One line, exit code 2; the environment counts as the option does."""
    options = ("--tls-cert", str(tmp_path / "a"), "--tls-key", str(tmp_path / "b"), "--image", "i", "--key-secret", "k")
    ended = await run("pdp", "injector", *options, "--store", "s:1", "--plaintext", PDP_INJECTOR_RESOURCES="much")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "pdp: `--resources`: `much` is not cpu=QUANTITY,memory=QUANTITY\n"


@pytest.mark.parametrize(
    ("text", "millis"), [("1", 1000), ("0.25", 250), ("250m", 250), ("0.0005", None), ("1k", None), ("-1", None)]
)
def test_a_cpu_quantity_is_read(text: str, millis: int | None) -> None:
    """In thousandths of a core, of which there are no parts."""
    if millis is None:
        with pytest.raises(ValueError, match="is not a CPU quantity"):
            quantities.read_cpu(text)
    else:
        assert quantities.read_cpu(text) == millis


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("1073741824", "1Gi"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("500M", "500M"),
        ("1500k", "1500k"),
        ("1000000001", "1000000001"),
    ],
)
def test_a_memory_quantity_has_the_form_of_the_api_server(text: str, written: str) -> None:
    """Else a second review would see a change."""
    assert quantities.write_memory(quantities.read_memory(text)) == written
    assert str(Resources(1500, quantities.read_memory(text))) == f"cpu=1500m,memory={written}"


WRONG_CLAIMS = {
    "[": "not YAML",
    "- a": "line 1: is not a mapping",
    "a: [x]": "line 1: `a` is not namespace/service-account",
    "a/b: x": "line 1: `a/b`: is not a list",
    "a/b: [x]\na/b: [y]": "line 2: duplicate account `a/b`",
    "a/b:\n- [x]": "line 2: `",
    "a/b: ['x y']": "line 1: `x y` is not an agent id or a glob",
    "\xff": "not YAML",
}


@pytest.mark.parametrize("text", WRONG_CLAIMS)
def test_a_wrong_agents_file_is_refused(text: str) -> None:
    """With the line and the entry."""
    with pytest.raises(ValueError, match=f"^{re.escape(WRONG_CLAIMS[text])}"):
        claims.parse(text.encode("latin-1"))


async def test_an_agents_file_is_bounded(tmp_path: Path) -> None:
    """In bytes, accounts, and depth."""
    path = tmp_path / "agents.yaml"
    path.write_text("#" * (claims.MAX_BYTES + 1))
    with pytest.raises(SettingsError, match="larger than"):
        async with webhook(tmp_path, agents_file=path):
            pass
    with pytest.raises(ValueError, match="more than 10000 accounts"):
        claims.parse("\n".join(f"a/b{number}: []" for number in range(10_001)).encode())
    with pytest.raises(ValueError, match=r"not YAML|is not"):
        claims.parse(b"[" * 100_000)


def test_the_example_of_the_page_is_an_agents_file() -> None:
    """Its globs are as people expect."""
    found = claims.parse(PAGE.split("```yaml\n")[1].split("```")[0].encode())
    claims.check(found, "research", "default", "research-7")
    claims.check(found, "payments", "processor", "finance-transaction-processor-prod")
    with pytest.raises(RefusedError, match="may not claim `summariser-prod`"):
        claims.check(found, "research", "default", "summariser-prod")
    assert claims.parse(b"") == {}


async def test_the_page_shows_the_help() -> None:
    """As the program prints it."""
    (command,) = console.commands(PAGE)
    ended = await run("pdp", "injector", "--help")
    assert (command.text, command.shown) == ("pdp injector --help", ended.out)


def test_the_page_has_every_reason() -> None:
    """Of a skip and of a refusal, each once in a table."""
    tables = PAGE.partition("## Skips")[2].partition("## What it asks")[0]
    assert re.findall(r"^\| `([a-z_]+)` \| ", tables, re.MULTILINE) == [reason.value for reason in (*Skip, *Refusal)]
