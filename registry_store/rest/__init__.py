"""The REST interface: one router per noun; each route owns its transaction."""
