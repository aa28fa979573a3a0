#!/usr/bin/python
"""Read on the head the facts of the cluster that a worker needs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: modelserve_cluster_facts
short_description: The cluster's token and the image its head runs
description:
  - Runs on the head. Both are empty before the first installation. Changes nothing.
  - The result holds the token; use C(no_log).
options:
  home:
    description: The directory modelserve keeps its data in.
    type: str
    required: true
author: modelserve
"""

EXAMPLES = r"""
- name: Ask the head
  modelserve_cluster_facts:
    home: /opt/modelserve
  register: cluster
  no_log: true
"""

RETURN = r"""
token:
  description: The cluster's token.
  returned: always
  type: str
image:
  description: The name of the image the head runs.
  returned: always
  type: str
"""

import json
import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule


def read(path: Path) -> str:
    """Return a file's text; empty where it does not exist."""
    return path.read_text(encoding="utf-8") if os.path.exists(path) else ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={"home": {"type": "str", "required": True}}, supports_check_mode=True)
    home = Path(module.params["home"])
    manifest = json.loads(read(home / "store" / "manifest.json") or "{}")
    token = read(home / "secrets" / "ray_token").strip()
    module.exit_json(changed=False, token=token, image=manifest.get("versions", {}).get("image", ""))


if __name__ == "__main__":
    main()
