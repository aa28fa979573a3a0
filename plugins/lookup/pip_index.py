"""The package index that this machine's pip is configured with; empty where it uses the default."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pip_index
author: modelserve
short_description: Index URL of this machine's pip
description: Builds get their packages from the same index as the operator's machine. The URL may hold a password.
options: {}
"""

import ast
import subprocess
import sys
from typing import Any

from ansible.plugins.lookup import LookupBase

KEYS = (":env:.index-url", "global.index-url")  # the environment comes before the files, as for pip


def index_url(configuration: str) -> str:
    """Return the index that ``pip config list`` names, or an empty string."""
    values = dict(line.split("=", 1) for line in configuration.splitlines() if "=" in line)
    urls = [str(ast.literal_eval(values[key])) for key in KEYS if key in values]
    return next((url for url in urls if url), "")


class LookupModule(LookupBase):
    """The lookup ``pip_index``."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return one URL, or an empty string."""
        command = [sys.executable, "-m", "pip", "config", "list"]
        return [index_url(subprocess.run(command, capture_output=True, text=True, check=False).stdout)]
