"""The Debian packages that a project asks for beside the image's own, with who asks for each."""

from __future__ import annotations

DOCUMENTATION = r"""
name: debian_packages
author: modelserve
short_description: The Debian packages that a project asks for
description:
  - A dictionary of C(packages) and C(problems). C(packages) has who asks for a package by its name, sorted by names.
    C(problems) has a line for each file or value that is wrong.
options:
  _terms:
    description:
      - The directory C(algopkg) on the machine that runs Ansible, empty for none; the value of a variable with names;
        and that variable's name.
    required: true
"""

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase

sys.path.insert(0, str(Path(__file__).parents[2] / "files"))


class LookupModule(LookupBase):
    """The lookup ``debian_packages``."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        """Return one dictionary."""
        from modelserve.config import debian

        directory, value, name = terms
        packages, problems = debian.read_all(Path(directory) if directory else None, value, name)
        return [{"packages": packages, "problems": problems}]
