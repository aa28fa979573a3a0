"""Run a command on a host over Ansible's connection and privilege escalation, while the caller holds its streams.

Ansible's connections run a command to its end and return its output. A transfer needs both streams while the command
runs. A session starts the command the way the connection does, answers the prompt of the become plugin, and then copies
between the command and two file descriptors. A password goes into the command's standard input and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import selectors
import shlex
import subprocess
import threading
from collections.abc import Callable
from typing import IO, Any

from ansible.module_utils.common.text.converters import to_bytes

CHUNK = 1 << 18
KEPT_ERRORS = 1 << 16
GRACE_S = 1.0  # for the last lines of standard error, which a shared ssh connection may keep open
END_S = 5.0  # for the command, after the end of its input
DEBUG_LINE = re.compile(rb"debug\d+: ")  # of ssh -v


class SessionError(Exception):
    """Raised when the command cannot be started on the host. Its text is the cause and the fix, without the host.

    Attributes:
        unreachable: whether ssh gave up, not the host.
    """

    def __init__(self, text: str, unreachable: bool = False) -> None:
        super().__init__(text)
        self.unreachable = unreachable


class Session:
    """One command on a host.

    Args:
        connection: Ansible's connection plugin for the host: ssh or local.
        become: Ansible's become plugin for the task, or None where the task needs none.
        password: what the become plugin's prompt is answered with.
        shell: the shell that runs the command.
        timeout_s: seconds that the start may take without any output.
    """

    def __init__(self, connection: Any, become: Any, password: str | None, shell: str, timeout_s: float) -> None:
        self._connection, self._become, self._password = connection, become, password
        self._shell, self._timeout_s = shell, timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []
        self._errors = b""
        self._ended = threading.Event()

    @property
    def errors(self) -> list[str]:
        """The last lines that the command, ssh and the become program printed to standard error."""
        return [line.decode(errors="replace") for line in _lines(self._errors)]

    def run(self, command: str, source: int, target: int) -> int:
        """Run a command with its input from one file descriptor and its output to another; the session closes both.

        Args:
            command: a command line for the host's shell.
            source: the file descriptor that the command's input is read from.
            target: the file descriptor that its output is written to.

        Returns:
            The command's exit status; 255 where the connection broke off.

        Raises:
            SessionError: the become program refused, or nothing started in time.
        """
        incoming, outgoing = os.fdopen(source, "rb", buffering=0), os.fdopen(target, "wb", buffering=0)
        os.set_blocking(source, True)
        os.set_blocking(target, True)
        with outgoing:
            try:
                marker = f"UPLOAD-{secrets.token_hex(16)}"
                process = self._process = self._start(f"echo {marker}; {command}")
                start = _Start(process, self._become, self._password)
                try:
                    begun = start.wait(marker.encode() + b"\n", self._timeout_s)
                finally:
                    self._errors = start.errors
            except BaseException:
                incoming.close()
                raise
            self._spawn(lambda: self._keep_errors(process.stderr))
            # rsync keeps its end open until it knows the exit status: this thread ends after that.
            self._spawn(lambda: _feed(incoming, process))
            if _write(outgoing, begun):
                _copy(process.stdout, outgoing)
        status = process.wait()
        self._ended.set()
        self._threads[0].join(timeout=2 * GRACE_S)
        return status if status >= 0 else 255

    def close(self) -> None:
        """End the command if it still runs, and release what the connection holds for it."""
        self._ended.set()
        if self._process:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            for thread in self._threads:
                thread.join(timeout=2 * GRACE_S)
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                with contextlib.suppress(OSError):
                    if stream:
                        stream.close()
        memory = getattr(self._connection, "shm", None)  # the SSH password, for ssh's askpass
        if memory is not None:
            with contextlib.suppress(OSError):
                memory.close()
                memory.unlink()

    def _start(self, command: str) -> subprocess.Popen[bytes]:
        """Start a command with the rights that the task asks for."""
        if self._become:
            command = self._become.build_become_command(command, self._connection._shell)
        if self._connection.transport == "local":
            return _open([self._shell, "-c", command])
        return _open_ssh(self._connection, f"{self._shell} -c {shlex.quote(command)}")

    def _spawn(self, function: Callable[[], None]) -> None:
        thread = threading.Thread(target=function, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _keep_errors(self, stream: IO[bytes] | None) -> None:
        """Read standard error until it ends, or a moment after the command has."""
        if stream is None:
            return
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while True:
                if not selector.select(GRACE_S / 5):
                    if self._ended.is_set():
                        return
                    continue
                chunk = stream.read(CHUNK)
                if not chunk:
                    return
                self._errors = (self._errors + chunk)[-KEPT_ERRORS:]


class _Start:
    """The start of a command: what it prints, and what the become program is answered, until a marker appears."""

    def __init__(self, process: subprocess.Popen[bytes], become: Any, password: str | None) -> None:
        self._process, self._become, self._password = process, become, password
        self._output = {process.stdout: b"", process.stderr: b""}
        self._read = {process.stdout: 0, process.stderr: 0}  # up to where a prompt was answered
        self._answered = False

    @property
    def errors(self) -> bytes:
        """What was printed to standard error."""
        return self._output[self._process.stderr][-KEPT_ERRORS:]

    def wait(self, marker: bytes, timeout_s: float) -> bytes:
        """Return what the command printed after the marker.

        Raises:
            SessionError: the command ended, was refused, or printed nothing for ``timeout_s`` seconds.
        """
        with selectors.DefaultSelector() as selector:
            for stream in self._output:
                if stream:
                    selector.register(stream, selectors.EVENT_READ)
            while marker not in self._output[self._process.stdout]:
                # ssh may leave standard error open to the connection that it shares.
                ended = self._process.stdout not in {key.fileobj for key in selector.get_map().values()}
                ready = selector.select(GRACE_S if ended else timeout_s)
                if not ready:
                    raise (
                        self._ended() if ended else SessionError(f"no answer for {timeout_s:.0f} s{self._last_line()}")
                    )
                for key, _ in ready:
                    self._take(selector, key.fileobj)
                if self._become and marker not in self._output[self._process.stdout]:
                    self._answer()
                if not selector.get_map():
                    raise self._ended()
        return self._output[self._process.stdout].partition(marker)[2]

    def _take(self, selector: selectors.BaseSelector, stream: Any) -> None:
        chunk = stream.read(CHUNK)
        self._output[stream] += chunk
        if not chunk:
            selector.unregister(stream)

    def _answer(self) -> None:
        """Answer a prompt of the become program once."""
        name = self._become.name
        wrong = SessionError(
            f"wrong password for {name}. 'ansible-playbook -K' asks for it, ansible_become_password of the host sets it"
        )
        missing = SessionError(
            f"{name} wants a password. Run 'ansible-playbook -K', or set ansible_become_password of the host in a vault"
        )
        for stream, output in self._output.items():
            lines = _lines(output[self._read[stream] :])
            if any(self._become.check_incorrect_password(line) for line in lines):
                raise wrong
            if any(self._become.check_missing_password(line) for line in lines):
                raise missing
            if not any(self._become.check_password_prompt(line) for line in lines):
                continue
            if self._password is None:
                raise missing
            if self._answered:
                raise wrong
            self._answered = True
            self._read[stream] = len(output)
            if self._process.stdin:
                _write(self._process.stdin, to_bytes(self._password) + b"\n")

    def _ended(self) -> SessionError:
        """Return why a command ended before it ran."""
        status = self._process.wait()
        text = self._last_line() or f": exit status {status}"
        if "must have a tty" in text:
            return SessionError(
                "sudo wants a terminal, which a transfer does not have. Remove requiretty from its sudoers"
            )
        program = self._become.name if self._become else "the shell"
        return SessionError(f"{program} did not start rsync{text}", unreachable=status == 255)

    def _last_line(self) -> str:
        lines = _lines(self.errors) or _lines(self._output[self._process.stdout])
        return f": {lines[-1].decode(errors='replace')}" if lines else ""


def _lines(output: bytes) -> list[bytes]:
    """Return the lines with text, without ssh's debug lines."""
    lines = (line.strip() for line in output.splitlines())
    return [line for line in lines if line and not DEBUG_LINE.match(line)]


def _open(command: list[Any], **options: Any) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, **options)


def _open_ssh(connection: Any, command: str) -> subprocess.Popen[bytes]:
    """Start the ssh command that the connection plugin builds, with its password where it has one.

    The plugin has no public way to start a command without waiting for it: this does what its ``_bare_run`` does.
    """
    # -T, last, takes back what the site's arguments may ask for: a terminal would change the bytes.
    argv = connection._build_command(connection.get_option("ssh_executable"), "ssh", "-T", connection.host, command)
    options = connection._init_shm()  # for ssh's askpass
    pipe = connection.sshpass_pipe if argv[0] == b"sshpass" else None
    if not pipe:
        return _open(argv, **options)
    try:
        process = _open(argv, pass_fds=[pipe[0]], **options)
        password = connection.get_option("password") or connection._play_context.password
        os.write(pipe[1], to_bytes(password) + b"\n")
    finally:
        for number in pipe:
            os.close(number)
    return process


def _write(target: IO[bytes], data: bytes) -> bool:
    """Write all bytes; returns False where nobody reads them any more."""
    view = memoryview(data)
    try:
        while view:
            view = view[target.write(view) :]
    except OSError:
        return False
    return True


def _copy(source: IO[bytes] | None, target: IO[bytes]) -> None:
    """Copy until the source ends or nobody reads the target. How the transfer ended is the exit status's matter."""
    with contextlib.suppress(OSError):
        while source and (chunk := source.read(CHUNK)):
            if not _write(target, chunk):
                return


def _feed(source: IO[bytes], process: subprocess.Popen[bytes]) -> None:
    """Copy until the source ends. The command ends with its input, but for a network that is cut: then it is killed."""
    with source:
        if process.stdin:
            with contextlib.suppress(OSError), process.stdin:
                _copy(source, process.stdin)
    try:
        process.wait(timeout=END_S)
    except subprocess.TimeoutExpired:
        process.kill()
