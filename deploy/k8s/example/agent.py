"""Ask the sidecar every ten seconds, at `PDP_HTTP_ADDRESS` or `PDP_ADDRESS`, which the injector sets."""

import signal
import sys
import time

from ascend import ActionRefused, AscendClient

signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # the first process of a container ignores what it does not handle
client = AscendClient("", "example-agent", "Example agent")


@client.governed("query", resource="example_database", risk_score=10)
def query(question: str) -> str:
    """What the agent may only do when the decision is allow."""
    return f"answered: {question}"


while True:
    try:
        print(query("how many orders came in today"), flush=True)
    except ActionRefused as refused:
        print(f"not done: {refused}", flush=True)
    time.sleep(10)
