"""Bounded serving of HTTP and gRPC for both programs: connections, bodies, file descriptors, drain.

It imports nothing of the project, because the sidecar and the store share it.
"""

import os

# Before gRPC is imported: else it prints lines of its own for each handshake that fails, as many as there are.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
