"""An explanation as plain text for a terminal."""

from collections.abc import Iterable, Iterator

from pdp.core.explanation.explain import ConditionExplanation, Explanation, PolicyExplanation, StageExplanation
from pdp.core.model import Outcome


def render(explanation: Explanation) -> str:
    """The whole explanation in lines of text that end in a newline: outcome, stages, policies, and what would allow."""
    return "\n".join(_lines(explanation)) + "\n"


def _lines(explanation: Explanation) -> Iterator[str]:
    risk = f", effective risk {explanation.risk_score}"
    yield f"{explanation.outcome.name.lower()}: {explanation.reason.name}{risk}"
    if explanation.mfa_required:
        yield "MFA is required and was not verified"
    if explanation.retry_after is not None:
        yield f"the same action passes this limit in {explanation.retry_after:.3f} s"
    yield from _section("stages, in their order", _stages(explanation.stages))
    yield from _section("policies, in the order of evaluation", _policies(explanation.policies))
    if explanation.outcome is not Outcome.ALLOW:
        nothing = ("none of the changes that were tried",)
        yield from _section("what would allow it", explanation.would_allow or nothing)


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    body = [f"  {line}" for line in lines]
    if body:
        yield from ("", title, *body)


def _stages(stages: Iterable[StageExplanation]) -> Iterator[str]:
    yield from _aligned((stage.verdict.name.lower().replace("_", " "), stage.stage, stage.detail) for stage in stages)


def _policies(policies: Iterable[PolicyExplanation]) -> Iterator[str]:
    for policy in policies:
        mode = ", shadow only" if policy.shadow else ""
        came = "decides" if policy.decided else "holds" if policy.held else "does not hold"
        yield f"{came}: `{policy.policy_name}` (priority {policy.priority}{mode}) would {_VERBS[policy.outcome]}"
        yield from (f"    {line}" for line in _aligned(map(_condition, policy.conditions)))
        if not policy.conditions:
            yield "    no conditions, so it always holds"


def _condition(condition: ConditionExplanation) -> tuple[str, ...]:
    held = "holds" if condition.held else "does not hold"
    return held, condition.operator, condition.expected, f"seen: {condition.seen}"


def _aligned(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Rows of cells as lines, each column as wide as its widest cell."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()


_VERBS = {
    Outcome.ALLOW: "allow",
    Outcome.REQUIRE_APPROVAL: "require an approval",
    Outcome.BLOCK: "block",
    Outcome.ESCALATE: "escalate",
}
