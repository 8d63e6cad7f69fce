"""The REST interface: one router a noun, which owns the transaction."""
