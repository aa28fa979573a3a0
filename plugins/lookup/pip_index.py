"""The package index that this machine's pip is configured with; empty where it uses the default."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pip_index
author: modelserve
short_description: Index URL of this machine's pip
description: Builds get their packages from the same index as the operator's machine. The URL may hold a password.
options: {}
"""

import subprocess
import sys
from typing import Any

from ansible.plugins.lookup import LookupBase


class LookupModule(LookupBase):
    """The lookup ``pip_index``."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return one URL, or an empty string."""
        for key in (":env:.index-url", "global.index-url"):
            command = [sys.executable, "-m", "pip", "config", "get", key]
            url = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            if url:
                return [url]
        return [""]
