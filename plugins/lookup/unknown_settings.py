"""Variables of an inventory that look like settings of modelserve and are none: typing errors and former names."""

from __future__ import annotations

DOCUMENTATION = r"""
name: unknown_settings
author: modelserve
short_description: Variables with modelserve's prefix that no role reads
description: A misspelt setting has no effect, and Ansible does not report it.
options:
  _terms:
    description: Names of variables.
    required: true
"""

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.lookup import LookupBase

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # each host of a run loads the files again
ROLE = Path(__file__).parents[2] / "roles" / "modelserve"
PREFIX = "modelserve_"
RENAMED = {
    "modelserve_key_at_once": "modelserve_key_max_concurrent",
    "modelserve_room_timeout": "modelserve_scheduling_timeout",
    "modelserve_watch": "modelserve_min_ready_seconds",
}
MOVED = {"modelserve_retry_unanswered": "write retry_unanswered = true in a section of conf.ini, or in [DEFAULTS]"}
# Set during a run, by roles and playbooks.
FACTS = {
    "modelserve_cluster",
    "modelserve_dev_containers",
    "modelserve_dev_mounts",
    "modelserve_diagnose_part",
    "modelserve_diagnose_secrets",
    "modelserve_firewall_loaded",
    "modelserve_host",
    "modelserve_head_image_tag",
    "modelserve_image_present",
    "modelserve_image_tag",
    "modelserve_node_health",
    "modelserve_nodes_shown",
    "modelserve_project_facts",
    "modelserve_purge_answer",
    "modelserve_releases",
    "modelserve_removed_host",
    "modelserve_rollback_port",
    "modelserve_rolled_back",
    "modelserve_served_port",
}


def settings(role: Path = ROLE) -> set[str]:
    """Return the names of all settings."""
    specs = yaml.load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"), Loader=LOADER)[
        "argument_specs"
    ]
    return {name for entry_point in specs.values() for name in entry_point["options"]}


def derived(role: Path = ROLE) -> set[str]:
    """Return the names of the variables that the settings' role derives from them."""
    return set(yaml.load((role / "vars" / "main.yml").read_text(encoding="utf-8"), Loader=LOADER))


def unknown(names: Iterable[str], options: Collection[str], others: Collection[str]) -> list[dict[str, str]]:
    """Return the unknown names, each with what to write instead.

    Args:
        names: of an inventory's variables.
        options: names of settings.
        others: names that are no settings, and may be there.
    """
    rows = []
    for name in sorted(set(names)):
        if not name.startswith(PREFIX) or name in options or name in others:
            continue
        endings = sorted(option.removeprefix(PREFIX) for option in options)
        similar = difflib.get_close_matches(name.removeprefix(PREFIX), endings, n=1, cutoff=0.7)
        if name in RENAMED:
            advice = f"{name} was renamed to {RENAMED[name]}"
        elif name in MOVED:
            advice = f"{name} is no longer a setting: {MOVED[name]}"
        elif similar:
            advice = f"{name} is not a setting. Did you mean {PREFIX}{similar[0]}?"
        else:
            advice = f"{name} is not a setting. roles/modelserve/defaults/main.yml lists all of them"
        rows.append({"name": name, "advice": advice})
    return rows


class LookupModule(LookupBase):
    """The lookup ``unknown_settings``."""

    def run(
        self, terms: list[list[str]], variables: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[list[dict[str, str]]]:
        """Return one list of unknown names and advice for each list of names."""
        options, others = settings(), derived() | FACTS
        return [unknown(names, options, others) for names in terms]
