"""The page docs/reference/roles.md: `make roles` writes it from the routes themselves."""

import sys

from registry_store.rest.table import table

PAGE = f"""\
# Who may do what

An API key has one role. `itself`: an agent's key reaches the agent that it belongs to and no other; a key of no agent
yet becomes that of the first agent that it registers. A request without a valid key is a 401, one that the role does
not cover a 403. A decision or an approval of another agent is a 404 to an agent's key, as one that does not exist. Over
gRPC, `registry_store.v1.RegistrySync` takes keys of the roles `sidecar` and `admin`.

A sidecar's key may be bound to agents or to tags: it then syncs, reports of and uses approvals of no other agents.

An approver's key decides on approvals that name it or one of its groups, or nobody; of others it is a 403 as well.

Made by `make roles` from the routes; do not edit.

{table()}"""

if __name__ == "__main__":
    sys.stdout.write(PAGE)
