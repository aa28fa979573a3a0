"""A module beside backend.py."""

import json


def load(path):
    """The word list at ``path``."""
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)
