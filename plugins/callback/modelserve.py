"""Ansible's default output, with a long command's task named before its lines, not after, and a result as last line."""

from __future__ import annotations

DOCUMENTATION = r"""
name: modelserve
type: stdout
short_description: The default output; show_command's banner comes first
description:
  - With skipped hosts hidden, the default output names a task when its first result is there.
  - A task that shows lines while it runs needs its name before them.
  - The statistic C(modelserve_last_line) of a run is shown below the recap.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - set as stdout in configuration
"""

from ansible.plugins.callback.default import CallbackModule as Default


class CallbackModule(Default):
    """The default callback, but for two cases."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "modelserve"

    def v2_playbook_on_task_start(self, task, is_conditional):
        """Name the task at once when it will show lines."""
        super().v2_playbook_on_task_start(task, is_conditional)
        if task.action in ("show_command", "show_table", "diagnose_archive") and self._last_task_banner != task._uuid:
            self._print_task_banner(task)

    def v2_playbook_on_stats(self, stats):
        """End with what the run was for, where an action said so."""
        super().v2_playbook_on_stats(stats)
        line = stats.custom.get("_run", {}).get("modelserve_last_line")
        if line:
            self._display.display(line)
