"""The role's tasks for models, as Ansible runs them: each model is fetched in its place, and no deploy removes it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_playbooks import ROOT, ansible

CONTENT = b"weights" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TASKS = (
    "Fetch and verify the models that Model_ZOO/models.yml describes",
    "Bring packages and models",
    "Bring packages",
    "Bring models",
    "Have the head fetch and verify its models",
)
# In place of the head's container.
DOCKER = """#!/bin/sh
shift 2
[ "$1" = modelserve ] && shift
MODELSERVE_HOME={home} PYTHONPATH={root}/files exec {python} -m modelserve "$@"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "net").write_bytes(CONTENT)
    entries = [
        {"file": "of operator", "sha256": SHA256, "path": str(tmp_path / "net")},
        {"file": "of [head]", "sha256": SHA256, "path": str(tmp_path / "net"), "fetch_on": "head"},
    ]
    project = tmp_path / "project"
    (project / "Model_ZOO" / ".fetching" / "part").mkdir(parents=True)
    (project / "Model_ZOO" / "models.yml").write_text(yaml.safe_dump(entries))
    (project / "conf.ini").write_text("[MODEL SERVE]\nport = 666\n")
    (project / "algopkg").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER.format(home=tmp_path / "home", root=ROOT, python=sys.executable))
    docker.chmod(0o755)
    (tmp_path / "home").mkdir()
    return project


def deploy(tmp_path: Path, project: Path, *options: str, **settings: Any) -> str:
    role = ROOT / "roles" / "serve_deploy"
    tasks = yaml.safe_load((role / "tasks" / "main.yml").read_text())
    variables = yaml.safe_load((role / "vars" / "main.yml").read_text())
    owner = {"modelserve_user": str(os.geteuid())}
    play = {
        "hosts": "modelserve_all",
        "gather_facts": False,
        "roles": ["modelserve"],
        "vars": {
            **{name: value for name, value in variables.items() if name.startswith("__serve_deploy_")},
            "modelserve_home": str(tmp_path / "home"),
            "modelserve_source": str(ROOT),
            "modelserve_project": str(project),
            "serve_deploy_python": sys.executable,
            "serve_deploy_head": "modelserve_head",
            "modelserve_project_facts": {"models": {"of operator": "", "of [head]": "head"}},
            **owner,
            **settings,
        },
        "tasks": [task for task in tasks if task["name"] in TASKS],
    }
    return ansible(tmp_path, {"head": ["h"]}, [play], *options, path=str(tmp_path / "bin"))


def test_each_model_is_fetched_in_its_place_once(tmp_path: Path, project: Path) -> None:
    home, zoo = tmp_path / "home" / "Model_ZOO", project / "Model_ZOO"
    text = deploy(tmp_path, project)
    assert "failed=0" in text and "of [head]: fetching from " in text, text
    assert sorted(path.name for path in zoo.iterdir()) == ["models.yml", "of operator"]
    assert sorted(path.name for path in home.iterdir()) == ["models.yml", "of [head]", "of operator"]
    for options in ([], ["--check"]):
        text = deploy(tmp_path, project, *options)
        assert "changed=0" in text and "failed=0" in text, text
    assert (home / "of [head]").read_bytes() == CONTENT


@pytest.mark.long
def test_a_variable_says_where_models_are_fetched_and_a_failure_is_one_line(tmp_path: Path, project: Path) -> None:
    text = deploy(tmp_path, project, modelserve_models_fetched_on="head")
    assert "failed=0" in text and [path.name for path in (project / "Model_ZOO").iterdir()] == ["models.yml"], text
    (tmp_path / "net").unlink()
    (tmp_path / "home" / "Model_ZOO" / "of operator").write_text("damaged")
    text = deploy(tmp_path, project, modelserve_models_fetched_on="head")
    assert "error: Model_ZOO/models.yml [of operator]: cannot be fetched" in text, text
    assert "Traceback" not in text
    assert (tmp_path / "home" / "Model_ZOO" / "of operator").read_text() == "damaged"


@pytest.mark.long
def test_the_head_s_variables_and_secrets_reach_its_sources(tmp_path: Path, project: Path) -> None:
    """A client that prints what it sees stands in for Hugging Face's."""
    home = tmp_path / "home"
    hub = tmp_path / "lib" / "huggingface_hub"
    hub.mkdir(parents=True)
    (hub / "__init__.py").write_text(
        "import os\nraise RuntimeError(os.environ['HF_ENDPOINT'] + '|' + os.environ['HF_TOKEN'][:3])\n"
    )
    entry = {"directory": "bert", "sha256": SHA256, "hf": "org/net", "revision": "0" * 40, "fetch_on": "head"}
    (project / "Model_ZOO" / "models.yml").write_text(yaml.safe_dump([entry]))
    (home / "secrets").mkdir()
    (home / "secrets" / "inventory.json").write_text(json.dumps({"hf_token": "abcdefgh"}))
    settings = {"models_environment": {"HF_ENDPOINT": "http://mirror"}, "models_secrets": {"HF_TOKEN": "hf_token"}}
    (home / "settings.json").write_text(json.dumps(settings))
    docker = tmp_path / "bin" / "docker"
    docker.write_text(docker.read_text().replace(f"{ROOT}/files", f"{ROOT}/files:{hub.parent}"))
    text = deploy(tmp_path, project, modelserve_project_facts={"models": {"bert": "head"}})
    assert "cannot be fetched: http://mirror|abc" in text, text
    assert "abcdefgh" not in text
