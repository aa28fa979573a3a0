"""Collects a host's part of a diagnosis and keeps it on the operator's machine until the archive is made.

The part comes back in the module's own answer: the host needs no free disk for it, and nothing is left there to remove.
Here it lies in Ansible's temporary directory, which Ansible removes when it ends, however it ends.

Returns ``part`` (the file), ``headline`` and ``problems``.
"""

from __future__ import annotations

import base64
import os
import tempfile

from ansible import constants as C
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """The action ``modelserve_diagnose``."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        """Run the module of the same name and take its archive out of the answer."""
        super().run(tmp, task_vars)
        result = self._execute_module(module_args=self._task.args, task_vars=task_vars)
        content = result.pop("content", None)
        if content is not None:
            handle, result["part"] = tempfile.mkstemp(suffix=".tar.gz", dir=C.DEFAULT_LOCAL_TMP)
            with os.fdopen(handle, "wb") as stream:
                stream.write(base64.b64decode(content))
        return result
