"""The error of a wrong setting names it and its valid values."""

from pathlib import Path
from typing import Any

import pytest

from pdp.core.model import StaleMode
from pdp.serving.addresses import Address
from pdp.settings import Settings, SettingsError, Subscription, address, host_and_port, read_key

BEYOND = "is beyond this host: it takes"


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    key_file = tmp_path / "key"
    key_file.touch(0o600)
    key_file.write_text("owkai_secret\n")
    return {
        "store": "store.internal:50052",
        "key_file": key_file,
        "agents": None,
        "tags": None,
        "all_agents": True,
        "listen": ["unix:/run/pdp/pdp.sock", "127.0.0.1:50051"],
        "http": ["[::1]:8181", "unix:/run/pdp/pdp.http.sock"],
        "data_dir": tmp_path / "data",
        "plaintext": True,
    }


def test_settings_are_read_from_text(given: dict[str, Any]) -> None:
    """Addresses of both kinds, IPv6 in brackets."""
    settings = Settings.from_text(**given)
    assert settings.store == Address("store.internal", 50052)
    assert settings.listen == (Address(path="/run/pdp/pdp.sock"), Address("127.0.0.1", 50051))
    assert [str(one) for one in settings.listen] == ["unix:/run/pdp/pdp.sock", "127.0.0.1:50051"]
    assert [str(one) for one in settings.http] == ["[::1]:8181", "unix:/run/pdp/pdp.http.sock"]
    assert "owkai_secret" not in repr(settings)


@pytest.mark.parametrize(
    ("agents", "tags", "everyone", "expected"),
    [
        ("agent-a, agent-b", None, False, Subscription(agents=("agent-a", "agent-b"))),
        (None, "finance,customer-facing", False, Subscription(tags=("finance", "customer-facing"))),
        (None, None, True, Subscription()),
    ],
)
def test_one_of_three_subscriptions_is_given(
    given: dict[str, Any], agents: str | None, tags: str | None, everyone: bool, expected: Subscription
) -> None:
    """Named agents, tags, or all."""
    settings = Settings.from_text(**given | {"agents": agents, "tags": tags, "all_agents": everyone})
    assert settings.subscription == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": "9090"}, "`--metrics`: `9090` is not HOST:PORT"),
        ({"metrics": "[::1]:8181"}, "`--metrics`: `[::1]:8181` is the address of another listener"),
        ({"store": "store"}, "`--store`: `store` is not HOST:PORT"),
        ({"store": "store:0"}, "`--store`: port `0` is not within 1 to 65535"),
        ({"store": "unix:/x"}, "`--store`: `unix:/x` is not HOST:PORT"),
        ({"http": []}, "`--http`: at least one unix:PATH or HOST:PORT is required"),
        ({"http": ["127.0.0.1:1", "127.0.0.1:1"]}, "`--http`: duplicate address"),
        (
            {"http": ["unix:/run/pdp/pdp.sock"]},
            "`--http`: `unix:/run/pdp/pdp.sock` is the address of another listener",
        ),
        ({"http": ["127.0.0.1:65536"]}, "`--http`: port `65536` is not within 0 to 65535"),
        ({"http": [":8181"]}, "`--http`: `:8181` is not unix:PATH or HOST:PORT"),
        ({"http_hosts": "pdp.internal,"}, "`--http-hosts`: `` is not the name of a host"),
        ({"http_hosts": "PDP.Internal!"}, "`--http-hosts`: `PDP.Internal!` is not the name of a host"),
        ({"node_name": "zoë"}, "`--node-name`: `zoë` is not at most 128 printable ASCII characters"),
        ({"node_name": "n" * 129}, "`--node-name`: `nnnn"),
        ({"http_hosts": "http://pdp"}, "`--http-hosts`: `http://pdp` is not the name of a host"),
        ({"http_hosts": "pdp:8181"}, "`--http-hosts`: `pdp:8181` is not the name of a host"),
        ({"listen": []}, "`--listen`: at least one unix:PATH or HOST:PORT is required"),
        ({"listen": ["pdp.sock"]}, "`--listen`: `pdp.sock` is not unix:PATH or HOST:PORT"),
        ({"listen": ["unix:"]}, "`--listen`: `unix:` is not unix:PATH or HOST:PORT"),
        ({"listen": ["unix:/a", "unix:/a"]}, "`--listen`: duplicate address"),
        ({"agents": "agent-a"}, "`--agents`: exactly one of `--agents`, `--tags` and `--all-agents` is required"),
        ({"all_agents": False}, "`--agents`: exactly one of `--agents`, `--tags` and `--all-agents` is required"),
        ({"agents": "a,-b", "all_agents": False}, "`--agents`: `a`: is shorter than 3 characters"),
        ({"agents": "abc,abc", "all_agents": False}, "`--agents`: duplicate agent"),
        ({"agents": ",".join(f"agent-{n}" for n in range(1001)), "all_agents": False}, "`--agents`: more than 1000"),
        ({"tags": "finance,", "all_agents": False}, "`--tags`: [1]: is empty"),
        ({"drain_seconds": -1}, "`--drain-seconds`: `-1` is not within 0 to 3600"),
        ({"drain_seconds": float("nan")}, "`--drain-seconds`: `nan` is not within 0 to 3600"),
        ({"log_bytes": 1000}, "`--log-bytes`: `1000` is not within 1048576 to 68719476736"),
        ({"log_full": "wait"}, "`--log-full`: `wait` is not one of drop, block"),
        ({"max_staleness": 0.0}, "`--max-staleness`: `0` is not above 0 and at most 2592000"),
        ({"max_staleness": float("nan")}, "`--max-staleness`: `nan` is not above 0 and at most 2592000"),
        ({"max_staleness": float("inf")}, "`--max-staleness`: `inf` is not above 0 and at most 2592000"),
        ({"stale_mode": "block"}, "`--stale-mode`: requires `--max-staleness`"),
        ({"stale_mode": "wait", "max_staleness": 5}, "`--stale-mode`: `wait` is not one of serve, escalate, block"),
        ({"redact": ["customer..ssn"]}, "`--redact`: `customer..ssn` is not a dotted path, as `customer.ssn` or"),
        ({"key_file": None}, "`--key-file`: is required without `--store-cert`"),
        ({"socket_mode": "rw"}, "`--socket-mode`: `rw` is not a mode such as 0660"),
        (
            {"socket_mode": "0466"},
            "`--socket-mode`: `0466` is not within 0600 to 0777 with read and write for the owner",
        ),
        ({"plaintext": False}, f"`--store`: `store.internal:50052` {BEYOND} `--store-ca`, or `--plaintext` if a mesh"),
        (
            {"plaintext": False, "listen": ["[::]:50051"]},
            f"`--listen`: `[::]:50051` {BEYOND} `--tls-cert` and `--tls-key`, or `--plaintext`",
        ),
        ({"plaintext": False, "http": ["10.0.0.1:8181"]}, f"`--http`: `10.0.0.1:8181` {BEYOND} `--tls-cert`"),
        ({"tls_cert": Path("/x")}, "`--tls-key`: is required with the certificate"),
        ({"tls_key": Path("/x")}, "`--tls-cert`: is required with the key"),
        ({"tls_client_ca": Path("/x")}, "`--tls-cert`: is required with the authorities of clients"),
        ({"store_cert": Path("/x"), "store_key": Path("/x")}, "`--store-ca`: is required with a certificate"),
        ({"store_cert": Path("/x"), "store_ca": Path("/x")}, "`--store-key`: is required with the certificate"),
        ({"store_ca": Path("/nonexistent")}, "`--store-ca`: cannot read `/nonexistent`: No such file or directory"),
        ({"key_file": Path("/nonexistent")}, "`--key-file`: cannot read `/nonexistent`: No such file or directory"),
    ],
)
def test_a_wrong_setting_is_named(given: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    """The text begins with the flag, and names valid values."""
    with pytest.raises(SettingsError) as refusal:
        Settings.from_text(**given | changes)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("given_mode", "mode"), [(None, StaleMode.BLOCK), *((one.value, one) for one in StaleMode)])
def test_stale_data_blocks_unless_another_mode_is_given(
    given: dict[str, Any], given_mode: str | None, mode: StaleMode
) -> None:
    """A maximum without a mode gets the strictest mode."""
    settings = Settings.from_text(**given, max_staleness=0.5, stale_mode=given_mode)
    assert (settings.max_staleness, settings.stale_mode) == (0.5, mode)


def test_paths_to_redact_are_read_from_text(given: dict[str, Any]) -> None:
    """All of them."""
    redact = Settings.from_text(**given, redact=["customer.ssn", "cards.*.number"]).redact
    assert redact({"customer": {"ssn": "1"}, "cards": [{"number": "2"}]}) == {
        "customer": {"ssn": "[redacted]"},
        "cards": [{"number": "[redacted]"}],
    }


@pytest.mark.parametrize("content", [b"", b"  \n", b"two words", b"k" * 2000, b"\xff\xfe"])
def test_a_key_file_holds_one_key(tmp_path: Path, content: bytes) -> None:
    """Anything else is a wrong setting, and its content is not shown."""
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="does not hold one API key and nothing else"):
        read_key(path)


def test_a_relative_socket_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sidecar that changes its working directory still finds its socket."""
    monkeypatch.chdir(tmp_path)
    assert address("--listen", "unix:pdp.sock").path == str(tmp_path / "pdp.sock")


def test_a_socket_path_that_is_too_long_is_refused() -> None:
    """Its length is bounded by the kernel."""
    with pytest.raises(SettingsError, match="is longer than 107 bytes"):
        address("--listen", f"unix:/{'x' * 120}")


def test_port_zero_is_any_free_port_where_the_sidecar_listens() -> None:
    """But it is refused as an address to connect to."""
    assert host_and_port("--http", "127.0.0.1:0").port == 0
    with pytest.raises(SettingsError):
        host_and_port("--store", "127.0.0.1:0", any_port=False)


def test_hosts_are_read_as_a_list_of_names(given: dict[str, Any]) -> None:
    """Names are case-insensitive."""
    settings = Settings.from_text(**given | {"http_hosts": "PDP.internal, sidecar_1"})
    assert settings.http_hosts == ("pdp.internal", "sidecar_1")
