"""Finds speech in a recording."""
