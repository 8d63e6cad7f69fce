"""Where an alert goes: the webhook and the recipients of its agent, and the operator's channels."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from registry_store.alerts import mail, texts
from registry_store.alerts.channels import Channel
from registry_store.alerts.mail import Relay
from registry_store.database.tables import Alert
from registry_store.webhooks import Outbound, Webhook, host_of

CHANNELS = ("webhook", "mail", "channel")
"""The ways in which an alert can go."""


class Target(NamedTuple):
    """One receiver of an alert; `lane` names what it shares with others: the host of a webhook, the SMTP relay."""

    channel: str
    to: str
    lane: str
    send: Callable[[], Awaitable[None]]
    """Sends the alert once; `DeliveryError` if the receiver does not accept it."""


@dataclass(frozen=True, slots=True)
class Routes:
    """Every way in which alerts leave this store."""

    keys: Sequence[bytes]
    """The keys that sign webhooks."""
    outbound: Outbound
    relay: Relay | None = None
    channels: Sequence[Channel] = ()
    public_url: str | None = None

    def targets(self, alert: Alert, agent: Mapping[str, Any]) -> Iterator[Target]:
        """The targets of an alert; `agent` is the configuration of its agent, empty if it has none."""
        if url := agent.get("webhook_url"):
            yield Target("webhook", url, f"webhook to {host_of(url)}", partial(self._post, url, alert))
        if self.relay is not None:
            for recipient in agent.get("alert_recipients", ()):
                yield Target("mail", recipient, "mail", partial(self._mail, self.relay, recipient, alert))
        for channel in self.channels if alert.to_operator else ():
            yield Target("channel", channel.name, "channel", partial(self._tell, channel, alert))

    def unusable(self, agent: Mapping[str, Any]) -> Mapping[str, str]:
        """The fields of an agent's configuration to which this store can send no alert, each with the reason."""
        found = {}
        if self.relay is None and agent["alert_recipients"]:
            found["alert_recipients"] = "this store sends no mail without `--smtp-url`"
        if (url := agent["webhook_url"]) and self.outbound.refuses(url):
            found["webhook_url"] = f"`{host_of(url)}` is not public, and this store runs without `--webhook-private`"
        return found

    async def _post(self, url: str, alert: Alert) -> None:
        body = texts.body(alert, self.public_url)
        await Webhook(url, self.keys, self.outbound).deliver(alert.alert_id, body, datetime.now(UTC))

    async def _mail(self, relay: Relay, recipient: str, alert: Alert) -> None:
        await relay.send(mail.message(alert, texts.title(alert), self._text(alert), relay.sender, recipient), recipient)

    async def _tell(self, channel: Channel, alert: Alert) -> None:
        await channel.send(texts.title(alert), self._text(alert))

    def _text(self, alert: Alert) -> str:
        return "\n".join(texts.lines(alert, self.public_url)) + "\n"
