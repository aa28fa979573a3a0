"""Ansible's default output, with a long command's task named before its lines, not after."""

from __future__ import annotations

DOCUMENTATION = r"""
name: modelserve
type: stdout
short_description: The default output; show_command's banner comes first
description:
  - With skipped hosts hidden, the default output names a task when its first result is there.
  - A task that shows lines while it runs needs its name before them.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - set as stdout in configuration
"""

from ansible.plugins.callback.default import CallbackModule as Default


class CallbackModule(Default):
    """The default callback, but for one case."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "modelserve"

    def v2_playbook_on_task_start(self, task, is_conditional):
        """Name the task at once when it will show lines."""
        super().v2_playbook_on_task_start(task, is_conditional)
        if task.action in ("show_command", "show_table") and self._last_task_banner != task._uuid:
            self._print_task_banner(task)
