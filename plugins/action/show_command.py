"""Run a long command on the host and show its lines while it runs.

Ansible shows a command's output when it has ended. Without this action a build of a minute looks like a hang.

    - show_command:
        argv: [docker, build, ...]
        show: '^step:'          # regular expression; the lines of standard error and output that are shown
        environment_vars: {}    # for the command alone; never shown

Returns ``rc``, ``stdout``, ``stderr`` and ``msg``. Lines that start with "error:" become the message of a failure.
"""

from __future__ import annotations

import base64
import re
import shlex
import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

POLL_S = 0.4
display = Display()


class ActionModule(ActionBase):
    """The action ``show_command``."""

    _supports_check_mode = True
    _requires_connection = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Start the command apart from the connection, then follow its output files until it has ended."""
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            argument_spec={
                "argv": {"type": "list", "elements": "str", "required": True},
                "show": {"type": "str", "default": "."},
                "environment_vars": {"type": "dict", "default": {}, "no_log": True},
            }
        )
        if self._task.check_mode:
            return {"changed": False, "skipped": True, "msg": "not run in check mode"}
        local = self._connection.transport == "local"
        self._host = "" if local else f"{self._task.delegate_to or (task_vars or {})['inventory_hostname']}: "
        directory = self._make_tmp_path()
        try:
            return self._follow(directory, options)
        finally:
            self._remove_tmp_path(directory)

    def _follow(self, directory: str, options: dict[str, Any]) -> dict[str, Any]:
        assignments = "".join(f"{key}={shlex.quote(str(value))} " for key, value in options["environment_vars"].items())
        command = shlex.join(options["argv"])
        out, err, rc = (shlex.quote(f"{directory}/{name}") for name in ("out", "err", "rc"))
        # The assignments reach the host through a file that only its owner reads, never through a command line.
        script = self._write_script(
            directory, f"{assignments}{command} >{out} 2>{err}; echo $? >{rc}.part; mv {rc}.part {rc}\n"
        )
        self._execute(f"setsid sh {shlex.quote(script)} </dev/null >/dev/null 2>&1 & echo started")
        seen = {"out": 0, "err": 0}
        text = {"out": "", "err": ""}
        code: int | None = None
        while code is None:
            time.sleep(POLL_S)
            status = self._execute(f"cat {rc} 2>/dev/null || echo running").strip()
            code = None if status == "running" else int(status)
            for name in seen:
                # A file that does not exist yet is empty output. Base64, because bytes are counted and a connection may
                # add line ends of its own.
                file = shlex.quote(f"{directory}/{name}")
                new = base64.b64decode(self._execute(f"tail -c +{seen[name] + 1} {file} 2>/dev/null | base64"))
                complete = new if code is not None else new[: new.rfind(b"\n") + 1]
                seen[name] += len(complete)
                text[name] += complete.decode(errors="replace")
                self._show(complete.decode(errors="replace"), options["show"])
        result: dict[str, Any] = {"rc": code, "stdout": text["out"], "stderr": text["err"], "changed": True}
        if code != 0:
            lines = (text["err"] + "\n" + text["out"]).splitlines()
            errors = [line for line in lines if line.startswith("error:")]
            last = (text["err"].strip() or text["out"].strip()).splitlines()[-15:]
            result |= {"failed": True, "msg": "\n".join(errors or last or [f"exit code {code}"])}
            if errors:
                result |= {"stderr": "", "stdout": ""}
        return result

    def _show(self, text: str, pattern: str) -> None:
        for line in text.splitlines():
            if re.search(pattern, line):
                display.display(f"  {self._host}{line}")

    def _write_script(self, directory: str, script: str) -> str:
        path = f"{directory}/script"
        self._transfer_data(path, script)
        return path

    def _execute(self, command: str) -> str:
        result = self._low_level_execute_command(command, sudoable=True)
        if result["rc"] != 0:
            raise AnsibleActionFail(f"cannot run on the host: {result['stderr'] or result['stdout']}")
        return str(result["stdout"])
