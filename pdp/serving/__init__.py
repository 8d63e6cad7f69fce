"""Bounded serving of HTTP and gRPC for both programs: connections, bodies, file descriptors, drain.

It imports nothing of the project, because the sidecar and the store share it.
"""
