"""Ansible's default output, with the name of a long command's task before its lines, and a result as last line."""

from __future__ import annotations

DOCUMENTATION = r"""
name: modelserve
type: stdout
short_description: The default output, with the banner of show_command first
description:
  - With skipped hosts hidden, the default output names a task when its first result arrives.
  - A task that shows lines while it runs needs its name before them.
  - The statistic C(modelserve_last_line) of a run is shown below the recap.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - set as stdout in configuration
"""

from typing import Any

from ansible.plugins.callback.default import CallbackModule as Default


class CallbackModule(Default):
    """The default callback with two additions."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "modelserve"

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Show the task's name before an action that shows lines."""
        super().v2_playbook_on_task_start(task, is_conditional)
        if task.action in ("show_command", "show_table", "diagnose_archive") and self._last_task_banner != task._uuid:
            self._print_task_banner(task)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Show the last line that an action set, below the recap."""
        super().v2_playbook_on_stats(stats)
        line = stats.custom.get("_run", {}).get("modelserve_last_line")
        if line:
            self._display.display(line)
