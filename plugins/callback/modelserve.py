"""Ansible's default output, with additions for tasks that take minutes.

The name of a long command's task comes before its lines; image pulls are counted; a result is the last line. A failed
connection or privilege escalation gets a line that says what to do.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: modelserve
type: stdout
short_description: The default output, with additions for long tasks
description:
  - With skipped hosts hidden, the default output names a task when its first result arrives.
  - A task that shows lines while it runs needs its name before them.
  - An image pull of many hosts takes minutes. After each host there is how many of how many are done.
  - Below a failed connection or privilege escalation there is what to do about it.
  - The statistic C(modelserve_last_line) of a run is shown below the recap.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - set as stdout in configuration
"""

import re
from typing import Any

from ansible.plugins.callback.default import CallbackModule as Default

COUNTED = "modelserve_image_load"
# What Ansible or ssh says, and what to do; the first that fits.
HINTS = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key for .* has changed",
        "the host, or a bastion before it, has another SSH key than before. If it was installed anew: ssh-keygen -R "
        "HOST, log in once by hand with ssh, and compare the fingerprint",
    ),
    (
        r"Host key verification failed|Host Key checking is enabled",
        "the SSH key of the host, or of a bastion before it, is not known. Log in once by hand with ssh, as this user, "
        "and compare the fingerprint",
    ),
    (r"Missing \w+ password", "run with -K, or set ansible_become_password of the host in a vault"),
    (r"Incorrect \w+ password", "give the right password: -K asks for it, ansible_become_password of the host sets it"),
    (
        r"Permission denied \(.*(publickey|password)",
        "SSH takes neither key nor password: look at ansible_user and ansible_ssh_private_key_file, or run with -k",
    ),
)


class CallbackModule(Default):
    """The default callback with additions."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "modelserve"

    def __init__(self) -> None:
        super().__init__()
        self._counted_task = ""
        self._hosts = self._done = 0

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Count the hosts that a counted task runs on."""
        super().v2_runner_on_start(host, task)
        if task.action.split(".")[-1] == COUNTED:
            if self._counted_task != task._uuid:
                self._counted_task, self._hosts, self._done = task._uuid, 0, 0
            self._hosts += 1

    def v2_runner_on_ok(self, result: Any) -> None:
        """Show how many hosts are done after the line of each."""
        super().v2_runner_on_ok(result)
        if result.task._uuid != self._counted_task:
            return
        self._done += 1
        answer = result.result
        details = [f"{answer.get('fetched', 0) / 2**20:.1f} MiB fetched"]
        if retries := answer.get("retries", 0):
            details.append(f"the store asked again {retries} times")
        self._display.display(f"  {self._done} of {self._hosts} hosts have the image ({', '.join(details)})")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Show what to do below the failure."""
        super().v2_runner_on_failed(result, ignore_errors)
        self._show_hint(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Show what to do below the failure."""
        super().v2_runner_on_unreachable(result)
        self._show_hint(result)

    def _show_hint(self, result: Any) -> None:
        message = str(result.result.get("msg", ""))
        hint = next((hint for pattern, hint in HINTS if re.search(pattern, message)), None)
        if hint:
            self._display.display(f"  {result.host.get_name()}: {hint}")

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
