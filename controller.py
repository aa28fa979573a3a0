#!/usr/bin/env python
"""Apply conf.ini to the running cluster.

This runs on the head, inside the container, from any directory:

docker exec modelserve_head python controller.py
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run ``modelserve apply`` for the project this file lies in, and end with its exit code."""
    try:
        from modelserve.cli import entry
    except ModuleNotFoundError:
        print(
            "error: run this inside the head's container: docker exec modelserve_head python controller.py\n"
            "       (on the operator's machine: ansible-playbook playbooks/deploy.yml)",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    os.environ.setdefault("MODELSERVE_HOME", str(HERE))
    entry(["apply", *sys.argv[1:]])


if __name__ == "__main__":
    main()
