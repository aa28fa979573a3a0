"""Model files: what models.yml says of them, where they come from, and their signatures."""
