"""The way of the asyncio client to a sidecar."""

import asyncio

from ascend import settings
from ascend.calls.addresses import HttpAddress
from ascend.calls.asyncio import Suspending
from ascend.calls.calls import Calls
from ascend.calls.http import HttpCalls
from ascend.registration import Registration
from ascend.transports import Asking


class AsyncTransport(Asking):
    """A `Transport` for asyncio, also for several event loops one after the other."""

    def __init__(self, checked: settings.Settings, registration: Registration) -> None:
        super().__init__(checked, registration, _calls(checked))

    async def register(self, agent_id: str) -> bool:
        return self._registration.possible(agent_id) and await asyncio.to_thread(self._registration.attempt)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _calls(checked: settings.Settings) -> Calls:
    if isinstance(checked.address, HttpAddress):
        return HttpCalls(checked.address, Suspending(), checked.tls)
    from ascend.calls.grpc import AsyncGrpcCalls  # with grpcio, which a client over HTTP does not need

    return AsyncGrpcCalls(checked.address, checked.tls)
