"""conf.ini as Ansible reads, renders and writes it: its meaning reaches the head, or one clear line is shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelserve.config import parser
from test_playbooks import ROOT, ansible

CONF = """\
[MODEL SERVE]
port = 6660

[algopkg.Echo]
backend = Echo
route = echo
replicas = {{ replicas_of_echo }}
"""
PROMPT = "Answer {{ question }} in {# one #} word"


def deploy(directory: Path, content: bytes) -> str:
    """Check a project and write its conf.ini as the roles do; return what Ansible printed."""
    project = directory / "project"
    (project / "algopkg" / "Echo").mkdir(parents=True)
    (project / "algopkg" / "Echo" / "backend.py").write_text("class Echo: ...\n")
    (project / "Model_ZOO").mkdir()
    (project / "conf.ini").write_bytes(content)
    (directory / "home").mkdir()
    tasks = yaml.safe_load((ROOT / "roles/serve_deploy/tasks/main.yml").read_text())
    (write,) = [task for task in tasks if task["name"] == "Write conf.ini"]
    del write["ansible.builtin.template"]["owner"]
    check = {"ansible.builtin.import_role": {"name": "preflight", "tasks_from": "project.yml"}}
    play: dict[str, Any] = {"hosts": "modelserve_all", "gather_facts": False, "roles": ["modelserve"]}
    play["vars"] = {
        "modelserve_project": str(project),
        "modelserve_source": str(ROOT),
        "modelserve_home": str(directory / "home"),
        "replicas_of_echo": 3,
    }
    play["tasks"] = [check, write]
    return re.sub(r"\s+", " ", ansible(directory, {"head": ["h"]}, [play]))


def test_braces_and_a_byte_order_mark_reach_the_head_as_they_are_meant(tmp_path: Path) -> None:
    user_config = f"user_config = {{% raw %}}{json.dumps({'prompt': PROMPT})}{{% endraw +%}}\n"
    lines = user_config + 'env.DSN = """Server=db ; Uid=a"""\n'
    text = deploy(tmp_path, b"\xef\xbb\xbf" + (CONF + lines).encode())
    file = tmp_path / "home" / "conf.ini"
    assert file.exists(), text
    (section,) = parser.load(file)[0].sections
    assert (section.replicas, section.user_config) == (3, {"prompt": PROMPT})
    assert section.env == {"DSN": "Server=db ; Uid=a"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            (CONF + f"user_config = {json.dumps({'prompt': PROMPT})}\n").encode(),
            "conf.ini:8 [algopkg.Echo] user_config: '{#' begins a comment of templates, which is not in the value. "
            "Write {% raw %} before and {% endraw +%} after what is no template, or move the comment",
            id="comment",
        ),
        pytest.param(
            (CONF + 'warmup = {"a": "{{ question }}"}\nenv.A = {{ answer.text | upper }}\n').encode(),
            "conf.ini:8 [algopkg.Echo] warmup: 'question' is undefined. Write {% raw %} before and {% endraw +%} after",
            id="undefined",
        ),
        pytest.param(
            CONF.replace("replicas_of_echo", "replicas_of_echo - 3").encode(),
            "conf.ini:7 [algopkg.Echo] replicas: 0 is out of range",
            marks=pytest.mark.long,
            id="rendered",
        ),
        pytest.param(
            CONF.encode("utf-16"),
            "conf.ini: is not UTF-8 text (byte 0). Save it as UTF-8",
            marks=pytest.mark.long,
            id="utf-16",
        ),
    ],
)
def test_what_cannot_be_rendered_is_named_by_line_section_and_key(tmp_path: Path, content: bytes, message: str) -> None:
    text = deploy(tmp_path, content)
    assert message in text, text
    assert not (tmp_path / "home" / "conf.ini").exists()
    if b"answer" in content:
        assert "conf.ini:9 [algopkg.Echo] env.A: 'answer' is undefined" in text
