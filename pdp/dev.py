"""`pdp dev`: a registry and a sidecar in one process, for development."""

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import registry_store.app
from pdp import app
from pdp.serving.connections import raise_descriptor_limit
from pdp.settings import Settings, SettingsError, Subscription, address, host_and_port, read_key
from registry_store.errors import StartError
from registry_store.settings import Settings as StoreSettings

START_SECONDS = 30.0


class Following:
    """Delays the registry's answer to a change until the sidecar applies it, so that a script need not wait."""

    sidecar: app.Sidecar | None = None

    async def reached(self, revision: int) -> None:
        """Return when the sidecar is at `revision`, and at once while there is no sidecar."""
        if self.sidecar is not None:
            await self.sidecar.reached(revision)


async def run(
    stop: asyncio.Event,
    echo: Callable[[str], object],
    *,
    folder: Path | None,
    registry: str,
    store: str,
    listen: str,
    http: str,
    plaintext: bool = False,
) -> None:
    """Runs both until `stop` is set; prints their addresses once the sidecar has the registry's data.

    All data is in `folder`, or in a temporary folder that is deleted at the end.
    """
    raise_descriptor_limit()
    with ExitStack() as stack:
        kept = folder or Path(stack.enter_context(TemporaryDirectory(prefix="pdp-dev-")))
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        store_settings = StoreSettings(
            database=f"sqlite:///{(kept / 'registry.db').absolute()}",
            http=str(host_and_port("--registry", registry)),
            grpc=str(host_and_port("--store", store)),
            auto_activate=True,
            plaintext=plaintext,
        )
        try:
            following = Following()
            async with registry_store.app.running(store_settings, after_change=following.reached) as central:
                admin = await _key(central, kept / "admin.key", "admin")
                await _key(central, kept / "sidecar.key", "sidecar")
                settings = Settings(
                    store=host_and_port("--store", central.grpc_address),
                    key_file=kept / "sidecar.key",
                    subscription=Subscription(),
                    listen=(address("--listen", listen),),
                    http=(host_and_port("--http", http),),
                    data_dir=kept / "sidecar",
                    plaintext=plaintext,
                )
                async with app.running(settings) as sidecar:
                    async with asyncio.timeout(START_SECONDS):
                        await sidecar.ready.wait()
                    following.sidecar = sidecar
                    echo(_introduction(central, sidecar, admin))
                    await app.until(stop, sidecar.tasks)
        except StartError as error:
            raise _as_option(error) from error


async def _key(central: registry_store.app.RunningStore, path: Path, role: str) -> str:
    """The key in the file, created on the first start."""
    with suppress(SettingsError):
        return read_key(path)
    key = await central.create_key(role, "pdp dev")
    _write_private(path, key)
    return key


def _write_private(path: Path, text: str) -> None:
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        os.fchmod(file.fileno(), 0o600)  # also where the file is there already
        file.write(text)


def _introduction(central: registry_store.app.RunningStore, sidecar: app.Sidecar, admin: str) -> str:
    return f"""\
registry        http://{central.http_address}  (to try it: /docs)
registry gRPC   {central.grpc_address}
sidecar gRPC    {sidecar.grpc_address}
sidecar HTTP    http://{sidecar.http_address}
admin key       {admin}"""


def _as_option(error: StartError) -> SettingsError:
    """The store's error about its setting, as an error of the option that set it."""
    setting, _, message = str(error).partition(": ")
    return SettingsError({"`--http`": "--registry", "`--grpc`": "--store"}.get(setting, "--dir"), message)
