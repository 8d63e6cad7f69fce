"""Pages for people: sign in with a key, see what waits for approval, and decide it. No scripts, no other host."""
