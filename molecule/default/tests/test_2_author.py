"""From a new package to its logs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from conftest import SOURCE, Cluster, run


@pytest.mark.essential
def test_from_new_to_an_answer_and_back_to_the_author(cluster: Cluster, project: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE / "files")}
    new = [sys.executable, "-m", "modelserve", "new", "Counting", "--project", str(project)]
    assert "algopkg.Counting" in run(*new, env=environment).stdout
    with (project / "algopkg/Counting/backend.py").open("a") as stream:
        stream.write("\n    def reconfigure(self, config):\n        import logging\n\n")
        stream.write('        logging.getLogger("ray.serve").info("configured with %s", config)\n')
    with (project / "conf.ini").open("a") as stream:
        stream.write('user_config = {"level": 7}\n')
    cluster.apply()
    assert cluster.ask("counting", {"text": "aeb"}, "POST")[1]["result"] == {"length": 3, "vowels": 2}

    tried = json.loads(cluster.head("modelserve", "test", "Counting", "--json").stdout)
    assert tried["ok"] and tried["answer"]["result"]["length"] == 12
    assert "Counting" in cluster.head("modelserve", "shell", "Counting", "-c", "pwd; which python").stdout
    loaded = cluster.head("modelserve", "bench", "Counting", "--seconds", "2", "--connections", "4").stdout
    assert "failed     none" in loaded and max(map(len, loaded.splitlines())) <= 80

    assert 'configured with {"level": 7}'.replace('"', "'") in cluster.head("modelserve", "logs", "Counting").stdout
    status, answer = cluster.ask("counting", {"no": "text"}, "POST")
    assert status == 500
    logged = cluster.head("modelserve", "logs", "Counting", "--request", answer["request_id"]).stdout
    assert "KeyError: 'text'" in logged and "head" in logged
