"""The records of a decision log: their batches in a hash chain, and what people read of them. Sidecar and store."""
