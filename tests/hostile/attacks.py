"""Attacks without rights against a sidecar and the store: each is a function in one table.

`python -m tests.hostile.attacks --seconds 2 --seed 7 NAME…` reads a `Target` as JSON from standard input, runs the
attacks one after the other and prints a `Tally` as JSON: the decisions it was given, and what should not have been.
"""

import argparse
import asyncio
import json
import random
import resource
import sys
import time

import grpc

from tests.hostile import call_attacks, grpc_attacks, http_attacks, key_attacks
from tests.hostile.attacker import Attack, Attacker, Tally
from tests.hostile.installation import Target

ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        http_attacks.unknown_names,
        http_attacks.many_problems,
        grpc_attacks.large_numbers,
        grpc_attacks.large_batches,
        grpc_attacks.explanations,
        http_attacks.silent_connections,
        http_attacks.half_heads,
        http_attacks.half_bodies,
        http_attacks.malformed_http,
        http_attacks.strange_json,
        http_attacks.foreign_pages,
        http_attacks.connect_calls,
        call_attacks.pipelined_calls,
        call_attacks.unread_calls,
        call_attacks.half_calls,
        call_attacks.broken_calls,
        grpc_attacks.random_messages,
        grpc_attacks.idle_streams,
        grpc_attacks.repeats,
        grpc_attacks.suspended_actions,
        key_attacks.foreign_reports,
        key_attacks.wrong_keys,
        http_attacks.large_store_bodies,
        grpc_attacks.guessed_approvals,
    )
}


async def run(names: list[str], target: Target, seconds: float, seed: int) -> Tally:
    """Each of these attacks, for so long."""
    tally = Tally()
    for name in names:
        attacker = Attacker(target, tally, random.Random(f"{seed} {name}"), time.monotonic() + seconds)
        try:
            await ATTACKS[name](attacker)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                tally.findings.append(f"{name}: {error.code().name}: {error.details()}")
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("names", nargs="*", choices=list(ATTACKS))
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 16_384), most))
    target = Target(**json.load(sys.stdin))
    tally = asyncio.run(run(given.names or list(ATTACKS), target, given.seconds, given.seed))
    json.dump({"decisions": tally.decisions, "findings": tally.findings, "calls": tally.calls}, sys.stdout)


if __name__ == "__main__":
    main()
