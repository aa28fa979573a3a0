"""The check of an inventory's settings: former and misspelt names are told apart from what is a setting."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lookup() -> ModuleType:
    path = ROOT / "plugins" / "lookup" / "unknown_settings.py"
    spec = importlib.util.spec_from_file_location("unknown_settings", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def advice(lookup: ModuleType, *names: str) -> list[str]:
    rows = lookup.LookupModule().run([list(names)])[0]
    return [row["advice"] for row in rows]


def test_settings_facts_and_other_variables_pass(lookup: ModuleType) -> None:
    assert (
        advice(lookup, "modelserve_home", "modelserve_image_tag", "modelserve_hosts", "ansible_host", "image_tag") == []
    )


def test_a_misspelt_setting_is_named_with_the_one_meant(lookup: ModuleType) -> None:
    assert advice(lookup, "modelserve_gpu") == ["modelserve_gpu is not a setting. Did you mean modelserve_gpus?"]
    assert advice(lookup, "modelserve_keep_release", "modelserve_min_disc_mb") == [
        "modelserve_keep_release is not a setting. Did you mean modelserve_keep_releases?",
        "modelserve_min_disc_mb is not a setting. Did you mean modelserve_min_disk_mb?",
    ]


def test_a_name_like_no_setting_is_named_with_where_they_are(lookup: ModuleType) -> None:
    assert "roles/modelserve/defaults/main.yml" in advice(lookup, "modelserve_xyzzy")[0]


def test_a_former_name_is_named_with_the_new_one(lookup: ModuleType) -> None:
    assert advice(lookup, "modelserve_watch") == ["modelserve_watch was renamed to modelserve_min_ready_seconds"]
    settings = lookup.settings()
    assert set(lookup.RENAMED.values()) <= settings
    assert not settings & set(lookup.RENAMED)


def test_every_default_is_a_setting_and_every_setting_has_a_default(lookup: ModuleType) -> None:
    defaults = yaml.safe_load((ROOT / "roles" / "modelserve" / "defaults" / "main.yml").read_text())
    assert set(defaults) == lookup.settings()


def test_what_a_run_sets_is_known_as_such(lookup: ModuleType) -> None:
    text = "".join(
        path.read_text() for folder in ("roles", "playbooks") for path in sorted((ROOT / folder).rglob("*.yml"))
    )
    registered = set(re.findall(r"register: (modelserve_\w+)", text))
    set_facts = {
        name
        for block in re.findall(r"set_fact:.*\n((?: +\w+: .*\n)+)", text)
        for name in re.findall(r"^ +(modelserve_\w+):", block, flags=re.MULTILINE)
    }
    assert registered | set_facts | {"modelserve_host"} == lookup.FACTS
