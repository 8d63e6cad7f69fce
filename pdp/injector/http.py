"""The webhook over HTTP: reviews, probes and metrics."""

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pdp.injector import review as reviews
from pdp.injector.claims import Claims
from pdp.injector.cluster import Cluster, SkippedPod, involved
from pdp.injector.metrics import Metrics
from pdp.injector.patch import Namespace
from pdp.injector.review import MalformedError, Review
from pdp.injector.settings import SidecarSettings
from pdp.injector.verdicts import Refusal, RefusedError, Result, Skip, Verdict, refused
from pdp.serving.monitoring import port
from pdp.serving.requests import problem, read_body

MAX_BODY_BYTES = 6 << 20
THREAD_BYTES = 128 * 1024
"""Larger reviews are read and judged in a thread, so that others are answered meanwhile."""
PATH = "/mutate"
MEDIA_TYPE = "application/json"
SYSTEM_NAMESPACES = frozenset(("kube-system", "kube-public", "kube-node-lease"))

logger = logging.getLogger(__name__)


class Webhook:
    """Answers reviews. `claims` and `native` are asked for at each, since both may change while it runs."""

    def __init__(
        self,
        settings: SidecarSettings,
        metrics: Metrics,
        claims: Callable[[], Claims | None],
        native: Callable[[], bool],
        cluster: Cluster | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._claims = claims
        self._native = native
        self._cluster = cluster
        own = cluster.own_namespace() if cluster is not None else None
        self._excluded = SYSTEM_NAMESPACES | ({own} if own else set())

    async def answer(self, raw: bytes) -> bytes:
        """The AdmissionReview that answers the one in `raw`; `MalformedError` if there is none in it."""
        started = perf_counter()
        large = len(raw) > THREAD_BYTES
        review = await asyncio.to_thread(reviews.read, raw) if large else reviews.read(raw)
        try:
            namespace = await self._namespace(review)
            verdict = (
                await asyncio.to_thread(self._judge, review, namespace) if large else self._judge(review, namespace)
            )
        except Exception:
            logger.exception("a review failed, so it is refused")
            verdict = refused(RefusedError(Refusal.INTERNAL_ERROR, "the injector failed; its log says why"))
        self._note(review, verdict, perf_counter() - started)
        return reviews.write(review.uid, verdict)

    def _judge(self, review: Review, namespace: Namespace) -> Verdict:
        return reviews.judge(review, namespace, self._settings, self._claims(), native=self._native())

    async def _namespace(self, review: Review) -> Namespace:
        excluded = review.namespace in self._excluded
        asks = review.asks_to_opt_out and not excluded and self._cluster is not None
        allowed = asks and self._cluster is not None and await self._cluster.allows_opt_out(review.namespace)
        return Namespace(review.namespace, allowed, excluded)

    def _note(self, review: Review, verdict: Verdict, seconds: float) -> None:
        self._metrics.reviewed(verdict, seconds)
        if verdict.result is Result.REFUSED:
            logger.info("refused a pod in namespace `%s`: %s", review.namespace, verdict.message)
        if verdict.result is not Result.SKIPPED or self._cluster is None or review.dry_run or review.pod is None:
            return
        skipped = SkippedPod(review.namespace, Skip(verdict.reason), involved(review.pod, review.namespace))
        if not self._cluster.report(skipped):
            self._metrics.event("dropped")


def applications(webhook: Webhook, metrics: Metrics, not_ready: Callable[[], str | None]) -> tuple[ASGIApp, ASGIApp]:
    """What is served with reviews, and without them.

    `not_ready` tells why the injector should get no traffic, None when it should.
    """

    async def mutate(request: Request) -> Response:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != MEDIA_TYPE:
            return problem(415, f"the body must be {MEDIA_TYPE}")
        raw = await read_body(request, MAX_BODY_BYTES)
        try:
            return Response(await webhook.answer(raw), media_type=MEDIA_TYPE)
        except MalformedError as error:
            metrics.malformed()
            return problem(400, str(error))

    def ready() -> Response:
        reason = not_ready()
        return _status("ready") if reason is None else _status(reason, 503)

    monitored = port.application(metrics.text, lambda: _status("alive"), ready)
    reviewed = Starlette(
        routes=[Route(PATH, mutate, methods=["POST"])],
        exception_handlers={HTTPException: _problem, ClientDisconnect: _gone},
    )

    async def by_path(scope: Scope, receive: Receive, send: Send) -> None:
        app = reviewed if scope["path"] == PATH else monitored
        await app(scope, receive, send)

    return by_path, monitored


def _status(text: str, status: int = 200) -> Response:
    return JSONResponse({"status": text}, status)


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for no other
    return problem(error.status_code, error.detail, error.headers)


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)
