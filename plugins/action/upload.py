"""Copy a directory of the operator's machine to a host with rsync, the way Ansible reaches that host.

    - upload:
        src: /home/me/project         # directory on the operator's machine
        dest: /opt/modelserve         # directory on the host
        owner: "6370"                 # of all that is copied; default: whoever writes there
        group: "0"
        follow: false                 # true: what a link points to is sent in its place
        resume: false                 # true: an interrupted file goes on; all files get their names at the end
        keep_modes: false             # false: the host's umask decides; programs stay programs
        only: [/algopkg/***]          # rsync's patterns; what matches none is neither sent nor removed
        exclude: [__pycache__]        # rsync's patterns; neither sent nor removed
        delete: true                  # remove on the host what the source lacks
        timeout_s: 300                # without a byte, after which the transfer is given up

rsync uses Ansible's connection (ssh or local) with all its settings, and Ansible's become plugin with its password.

Returns ``changed``, ``sent`` and ``deleted`` (numbers of paths). With ``--diff`` the paths are shown, never contents.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.module_utils.common.text.converters import to_text
from ansible.plugins.action import ActionBase

PLUGINS = Path(__file__).parents[1]
START_S = 30.0
NOT_FOUND = 127  # a shell's exit status for a command that it does not find
STALLED = 30  # rsync's exit status for --timeout
BROKEN_OFF = 255  # ssh's exit status for a lost connection
# rsync's summary of a path, see "itemize-changes" in rsync(1).
ITEM = re.compile(r"[<>ch.][fdLDS](?P<attributes>\S{9}) (?P<path>.*)|\*deleting +(?P<deleted>.*)")
# What rsync prints, and what to do about it.
ADVICE = {
    "No space left on device": "no space is left at {dest}. Free some there, then run this again",
    "Disk quota exceeded": "the quota at {dest} is used up. Free some space there, then run this again",
    "Read-only file system": "{dest} is on a read-only file system. Look at the host's disk (dmesg)",
    "rsync: [sender]": "this machine cannot read what is to be sent: {line}",
    "Permission denied": "{line}. The play needs become: true, or a user who may write to {dest}",
    "Operation not permitted": "{line}. The play needs become: true, or a user who may write to {dest}",
    "unknown option": "its rsync is not GNU's 3.1 or later: {line}. Install that there",
    "protocol version mismatch": "its rsync is not GNU's 3.1 or later: {line}. Install that there",
}
SPEC: dict[str, dict[str, Any]] = {
    "src": {"type": "path", "required": True},
    "dest": {"type": "str", "required": True},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "follow": {"type": "bool", "default": False},
    "resume": {"type": "bool", "default": False},
    "keep_modes": {"type": "bool", "default": False},
    "only": {"type": "list", "elements": "str", "default": []},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "delete": {"type": "bool", "default": False},
    "timeout_s": {"type": "int", "default": 300},
}


class ActionModule(ActionBase):
    """The action ``upload``."""

    _supports_check_mode = True
    _requires_connection = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run rsync and return what it changed, or would change in check mode."""
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(argument_spec=SPEC)
        self._host = self._task.delegate_to or (task_vars or {})["inventory_hostname"]
        self._check(options)
        # Ansible reports a host that it does not reach in its own words. After that there is a connection to share.
        self._low_level_execute_command(":", sudoable=False)
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            status, lines = self._transfer(self._rsync(options), output, errors)
            if status == NOT_FOUND and self._task.check_mode:
                return {"changed": True, "msg": "rsync is not installed there yet"}
            if status != 0:
                raise self._failure(status, [*_lines(errors), *lines], options)
            return self._result(_lines(output))

    def _check(self, options: dict[str, Any]) -> None:
        """Refuse what cannot work before anything is started."""
        transport = self._connection.transport.split(".")[-1]
        if transport not in ("ssh", "local"):
            raise AnsibleActionFail(
                f"{self._host}: files are sent over ssh, or to the operator's own machine, not over "
                f"'{transport}'. Set ansible_connection of {self._host} to ssh or local"
            )
        version = _load("lookup", "rsync_version").LookupModule().run([])[0]
        if version in ("", "other") or tuple(map(int, version.split("."))) < (3, 1):
            raise AnsibleActionFail(
                f"rsync where Ansible runs: found {version or 'none'}. GNU's rsync 3.1 or later is needed, first in "
                "PATH: 'brew install rsync' on macOS, 'apt install rsync' on Debian"
            )
        if not Path(options["src"]).is_dir():
            raise AnsibleActionFail(f"src: {options['src']} is not a directory of the machine that Ansible runs on")
        if not options["dest"].startswith("/"):
            raise AnsibleActionFail(f"dest: {options['dest']} is not an absolute path")

    def _rsync(self, options: dict[str, Any]) -> list[str]:
        """Return rsync's command line, without its remote shell."""
        # Times tell the next run what is unchanged. A directory's own time changes with each file replaced in it.
        command = ["rsync", "--recursive", "--times", "--omit-dir-times"]
        command.append("--copy-links" if options["follow"] else "--links")
        # Paths reach the host by rsync's protocol: its shell does not see them.
        command += ["--protect-args", "--out-format=%i %n%L", f"--timeout={options['timeout_s']}"]
        # The directory's name is one that hashing leaves out of models.
        command += ["--partial-dir=.rsync-partial", "--delay-updates"] if options["resume"] else []
        command += ["--perms" if options["keep_modes"] else "--executability"]
        # A transfer over ssh is as fast as the network; on one machine, reading both sides costs more than copying.
        command += ["--whole-file"] if self._connection.transport == "local" else []
        if options["owner"] or options["group"]:
            command.append(f"--chown={options['owner'] or ''}{':' + options['group'] if options['group'] else ''}")
        # Perishable: what is excluded does not keep a directory that is removed.
        command += [f"--filter=-p {pattern}" for pattern in options["exclude"]]
        if options["only"]:
            command += [*(f"--include={pattern}" for pattern in options["only"]), "--exclude=*"]
        command += ["--delete-after"] if options["delete"] else []
        command += ["--dry-run"] if self._task.check_mode else []
        return [*command, f"{options['src'].rstrip('/')}/", f"host:{options['dest'].rstrip('/')}/"]

    def _transfer(self, command: list[str], output: IO[bytes], errors: IO[bytes]) -> tuple[int, list[str]]:
        """Run rsync with its other end on the host; returns its exit status and the lines of the host's standard error.

        Raises:
            AnsibleActionFail: the other end cannot be started.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RSYNC_")}
        session, rsync, status = self._session(), None, 0
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                relay = [sys.executable, "-I", "-S", str(PLUGINS / "plugin_utils" / "upload_relay.py"), theirs.fileno()]
                rsync = subprocess.Popen(
                    [command[0], f"--rsh={' '.join(map(_quoted, relay))}", *command[1:]],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    env=environment | {"LC_ALL": "C"},
                )
            request, streams, _, _ = socket.recv_fds(ours, 1 << 16, 2)
            if len(streams) == 2:  # else rsync ended before it started the relay
                status = session.run(f"exec {' '.join(json.loads(request))}", *streams)
                with contextlib.suppress(OSError):  # where rsync gave up, it ended the relay
                    ours.send(bytes([status]))
            ended = rsync.wait()
            # What rsync makes of a lost other end depends on when it notices.
            lost = status in (NOT_FOUND, BROKEN_OFF) and ended != STALLED
            return (status if lost else ended), session.errors
        except sessions.SessionError as error:
            kind = AnsibleConnectionFailure if error.unreachable else AnsibleActionFail
            raise kind(f"{self._host}: {error}") from None
        finally:
            ours.close()
            if rsync and rsync.poll() is None:
                rsync.kill()
                rsync.wait()
            session.close()

    def _session(self) -> Any:
        """Return the session that runs rsync's other end, with the rights that the task asks for."""
        become, user = self._connection.become, self.get_become_option("become_user")
        remote_user = self._get_remote_user()
        same = user == remote_user and bool(user or remote_user)
        if same and not constants.BECOME_ALLOW_SAME_USER:  # as Ansible decides for its own commands
            become = None
        password = become.get_option("become_pass", playcontext=self._play_context) if become else None
        password = None if password is None else to_text(password)
        shell = self._play_context.executable or "/bin/sh"
        return sessions.Session(self._connection, become, password, shell, START_S)

    def _failure(self, status: int, lines: list[str], options: dict[str, Any]) -> Any:
        """Return an error of one line: the cause and the fix."""
        last = lines[-1] if lines else f"exit status {status}"
        if status == NOT_FOUND:
            return AnsibleActionFail(f"{self._host}: rsync is missing there. Install it: 'apt install rsync' on Debian")
        for word, advice in ADVICE.items():
            line = next((line for line in lines if word in line), None)
            if line:
                return AnsibleActionFail(f"{self._host}: {advice.format(dest=options['dest'], line=line)}")
        if status == STALLED:
            return AnsibleActionFail(f"{self._host}: no byte came through for {options['timeout_s']} s. Run this again")
        if status == BROKEN_OFF:
            return AnsibleConnectionFailure(f"{self._host}: the connection broke off during the transfer: {last}")
        cause = next((line for line in lines if not line.startswith("rsync error:")), last)
        return AnsibleActionFail(f"{self._host}: rsync to {options['dest']} failed: {cause}")

    def _result(self, lines: list[str]) -> dict[str, Any]:
        """Return the task's result from rsync's line per path."""
        matches = [match for line in lines if (match := ITEM.fullmatch(line))]
        deleted = [match["deleted"] for match in matches if match["deleted"] is not None]
        sent = len(matches) - len(deleted)
        result: dict[str, Any] = {"changed": bool(matches), "sent": sent, "deleted": len(deleted)}
        if self._task.diff and matches:
            shown = [
                f"- {match['deleted']}"
                if match["deleted"] is not None
                else f"{'+' if match['attributes'].startswith('+') else '~'} {match['path']}"
                for match in matches
            ]
            result["diff"] = {"prepared": "\n".join(shown) + "\n"}
        return result


def _load(folder: str, name: str) -> ModuleType:
    """Return a module of this project's plugins, which is in no package where Ansible runs from the checkout."""
    file = PLUGINS / folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"modelserve_{name}", file)
    if spec is None or spec.loader is None:
        raise AnsibleActionFail(f"cannot load {file}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sessions = _load("plugin_utils", "upload_session")


def _quoted(word: object) -> str:
    """Return a word as rsync's option --rsh wants it: quotes are doubled, not escaped."""
    return '"' + str(word).replace('"', '""') + '"'


def _lines(stream: IO[bytes]) -> list[str]:
    stream.seek(0)
    return [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
