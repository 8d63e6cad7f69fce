"""Every endpoint that is loaded, by the name of its row; each server is started when it is first used."""

import http.client
import json
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import grpc

from benchmarks.compiled import EVALUATE
from benchmarks.peers import rule
from benchmarks.peers.rule import Case
from benchmarks.wire import base, load
from benchmarks.wire.load import GRPC, Endpoint, Target
from benchmarks.wire.servers import Cerbos, Installation, Server, cerbos_version, empty
from pdp.v1 import decision_pb2 as pb
from tests.ports import reserved

CERBOS_GRPC, CERBOS_HTTP = "Cerbos, gRPC", "Cerbos, HTTP"
EMPTY_GRPC, OURS_GRPC = "empty handler, gRPC", "sidecar, gRPC"
EMPTY_HTTP, OURS_TCP, OURS_UNIX = "empty endpoint, HTTP", "sidecar, Connect on TCP", "sidecar, Connect on a Unix socket"
EMPTY_FLOOR = "empty protocol, httptools"
BASE_GRPC, BASE_HTTP = "base, gRPC", "base, protobuf by HTTP"
PROTO = "application/proto"


class Started(NamedTuple):
    """An installation of ours, the processes of its store and of its sidecar, and its address of protobuf by HTTP."""

    place: Installation
    store: Server
    sidecar: Server
    http: str


@contextmanager
def opened(commit: str | None) -> Iterator["Endpoints"]:
    """The endpoints of one run; those of `commit` are left out without one."""
    with ExitStack() as stack:
        yield Endpoints(stack, Path(stack.enter_context(TemporaryDirectory())), commit)


def installed(stack: ExitStack, folder: Path, commit: base.Base | None = None, database: str = "") -> Started:
    """A store and a sidecar of this commit or of an earlier one."""
    if commit is None:
        place = Installation(stack, folder, database=database)
        return Started(place, place.start_store(), place.start_sidecar(), place.http)
    place = Installation(stack, folder, commit.bin, database)
    store = place.start_store()
    if commit.has_connect:
        return Started(place, store, place.start_sidecar(unix=False), place.http)
    beside = stack.enter_context(reserved())
    launch: list[str | Path] = [commit.bin / "python", "-m", "benchmarks.peers.base_http", beside]
    return Started(place, store, place.start_sidecar(launch, unix=False, cwd=commit.folder), beside)


def versions(commit: str | None) -> dict[str, str]:
    """Of what is no distribution of Python."""
    found = {"h2load": load.version(), "Cerbos' server": cerbos_version()}
    return found | ({"base": base.installed(commit).described()} if commit else {})


class Endpoints:
    """The endpoints by their names; their servers run until the stack is left."""

    def __init__(self, stack: ExitStack, folder: Path, commit: str | None) -> None:
        self._stack = stack
        self._folder = folder
        self._commit = commit
        self._made: dict[str, Endpoint] = {}
        self._numbers = count()
        self.log = folder / "h2load.log"

    def rows(self, *names: str) -> dict[str, Endpoint]:
        """The endpoints of these rows, whose servers decide as the rule says."""
        left_out = () if self._commit else (BASE_GRPC, BASE_HTTP)
        for name in names:
            if name not in self._made and name not in left_out:
                self._made[name] = self._make(name)
        return {name: self._made[name] for name in names if name not in left_out}

    def settle(self) -> None:
        """Return once the sidecars have sent their decisions and rest, so that they disturb no other row."""
        for started in (self.__dict__.get(name) for name in ("ours", "base")):
            if started is not None:
                started.place.until_shipped()

    @cached_property
    def ours(self) -> Started:
        """This commit."""
        return installed(self._stack, self._new_folder("ours"))

    @cached_property
    def base(self) -> Started:
        """The commit to compare with."""
        return installed(self._stack, self._new_folder("base"), base.installed(self._commit or "HEAD"))

    @cached_property
    def cerbos(self) -> Cerbos:
        """Cerbos' server."""
        return Cerbos(self._stack, self._new_folder("cerbos"))

    def evaluate(self, name: str, server: Server, address: str, *, is_grpc: bool = False) -> Endpoint:
        """Evaluate at a sidecar."""
        target = Target(server, address, EVALUATE, GRPC if is_grpc else PROTO)

        def allows(case: Case) -> bool:
            answer = pb.EvaluateResponse.FromString(ask(target, rule.request(case)))
            return answer.outcome == pb.OUTCOME_ALLOW

        return self._checked(name, target, rule.request(rule.ALLOWED), allows)

    def _make(self, name: str) -> Endpoint:
        makers: dict[str, Callable[[], Endpoint]] = {
            CERBOS_GRPC: self._cerbos_grpc,
            CERBOS_HTTP: self._cerbos_http,
            EMPTY_GRPC: lambda: self._empty(name, "grpc"),
            EMPTY_HTTP: lambda: self._empty(name, "http"),
            EMPTY_FLOOR: lambda: self._empty(name, "httptools"),
            OURS_GRPC: lambda: self.evaluate(name, self.ours.sidecar, self.ours.place.grpc, is_grpc=True),
            OURS_TCP: lambda: self.evaluate(name, self.ours.sidecar, self.ours.http),
            OURS_UNIX: lambda: self.evaluate(name, self.ours.sidecar, self.ours.place.unix),
            BASE_GRPC: lambda: self.evaluate(name, self.base.sidecar, self.base.place.grpc, is_grpc=True),
            BASE_HTTP: lambda: self.evaluate(name, self.base.sidecar, self.base.http),
        }
        return makers[name]()

    def _empty(self, name: str, kind: str) -> Endpoint:
        """It gives what the sidecar once answered, so that both send as much."""
        body = rule.request(rule.ALLOWED)
        answer = ask(Target(self.ours.sidecar, self.ours.http, EVALUATE, PROTO), body)
        target = Target(*empty(self._stack, self._folder, kind, answer), EVALUATE, GRPC if kind == "grpc" else PROTO)
        return self._checked(name, target, body, lambda _: ask(target, body) == answer, cases=(rule.ALLOWED,))

    def _cerbos_grpc(self) -> Endpoint:
        from cerbos.request.v1.request_pb2 import CheckResourcesRequest
        from cerbos.response.v1.response_pb2 import CheckResourcesResponse
        from google.protobuf.json_format import MessageToDict, ParseDict

        path = "/cerbos.svc.v1.CerbosService/CheckResources"
        target = Target(self.cerbos.server, self.cerbos.grpc, path, GRPC)

        def body(case: Case) -> bytes:
            return bytes(ParseDict(rule.cerbos_request(case), CheckResourcesRequest()).SerializeToString())

        def allows(case: Case) -> bool:
            return _cerbos_allows(MessageToDict(CheckResourcesResponse.FromString(ask(target, body(case)))))

        return self._checked(CERBOS_GRPC, target, body(rule.ALLOWED), allows)

    def _cerbos_http(self) -> Endpoint:
        target = Target(self.cerbos.server, self.cerbos.http, "/api/check/resources", "application/json")

        def body(case: Case) -> bytes:
            return json.dumps(rule.cerbos_request(case), separators=(",", ":")).encode()

        def allows(case: Case) -> bool:
            return _cerbos_allows(json.loads(ask(target, body(case))))

        return self._checked(CERBOS_HTTP, target, body(rule.ALLOWED), allows)

    def _checked(
        self,
        name: str,
        target: Target,
        body: bytes,
        allows: Callable[[Case], bool],
        *,
        cases: Sequence[Case] = rule.CASES,
    ) -> Endpoint:
        for case in cases:
            if allows(case) != case.allowed:
                sys.exit(f"{name} decides otherwise than the rule: {case}")

        def check() -> None:
            if not allows(rule.ALLOWED):
                sys.exit(f"{name} does not allow what the rule allows")

        file = self._folder / f"{next(self._numbers)}.body"
        frame = _framed if target.is_grpc else bytes
        file.write_bytes(frame(body))
        return Endpoint(target, file, len(frame(ask(target, body))), check)

    def _new_folder(self, name: str) -> Path:
        made = self._folder / name
        made.mkdir()
        return made


def ask(target: Target, body: bytes) -> bytes:
    """The body of an answer, without h2load; exits if the call fails."""
    if target.is_grpc:
        with grpc.insecure_channel(target.address) as channel:
            call: Callable[[bytes], bytes] = channel.unary_unary(target.path)  # type: ignore[assignment]  # it takes bytes
            return call(body)
    with closing(_connection(target.address)) as connection:
        connection.request("POST", target.path, body, {"content-type": target.content_type})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            sys.exit(f"`{target.address}{target.path}` answers {answer.status}: {content.decode()}")
        return content


def _framed(message: bytes) -> bytes:
    """As gRPC sends it: not compressed, its length, the message."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _connection(address: str) -> http.client.HTTPConnection:
    if not address.startswith("unix:"):
        return http.client.HTTPConnection(address)
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(address.removeprefix("unix:"))
    return connection


def _cerbos_allows(answer: dict[str, Any]) -> bool:
    effect: str = answer["results"][0]["actions"]["data.read"]
    return effect == "EFFECT_ALLOW"
