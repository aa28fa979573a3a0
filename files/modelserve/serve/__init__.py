"""Everything that knows Ray Serve's documents and API."""
