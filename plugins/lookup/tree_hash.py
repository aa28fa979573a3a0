"""Hash a directory's content: names, executable bits and bytes of its files, without caches and times."""

from __future__ import annotations

DOCUMENTATION = r"""
name: tree_hash
author: modelserve
short_description: SHA-256 over a directory's content
description: Equal trees have equal hashes, on any machine.
options:
  _terms:
    description: Directories on the machine that runs Ansible.
    required: true
"""

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase

sys.path.insert(0, str(Path(__file__).parents[2] / "files"))


class LookupModule(LookupBase):
    """The lookup ``tree_hash``."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return one hash per directory."""
        from modelserve import hashing

        return [hashing.of_tree(Path(term)) for term in terms]
