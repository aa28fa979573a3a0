"""Collect a host's part of a diagnosis and keep it on the operator's machine until the archive is made.

The module returns the part in its result: the host needs no free disk for it, and nothing is left there to remove.
On the operator's machine the part is in Ansible's temporary directory, which Ansible removes when it ends.

Returns ``part`` (the file), ``headline`` and ``problems``.
"""

from __future__ import annotations

import base64
import os
import tempfile
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """The action ``modelserve_diagnose``."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module of the same name and move its archive from the result to a file."""
        super().run(tmp, task_vars)
        result: dict[str, Any] = self._execute_module(module_args=self._task.args, task_vars=task_vars)
        content = result.pop("content", None)
        if content is not None:
            handle, result["part"] = tempfile.mkstemp(suffix=".tar.gz", dir=constants.DEFAULT_LOCAL_TMP)
            with os.fdopen(handle, "wb") as stream:
                stream.write(base64.b64decode(content))
        return result
