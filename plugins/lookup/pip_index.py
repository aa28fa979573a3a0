"""The Python package index this machine's pip is set up with, empty when it has none of its own."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pip_index
author: modelserve
short_description: Index URL of this machine's pip
description: So that what is built gets its packages where the operator's machine does. May hold a password.
options: {}
"""

import subprocess
import sys

from ansible.plugins.lookup import LookupBase


class LookupModule(LookupBase):
    """The lookup ``pip_index``."""

    def run(self, terms, variables=None, **kwargs):
        """One URL, or an empty string."""
        for place in (":env:.index-url", "global.index-url"):
            command = [sys.executable, "-m", "pip", "config", "get", place]
            found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            if found:
                return [found]
        return [""]
