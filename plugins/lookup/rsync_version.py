"""The version of this machine's rsync: what brings sources, packages and models to the hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rsync_version
author: modelserve
short_description: Version of rsync on the operator's machine
description: Empty where there is none. C(other) where it is not GNU's rsync, as macOS's openrsync.
options: {}
"""

import re
import subprocess
from typing import Any

from ansible.plugins.lookup import LookupBase


def parse(text: str) -> str:
    """Return the version that ``rsync --version`` names, or ``other``."""
    match = re.match(r"rsync +version v?(\d+(?:\.\d+)+)", text)
    return match.group(1) if match else "other"


class LookupModule(LookupBase):
    """The lookup ``rsync_version``."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return one version, ``other`` or an empty string."""
        try:
            result = subprocess.run(["rsync", "--version"], capture_output=True, text=True, check=False)
        except OSError:
            return [""]
        return [parse(result.stdout or result.stderr)]
