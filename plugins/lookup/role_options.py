"""The options of all roles of this project, as their argument_specs.yml files state them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: role_options
author: modelserve
short_description: The options of all roles
description: So that one task validates the settings of a run, whichever roles it applies.
options: {}
"""

from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.lookup import LookupBase

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # each host of a run loads the files again
ROLES = Path(__file__).parents[2] / "roles"


def options(roles: Path = ROLES) -> dict[str, Any]:
    """Return the argument spec of every option, by the option's name."""
    specs: dict[str, Any] = {}
    for path in sorted(roles.glob("*/meta/argument_specs.yml")):
        for entry_point in yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)["argument_specs"].values():
            specs.update(entry_point.get("options", {}))
    return specs


class LookupModule(LookupBase):
    """The lookup ``role_options``."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        """Return one dictionary."""
        return [options()]
