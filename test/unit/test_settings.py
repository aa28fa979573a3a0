"""settings.json: what Ansible writes is read, and anything else is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from modelserve.errors import UserError
from modelserve.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert Settings.load(tmp_path) == Settings(home=tmp_path)


def test_what_the_file_says_holds(tmp_path: Path) -> None:
    values = {"serve_port": 8001, "gateway_bind": ["10.0.0.1", "127.0.0.1"], "deploy_timeout_s": 5}
    (tmp_path / "settings.json").write_text(json.dumps(values))
    settings = Settings.load(tmp_path)
    assert settings.serve_port == 8001
    assert settings.gateway_bind == ("10.0.0.1", "127.0.0.1")
    assert settings.deploy_timeout_s == 5


def test_the_variable_says_where_home_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path))
    settings = Settings.load()
    assert settings.home == tmp_path
    for path in (settings.conf_file, settings.algopkg, settings.model_zoo, settings.token_file):
        assert path.is_relative_to(tmp_path)


def test_the_workers_have_a_file_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"serve_port": 8001}')
    (tmp_path / "workers.json").write_text('{"worker_1": "10.0.0.2"}')
    assert Settings.load(tmp_path).workers == {"worker_1": "10.0.0.2"}
    assert Settings.load(tmp_path).workers == {"worker_1": "10.0.0.2"}


def test_what_another_version_wrote_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"of_tomorrow": [1], "serve_port": 8001}')
    assert Settings.load(tmp_path) == Settings(home=tmp_path, serve_port=8001)


def test_the_names_of_the_version_before_are_read(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"room_timeout_s": 4, "watch_s": 3, "key_at_once": 2}')
    settings = Settings.load(tmp_path)
    assert (settings.scheduling_timeout_s, settings.min_ready_seconds, settings.key_max_concurrent) == (4, 3, 2)


def test_every_setting_that_ansible_writes_is_read() -> None:
    role = yaml.safe_load((ROOT / "roles" / "serve_deploy" / "vars" / "main.yml").read_text())
    assert set(role["__serve_deploy_settings"]) <= set(Settings.model_fields)


@pytest.mark.parametrize("text", ["{", "[]", "[[1, 2]]", "1", '"x"'])
@pytest.mark.parametrize("name", ["settings.json", "workers.json"])
def test_a_file_that_holds_no_object_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    refused(tmp_path / name)


@pytest.mark.parametrize("text", ['{"serve_port": "x"}', '{"gateway_bind": "x"}'])
def test_a_file_that_ansible_did_not_write_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.json").write_text(text)
    refused(tmp_path / "settings.json")


def test_workers_that_have_no_address_are_refused_by_their_file(tmp_path: Path) -> None:
    (tmp_path / "workers.json").write_text('{"worker_1": 1}')
    refused(tmp_path / "workers.json")


def refused(file: Path) -> None:
    with pytest.raises(UserError) as caught:
        Settings.load(file.parent)
    (problem,) = caught.value.problems
    assert problem.file == str(file)
    assert "\n" not in str(problem)
