"""Addresses, as the settings of both programs give them."""

import pytest

from pdp.serving.addresses import Address, BadAddressError, host_and_port, unmapped


@pytest.mark.parametrize("text", ["127.0.0.1:8080", "localhost:0", "[::1]:65535", "pdp_1.internal:443"])
def test_an_address_is_shown_as_it_was_given(text: str) -> None:
    """An IPv6 host in brackets."""
    assert str(host_and_port(text)) == text


@pytest.mark.parametrize(
    ("host", "shown"),
    [("::ffff:192.0.2.1", "192.0.2.1"), ("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1"), ("", "")],
)
def test_a_peer_of_ipv4_is_shown_as_one(host: str, shown: str) -> None:
    """Also where it comes to a socket of both families."""
    assert unmapped(host) == shown


@pytest.mark.parametrize(
    "text", ["", "host", ":80", "::1:80", "[::1]", "host:", "host:-1", "host:8 0", "hőst:80", "a:1\n"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """The message says what it should be."""
    with pytest.raises(BadAddressError, match="is not HOST:PORT"):
        host_and_port(text)


def test_a_port_is_one_that_exists() -> None:
    """Zero asks for any free one, where that makes sense."""
    assert host_and_port("host:0") == Address("host", 0)
    with pytest.raises(BadAddressError, match="port `0` is not within 1 to 65535"):
        host_and_port("host:0", any_port=False)
    with pytest.raises(BadAddressError, match="port `65536` is not within 0 to 65535"):
        host_and_port("host:65536")


def test_a_wrong_address_is_shown_cut() -> None:
    """However long it is."""
    with pytest.raises(BadAddressError) as refusal:
        host_and_port("x" * 1_000_000)
    assert len(str(refusal.value)) < 200
