"""Attacks on the trust between sidecars: another's node id, another's key."""

import grpc

from registry_store.v1 import sync_pb2 as pb
from tests.hostile.attacker import FORBIDDEN_CODES, Attacker


async def foreign_reports(attack: Attacker) -> None:
    """Records under another sidecar's node id, far ahead, and of agents that are not this key's."""
    key = (("authorization", f"Bearer {attack.target.intruder_key}"),)
    async with grpc.aio.insecure_channel(attack.target.store_grpc) as channel:
        report = channel.unary_unary(
            "/registry_store.v1.RegistrySync/ReportDecisions",
            request_serializer=pb.ReportDecisionsRequest.SerializeToString,
            response_deserializer=pb.ReportDecisionsResponse.FromString,
        )
        while attack.goes_on:
            gap = b'{"gap":{"at":"2026-01-01T00:00:00Z","first_sequence":1,"last_sequence":9,"records":9}}'
            for node, sequence in ((attack.target.victim_node, 1 << 48), ("node-of-the-intruder", 1 << 48)):
                record = pb.DecisionRecord(sequence=sequence, document=gap, previous_hash=bytes(32), hash=bytes(32))
                try:
                    await report(pb.ReportDecisionsRequest(node_id=node, records=[record]), metadata=key, timeout=30)
                    attack.tally.saw(False, f"a record {sequence} of {node} was kept")
                except grpc.aio.AioRpcError as error:
                    attack.tally.saw(error.code() not in FORBIDDEN_CODES, f"reporting: {error.code().name}")


async def wrong_keys(attack: Attacker) -> None:
    """Guesses at the victim's key, over REST and over gRPC."""
    async with attack.raw(attack.target.store_grpc) as to_store:
        while attack.goes_on:
            guess = f"owkai_{attack.target.victim_key_id}_{attack.random.getrandbits(256):064x}"
            metadata = (("authorization", f"Bearer {guess}"),)
            await to_store("/registry_store.v1.RegistrySync/ReportDecisions", b"", metadata)
            status, _ = await attack.post(
                attack.target.store_http, "/api/keys", b"{}", f"Authorization: Bearer {guess}"
            )
            attack.tally.saw(status in (401, 429), f"a wrong key was answered {status}")
