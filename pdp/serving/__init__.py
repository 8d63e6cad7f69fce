"""How both programs serve HTTP and end gRPC within bounds: connections, bodies, file descriptors, drain.

It imports nothing of the project, so that the sidecar and the store share it and nothing else.
"""
