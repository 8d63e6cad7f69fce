"""TLS of both programs: certificates from files, reloaded while connections are made, and the names of clients."""
