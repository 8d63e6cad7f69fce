"""A small agent that makes payments; a large one waits until a person has approved it."""

from ascend import ActionRefused, AscendClient

TOOL_CALLS = [("call_1", "Ann", 120), ("call_2", "Bob", 15_000)]  # as a model asks for them

client = AscendClient("", "financial-agent-001", "Financial Advisor Bot")


@client.governed(
    "transaction.process",
    resource="banking_api",
    risk_score=25,
    amount=lambda call: call.amount,
    idempotency_key=lambda call: call.call_id,
)
def pay(call_id: str, payee: str, amount: float) -> str:
    return f"{call_id}: paid {amount} to {payee}"


for call in TOOL_CALLS:
    try:
        print(pay(*call))
    except ActionRefused as refused:
        print(f"{call[0]}: not done: {refused}")
