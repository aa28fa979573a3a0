"""Run a long command on the host and show its lines while it runs.

Ansible shows a command's output when it has ended. Without this action a build of a minute looks like a hang.

    - show_command:
        argv: [docker, build, ...]
        show: '^step:'          # regular expression; the lines of standard error and output that are shown
        environment_vars: {}    # for the command alone; never shown
        timeout_s: 14400        # seconds after which the command is stopped

The command runs apart from the connection. A lost connection is opened again for two minutes; after that the command
goes on, and the failure says how to follow it.

Returns ``rc``, ``stdout``, ``stderr`` and ``msg``. Lines that start with "error:" become the message of a failure.
"""

from __future__ import annotations

import base64
import contextlib
import re
import shlex
import time
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

POLL_S = 0.4
TIMEOUT_S = 4 * 3600
RECONNECT_S = 120.0
RECONNECT_POLL_S = 3.0
BEGIN = "modelserve-begin"  # before what a command on the host prints
display = Display()


# Prints the exit code, "running", or "gone" for a command whose processes ended without one.
STATUS = """cat rc 2>/dev/null || if [ ! -e pid ] || kill -0 "$(cat pid)" 2>/dev/null; then echo running; else
cat rc 2>/dev/null || echo gone; fi"""


class _LostError(AnsibleActionFail):
    """Raised when the host no longer answers while the command runs there."""


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
                "timeout_s": {"type": "int", "default": TIMEOUT_S},
            }
        )
        if self._task.check_mode:
            return {"changed": False, "skipped": True, "msg": "not run in check mode"}
        local = self._connection.transport == "local"
        self._host = "" if local else f"{self._task.delegate_to or (task_vars or {})['inventory_hostname']}: "
        self._command = " ".join(options["argv"][:4])
        self._directory = self._make_tmp_path()
        try:
            self._start(options["argv"], options["environment_vars"])
            result = self._follow(options["show"], time.monotonic() + options["timeout_s"])
        except _LostError:
            raise  # the command still writes to the directory
        except BaseException:
            self._remove_tmp_path(self._directory)
            raise
        self._remove_tmp_path(self._directory)
        return result

    def _start(self, argv: list[str], environment: dict[str, Any]) -> None:
        assignments = "".join(f"{key}={shlex.quote(str(value))} " for key, value in environment.items())
        # The assignments reach the host through a file that only its owner reads, never through a command line.
        script = f"{self._directory}/script"
        self._transfer_data(
            script,
            f"cd {shlex.quote(self._directory)}\necho $$ >pid\n"
            f'(cd "$OLDPWD"; {assignments}{shlex.join(argv)}) >out 2>err; echo $? >rc.part; mv rc.part rc\n',
        )
        self._execute(f"setsid sh {shlex.quote(script)} </dev/null >/dev/null 2>&1 & echo started")

    def _follow(self, pattern: str, deadline: float) -> dict[str, Any]:
        """Show the new lines that match until the command has ended, and return the task's result."""
        seen = {"out": 0, "err": 0}
        text = {"out": "", "err": ""}
        code: int | None = None
        while code is None:
            time.sleep(POLL_S)
            status = self._ask(STATUS).strip()
            code = None if status in ("running", "gone") else int(status)
            for name in seen:
                # A file that does not exist yet is empty output. Base64, because bytes are counted and a connection may
                # add line ends of its own.
                new = base64.b64decode(self._ask(f"tail -c +{seen[name] + 1} {name} 2>/dev/null | base64"))
                complete = new if code is not None else new[: new.rfind(b"\n") + 1]
                seen[name] += len(complete)
                text[name] += complete.decode(errors="replace")
                self._show(complete.decode(errors="replace"), pattern)
            if status == "gone":
                raise AnsibleActionFail(
                    f"{self._host}'{self._command} ...' ended without a result: somebody ended it, or the host "
                    "restarted. Run this again"
                )
            if code is None and time.monotonic() > deadline:
                self._stop()
        return self._result(code, text["out"], text["err"])

    def _stop(self) -> None:
        self._ask('kill -- "-$(cat pid)" 2>/dev/null || true')  # its process group
        raise AnsibleActionFail(
            f"{self._host}'{self._command} ...' did not end in time and was stopped. Look at the host: its disk may "
            "be full, or its Docker hang"
        )

    @staticmethod
    def _result(code: int, out: str, err: str) -> dict[str, Any]:
        result: dict[str, Any] = {"rc": code, "stdout": out, "stderr": err, "changed": True}
        if code != 0:
            lines = (err + "\n" + out).splitlines()
            errors = [line for line in lines if line.startswith("error:")]
            last = (err.strip() or out.strip()).splitlines()[-15:]
            result |= {"failed": True, "msg": "\n".join(errors or last or [f"exit code {code}"])}
            if errors:
                result |= {"stderr": "", "stdout": ""}
        return result

    def _ask(self, command: str) -> str:
        """Run a command in the command's directory; connect again for a while where the connection is lost."""
        command = f"cd {shlex.quote(self._directory)} && {{ {command}\n}}"
        lost_at: float | None = None
        while True:
            try:
                return self._execute(command)
            except AnsibleConnectionFailure:
                now = time.monotonic()
                lost_at = now if lost_at is None else lost_at
                if now - lost_at >= RECONNECT_S:
                    raise _LostError(
                        f"{self._host}the connection was lost. '{self._command} ...' goes on there, and writes to "
                        f"{self._directory}/out and err. Run this again when the host answers and {self._directory}/rc "
                        "exists"
                    ) from None
                time.sleep(RECONNECT_POLL_S)
                with contextlib.suppress(AnsibleConnectionFailure):
                    self._connection.reset()

    def _show(self, text: str, pattern: str) -> None:
        for line in text.splitlines():
            if re.search(pattern, line):
                display.display(f"  {self._host}{line}")

    def _execute(self, command: str) -> str:
        # The connection may have a terminal: what sudo and start files print comes before the output.
        result = self._low_level_execute_command(f"echo {BEGIN}; {command}", sudoable=True)
        output = str(result["stdout"]).partition(BEGIN)[2].lstrip("\r\n")
        if result["rc"] != 0:
            raise AnsibleActionFail(f"cannot run on the host: {result['stderr'] or output or result['stdout']}")
        return output
