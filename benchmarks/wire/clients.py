"""One call after the other from Python: from the values of an action to the decision, by each client."""

import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from ascend import AgentAction, AscendClient
from benchmarks import report
from benchmarks.compiled import EVALUATE
from benchmarks.options import Options
from benchmarks.peers import rule
from benchmarks.report import Column, Table, interleaved
from benchmarks.wire import endpoints as names
from benchmarks.wire.endpoints import Endpoints, opened, versions
from pdp.v1 import decision_pb2 as pb

CALLS = 500
WARM_CALLS = 50
COLUMNS = (Column("median", "µs"), Column("p99", "µs"))
CERBOS_SDK = "Cerbos' SDK, gRPC"

Call = Callable[[], bool]
"""One call, and whether its answer is an allow."""


def run(options: Options) -> None:
    """The table of `clients`."""
    with opened(options.base) as endpoints, ExitStack() as stack:
        endpoints.rows(names.CERBOS_GRPC, names.OURS_GRPC, names.OURS_TCP, names.OURS_UNIX)
        calls = dict(clients(stack, endpoints))
        for name, call in calls.items():
            timed(name, call, WARM_CALLS)
        table = Table("One call after the other from Python", COLUMNS, CERBOS_SDK, [f"{CALLS} calls in a round"])
        interleaved(
            table, options.rounds, {name: partial(measured, endpoints, name, call) for name, call in calls.items()}
        )
        report.write("clients", options.command("clients"), [table], versions(options.base))


def measured(endpoints: Endpoints, name: str, call: Call) -> dict[str, float]:
    """One round."""
    endpoints.settle()
    taken = timed(name, call, CALLS)
    return {"median": statistics.median(taken), "p99": statistics.quantiles(taken, n=100)[98]}


def timed(name: str, call: Call, calls: int) -> list[float]:
    """The microseconds of each of so many calls; exits if one is not allowed."""
    taken = []
    for _ in range(calls):
        began = time.perf_counter()
        allowed = call()
        taken.append((time.perf_counter() - began) * 1e6)
        if not allowed:
            sys.exit(f"{name} was not allowed")
    return taken


def clients(stack: ExitStack, endpoints: Endpoints) -> Iterator[tuple[str, Call]]:
    """Each client, connected."""
    ours, cerbos = endpoints.ours.place, endpoints.cerbos
    yield CERBOS_SDK, _cerbos_grpc(stack, cerbos.grpc)
    yield "Cerbos' SDK, HTTP", _cerbos_http(stack, cerbos.http)
    yield "ascend, gRPC", _ascend(stack, ours.grpc)
    over_http = {"ascend, HTTP on TCP": f"http://{ours.http}", "ascend, HTTP on a Unix socket": f"http+{ours.unix}"}
    for name, address in over_http.items():
        call = _ascend(stack, address)
        if call():
            yield name, call
        else:
            print(f"{name}: left out, because this client does not take `{address}`")
    yield "socket, HTTP on TCP", _socket(stack, ours.http)
    yield "socket, HTTP on a Unix socket", _socket(stack, ours.unix)


def _ascend(stack: ExitStack, address: str) -> Call:
    client = AscendClient("", rule.AGENT_ID, "", pdp_address=address)
    stack.callback(client.close)
    case = rule.ALLOWED

    def call() -> bool:
        action = AgentAction(
            action_type="data.read",
            resource=case.resource,
            risk_score=case.risk_score,
            environment=case.environment,
            estimated_cost_usd=0.001,
        )
        return client.evaluate(action).allowed

    return call


def _socket(stack: ExitStack, address: str) -> Call:
    """The least that a client must do: no time-out, no new connection, and only the answers of this server."""
    if address.startswith("unix:"):
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        connection.connect(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        connection = stack.enter_context(socket.create_connection((host, int(port))))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = f"POST {EVALUATE} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/proto\r\ncontent-length: "

    def call() -> bool:
        body = rule.request(rule.ALLOWED)
        connection.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(65536) or sys.exit("the sidecar closed the connection")
        fields, _, answer = received.partition(b"\r\n\r\n")
        size = int(fields.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        while len(answer) < size:
            answer += connection.recv(65536) or sys.exit("the sidecar closed the connection")
        return pb.EvaluateResponse.FromString(answer).outcome == pb.OUTCOME_ALLOW

    return call


def _cerbos_grpc(stack: ExitStack, address: str) -> Call:
    from cerbos.engine.v1.engine_pb2 import Principal, Resource
    from cerbos.sdk.grpc.client import CerbosClient
    from google.protobuf.struct_pb2 import Value

    client = stack.enter_context(CerbosClient(address))
    case = rule.ALLOWED

    def call() -> bool:
        attributes = {
            "risk_score": Value(number_value=case.risk_score),
            "resource": Value(string_value=case.resource),
            "environment": Value(string_value=case.environment),
        }
        principal = Principal(id=rule.AGENT_ID, roles={"agent"})
        return bool(client.is_allowed("data.read", principal, Resource(id="1", kind="data", attr=attributes)))

    return call


def _cerbos_http(stack: ExitStack, address: str) -> Call:
    from cerbos.sdk.client import CerbosClient
    from cerbos.sdk.model import Principal, Resource

    client = stack.enter_context(CerbosClient(f"http://{address}"))
    case = rule.ALLOWED

    def call() -> bool:
        attributes = {"risk_score": case.risk_score, "resource": case.resource, "environment": case.environment}
        principal = Principal(rule.AGENT_ID, roles={"agent"})
        return bool(client.is_allowed("data.read", principal, Resource("1", "data", attr=attributes)))

    return call
