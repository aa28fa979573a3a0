"""ansible-lint, and one syntax check of all playbooks.

ansible-lint starts Ansible once per playbook and role to check its syntax, and once more for each playbook that another
imports: a minute of processor time for what one process does in seconds.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ansible_compat.runtime import Runtime
from ansiblelint.__main__ import main
from ansiblelint.runner import Runner

ROOT = Path(__file__).resolve().parent.parent


def playbooks() -> list[str]:
    """The files of the checkout that hold plays."""
    folders = ["playbooks", "playbooks/plays", "molecule/*"]
    found = [path for folder in folders for path in sorted(ROOT.glob(f"{folder}/*.yml"))]
    return [str(path) for path in found if path.name != "molecule.yml"]


if __name__ == "__main__":
    syntax = ["ansible-playbook", "--syntax-check", *playbooks()]
    checked = subprocess.run(syntax, capture_output=True, text=True, check=False)
    if checked.returncode != 0:
        sys.exit(checked.stderr)
    Runner._collect_syntax_check_files = lambda _: []
    Runtime.has_playbook = lambda *_, **__: True
    sys.exit(main())
