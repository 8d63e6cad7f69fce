"""The page docs/reference/roles.md: `make roles` writes it from the routes."""

import sys

from registry_store.rest.table import table

PAGE = f"""\
# Who may do what

An API key has one role. `itself`: an agent's key can reach only its own agent; a key without an agent belongs to the
first agent that it registers. A request without a valid key is answered 401, and one that the role does not allow
403. For a decision or an approval of another agent, an agent's key gets 404, as for one that does not exist. Over
gRPC, `registry_store.v1.RegistrySync` takes keys of the roles `sidecar` and `admin`.

A sidecar's key may be bound to agents or to tags: it then syncs, reports and uses approvals only of these agents.

An escalation is decided by the keys in the group that is its team, an admin's too only if it is in that group;
without a team by admins alone. Any other approval is decided by admins, and by an approver's key if it names that
key, one of its groups, or nobody. Others get 403.

`make roles` writes this page from the routes; do not edit it.

{table()}"""

if __name__ == "__main__":
    sys.stdout.write(PAGE)
