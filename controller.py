#!/usr/bin/env python
"""Applies conf.ini to the running cluster. Runs on the head, inside the container, from any directory:

docker exec modelserve_head python controller.py
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run ``modelserve apply`` for the project this file lies in; returns the exit code."""
    try:
        from modelserve.cli import main as modelserve
    except ModuleNotFoundError:
        print(
            "error: run this inside the head's container: docker exec modelserve_head python controller.py\n"
            "       (on the operator's machine: ansible-playbook playbooks/deploy.yml)",
            file=sys.stderr,
        )
        return 1
    os.environ.setdefault("MODELSERVE_HOME", str(HERE))
    return modelserve(["apply", *sys.argv[1:]])


if __name__ == "__main__":
    raise SystemExit(main())
