"""What leaves the store, made from the settings: signed webhooks, mail, and the operator's channels."""

from registry_store.access.keys import Pepper
from registry_store.alerts import channels, mail
from registry_store.alerts.routes import Routes
from registry_store.errors import StartError
from registry_store.settings import Settings, load_secret, read_secret
from registry_store.webhooks import Outbound, Webhook, signing_key


def signing_keys(settings: Settings, pepper: Pepper | None = None) -> tuple[bytes, ...]:
    """The keys that sign webhooks, the newest first; without `--webhook-secret-file` it is made from the pepper."""
    keys = []
    if settings.webhook_secret_file is not None:
        flag = "--webhook-secret-file"
        keys.append(signing_key(flag, load_secret(flag, settings.webhook_secret_file)))
    elif pepper is not None:
        keys.append(bytes.fromhex(pepper.hash("webhooks")))
    if settings.webhook_previous_secret_file is not None:
        flag = "--webhook-previous-secret-file"
        keys.append(signing_key(flag, read_secret(flag, settings.webhook_previous_secret_file)))
    return tuple(keys)


def checkpoint_webhook(settings: Settings) -> Webhook | None:
    """The webhook that checkpoints are sent to, or None; `StartError` if a required setting is missing."""
    if settings.checkpoint_url is None:
        return None
    if settings.checkpoint_file is None:
        raise StartError("`--checkpoint-url` requires `--checkpoint-file`")
    if settings.webhook_secret_file is None:
        raise StartError("`--checkpoint-url` requires `--webhook-secret-file`")
    webhook = Webhook(settings.checkpoint_url, signing_keys(settings), _outbound(settings))
    webhook.check("--checkpoint-url")
    return webhook


def routes(settings: Settings) -> Routes:
    """The ways in which alerts leave the store, with the keys that are in files; `StartError` names a wrong flag."""
    return Routes(
        signing_keys(settings),
        _outbound(settings),
        mail.read(settings.smtp_url, settings.smtp_from),
        channels.read(settings.alert_url),
        settings.checked_public_url(),
    )


def _outbound(settings: Settings) -> Outbound:
    outbound = Outbound(settings.webhook_private, settings.webhook_ca)
    if settings.webhook_ca is not None:
        outbound.context()  # report a wrong file at the start
    return outbound
