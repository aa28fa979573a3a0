"""The content-addressed store: what lies in it, its manifest, and how workers get it."""
