"""When the certificates of a program expire, as a metric."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Certificates(Collector):
    """A gauge with the expiry of each certificate that is watched, by what the certificate is for."""

    def __init__(self, program: str, registry: CollectorRegistry) -> None:
        self._name = f"{program}_certificate_expiry_timestamp_seconds"
        self._watched: dict[str, Callable[[], float]] = {}
        registry.register(self)

    def watch(self, purpose: str, not_after: Callable[[], float]) -> None:
        """Shows `not_after()`, in seconds since 1970, at each scrape; `purpose` is one of a fixed set, as `server`."""
        self._watched[purpose] = not_after

    def collect(self) -> Iterator[Metric]:
        """The gauge, for prometheus_client; empty without TLS."""
        family = GaugeMetricFamily(self._name, "When a certificate in use expires", labels=["certificate"])
        for purpose, not_after in self._watched.items():
            family.add_metric([purpose], not_after())
        yield family
