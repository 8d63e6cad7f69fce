"""Policies of the organisation, and which agents they bind: one index for all agents that the same ones bind."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pdp.core.compile import CompiledAgent, CompiledPolicy, PolicySet
from pdp.core.model import AgentType, PolicyRecord

MAX_REMEMBERED = 65_536
"""Kinds of agents whose policies are remembered; beyond that they are looked up again."""

Kind = tuple[AgentType, frozenset[str]]
Binding = tuple[CompiledPolicy, ...]


class OrganisationPolicy(NamedTuple):
    """An organisation policy with its record; `policy` is None while it is inactive."""

    record: PolicyRecord
    policy: CompiledPolicy | None


class Organisation:
    """All policies of the organisation. Where they are those of `last`, its indexes are used again."""

    __slots__ = ("_by_kind", "_by_tag", "_for_any_tag", "_indexes", "_records")

    def __init__(self, policies: Iterable[OrganisationPolicy] = (), last: "Organisation | None" = None) -> None:
        self._records = {one.policy: one.record for one in policies if one.policy is not None}
        self._by_tag: dict[str, list[CompiledPolicy]] = {}
        self._for_any_tag: list[CompiledPolicy] = []
        for policy, record in self._records.items():
            for tag in record.applies_to.tags if record.applies_to else ():
                self._by_tag.setdefault(tag, []).append(policy)
            if record.applies_to is None or not record.applies_to.tags:
                self._for_any_tag.append(policy)
        kept: Mapping[Binding, PolicySet] = {} if last is None else last._indexes
        self._indexes: dict[Binding, PolicySet] = {
            binding: found for binding, found in kept.items() if self._records.keys() >= set(binding)
        }
        self._by_kind: dict[Kind, PolicySet | None] = {}

    def knows(self, agent: CompiledAgent) -> bool:
        """Whether `binding` has been found for such an agent."""
        return not self._records or (agent.agent_type, agent.tags) in self._by_kind

    def binding(self, agent: CompiledAgent) -> PolicySet | None:
        """The policies that bind the agent; None if there are none. Equal ones are one object."""
        if not self._records:
            return None
        kind = (agent.agent_type, agent.tags)
        if kind not in self._by_kind:
            if len(self._by_kind) >= MAX_REMEMBERED:
                self._by_kind.clear()
            self._by_kind[kind] = self._indexed(self._binding(*kind))
        return self._by_kind[kind]

    def _binding(self, agent_type: AgentType, tags: frozenset[str]) -> Binding:
        found = dict.fromkeys(self._for_any_tag)
        for tag in sorted(tags):
            found.update(dict.fromkeys(self._by_tag.get(tag, ())))
        return tuple(policy for policy in found if self._binds(policy, agent_type))

    def _binds(self, policy: CompiledPolicy, agent_type: AgentType) -> bool:
        selector = self._records[policy].applies_to
        return selector is None or not selector.agent_types or agent_type in selector.agent_types

    def _indexed(self, binding: Binding) -> PolicySet | None:
        if not binding:
            return None
        # The order in which the tags name them does not matter.
        binding = tuple(sorted(binding, key=lambda policy: policy.order))
        found = self._indexes.get(binding)
        if found is None:
            if len(self._indexes) >= MAX_REMEMBERED:
                self._indexes.clear()
            found = self._indexes[binding] = PolicySet({policy: self._records[policy] for policy in binding})
        return found
