#!/usr/bin/python
"""What a worker has to know of its cluster, read on the head."""

from __future__ import annotations

DOCUMENTATION = r"""
module: modelserve_cluster_facts
short_description: The cluster's token and the image its head runs
description:
  - Runs on the head. Both are empty where there is no cluster yet. Changes nothing.
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

from ansible.module_utils.basic import AnsibleModule


def read(path):
    """A file's text, empty where there is none."""
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as stream:
        return stream.read()


def main():
    """Answer Ansible."""
    module = AnsibleModule(argument_spec={"home": {"type": "str", "required": True}}, supports_check_mode=True)
    home = module.params["home"]
    manifest = json.loads(read(os.path.join(home, "store", "manifest.json")) or "{}")
    token = read(os.path.join(home, "secrets", "ray_token")).strip()
    module.exit_json(changed=False, token=token, image=manifest.get("versions", {}).get("image", ""))


if __name__ == "__main__":
    main()
