"""The agent of `agent.py` with asyncio: while large payments wait for people, it makes the others."""

import asyncio

from ascend import ActionRefused, AsyncAscendClient

TOOL_CALLS = [("call_3", "Bob", 15_000), ("call_4", "Eve", 20_000), ("call_5", "Ann", 120)]

client = AsyncAscendClient("", "financial-agent-001", "Financial Advisor Bot")


@client.governed(
    "transaction.process",
    resource="banking_api",
    risk_score=25,
    amount=lambda call: call.amount,
    idempotency_key=lambda call: call.call_id,
)
async def pay(call_id: str, payee: str, amount: float) -> str:
    await asyncio.sleep(0)  # a real agent calls its bank here
    return f"{call_id}: paid {amount} to {payee}"


async def carry_out(call_id: str, payee: str, amount: float) -> None:
    try:
        print(await pay(call_id, payee, amount))
    except ActionRefused as refused:
        print(f"{call_id}: not done: {refused}")


async def main() -> None:
    async with client:
        await asyncio.gather(*(carry_out(*call) for call in TOOL_CALLS))


asyncio.run(main())
