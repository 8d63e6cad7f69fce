"""The expiry of a certificate in a file."""

import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from pdp.serving.tls.certificates import expiry
from tests.tls.certificates import write_pair


def test_the_expiry_is_that_of_the_file_as_it_is_now(tmp_path: Path) -> None:
    """A renewed certificate is read at the next scrape."""
    authority = trustme.CA()
    for year in (2040, 2041):
        moment = datetime(year, 1, 2, tzinfo=UTC)
        assert expiry(write_pair(tmp_path / "pair", authority, expires=moment).cert) == moment.timestamp()


@pytest.mark.parametrize(
    "content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\xff"]
)
def test_what_is_no_certificate_has_no_expiry(tmp_path: Path, content: bytes | None) -> None:
    """NaN, on which no alert fires, and the scrape goes on; the failing connection has alerts of its own."""
    path = tmp_path / "tls.crt"
    if content is not None:
        path.write_bytes(content)
    assert math.isnan(expiry(path))
