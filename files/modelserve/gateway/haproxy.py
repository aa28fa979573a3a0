"""How does a running HAProxy take a configuration? Its files, its start, its reload, and whether it answers."""

from __future__ import annotations

import os
import socket
import sys
import time
import urllib.error
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from modelserve.config.routes import Served
from modelserve.errors import Problem, UserError
from modelserve.util.files import write_atomically
from modelserve.util.http import local_opener

HEALTH_PATH = "/healthz"
# Says with /healthz which configuration answers.
VERSION_HEADER = "X-Modelserve-Configuration"
SERVED = "served.json"
RELEASE_FILE = "release.map"
NO_RELEASE = "-"
WAIT_S = 0.25
# The controller's user writes, HAProxy reads: root for its port, without root's rights, but of the same group.
PRIVATE = 0o640
# Files that a configuration names. Their names carry their content's hash: the configuration before keeps its own.
NAMED = ("tls-*.pem", "clients-*.map")


class Written(Served):
    """What ``served.json`` holds: what is answered, where (seen from the gateway's own host), and if it takes a key."""

    url: str = ""
    keys: bool = False


class Configuration(BaseModel):
    """All that a gateway needs.

    Attributes:
        text: HAProxy's configuration.
        version: what tells it from others; a header of ``/healthz``.
        files: names and contents of the files that ``text`` names, beside it.
        written: what it was made from.
        release: the number of the release that is served, for the log.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    version: str
    files: Mapping[str, str] = {}
    written: Written
    release: str = NO_RELEASE


class Proxy:
    """The HAProxy whose files lie in ``<home>/gateway``: ``haproxy.cfg``, what it was made from in ``served.json``, and
    the control socket ``master.sock``."""

    def __init__(self, home: Path) -> None:
        self.directory = home / "gateway"
        self._config = self.directory / "haproxy.cfg"
        self._served = self.directory / SERVED
        self._release = self.directory / RELEASE_FILE
        self._socket = self.directory / "master.sock"

    def written(self) -> Written | None:
        """What the present configuration was made from; None where there is none."""
        return read_served(self._served)

    def load(self, wanted: Configuration) -> bool:
        """Write a configuration and have a running HAProxy load it; no connection is lost.

        Returns:
            Whether anything but the release changed.

        Raises:
            UserError: HAProxy refuses it; the old one is put back, and never stopped working.
        """
        now = self.written()
        if now is not None and now.port != wanted.written.port:
            _refuse_taken(wanted.text, wanted.written.port)
        self.set_release(wanted.release)
        old = self._config.read_text() if self._config.exists() else None
        if wanted.text != old:
            for name, content in wanted.files.items():
                write_atomically(self.directory / name, content, PRIVATE)
            write_atomically(self._config, wanted.text, PRIVATE)
            try:
                self._reload()
            except UserError:
                if old is None:
                    self._config.unlink()
                else:
                    write_atomically(self._config, old, PRIVATE)
                raise
            for file in (file for pattern in NAMED for file in self.directory.glob(pattern)):
                if file.name not in wanted.files:
                    file.unlink()
        if wanted.written != now:
            write_atomically(self._served, wanted.written.model_dump_json(indent=1) + "\n")
        return wanted.text != old

    def release(self) -> str:
        """The release that the log's lines name."""
        return self._release.read_text().split()[1] if self._release.exists() else NO_RELEASE

    def set_release(self, release: str) -> bool:
        """Have the log's lines name a release, from now on; returns whether they named another."""
        if self._release.exists() and self.release() == release:
            return False
        # HAProxy looks it up for every line, so a running one is told, not reloaded.
        write_atomically(self._release, f"release {release}\n")
        self._tell(f"@1 set map {self._release} release {release}")
        return True

    def run(self) -> None:
        """Become HAProxy, with the last configuration; where there is none yet, wait for it."""
        if not self._is_configured():
            print("waiting for a configuration: the first apply writes it", flush=True)
        while not self._is_configured():
            time.sleep(WAIT_S)
        self._socket.unlink(missing_ok=True)
        sys.stdout.flush()
        os.execvp("haproxy", ["haproxy", "-W", "-db", "-S", f"{self._socket},mode,660", "-f", str(self._config)])

    def health(self) -> None:
        """Return when the gateway answers and reaches an ingress.

        Raises:
            UserError: it does not.
        """
        written = self.written()
        if written is None or not self._is_configured():
            raise UserError("the gateway has no configuration yet", "Apply conf.ini")
        url = written.url + HEALTH_PATH
        try:
            local_opener().open(url, timeout=5).close()
        except urllib.error.HTTPError as error:
            raise UserError(f"the gateway answers {error.code}: it reaches no Serve ingress") from None
        except OSError as error:
            raise UserError(f"the gateway does not answer at {url}: {getattr(error, 'reason', error)}") from None

    def _is_configured(self) -> bool:
        return self._config.exists() and self._served.exists()

    def _reload(self) -> None:
        # The master's "reload" answers when the new process has started or was refused (HAProxy 2.7+).
        answer = self._tell("reload")
        if "Success=0" in answer:
            reason = [line for line in answer.splitlines() if "[ALERT]" in line]
            raise UserError(
                f"the gateway refuses its new configuration: {' '.join(reason)[:500]}",
                "Choose a port that is free on this host; the old one goes on answering",
            )

    def _tell(self, command: str) -> str:
        """HAProxy's answer to a command of its management guide; empty where it does not run: it reads its files when
        it starts."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(30)
                connection.connect(str(self._socket))
                connection.sendall(f"{command}\n".encode())
                connection.shutdown(socket.SHUT_WR)  # a worker keeps the connection, for more commands
                return b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")
        except (FileNotFoundError, ConnectionRefusedError):
            return ""


def reachable(address: str) -> str:
    """An address that reaches a listener on ``address`` from its own host."""
    return {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(address, address)


def read_served(file: Path) -> Written | None:
    """What a gateway was told to answer, from its ``served.json``; None where it was told nothing yet.

    Raises:
        UserError: the file is not what the controller writes.
    """
    try:
        return Written.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        fix = "Remove it and apply conf.ini"
        raise UserError(Problem(f"is damaged: {error.errors()[0]['msg']}", fix, str(file))) from None


def _refuse_taken(text: str, port: int) -> None:
    # HAProxy would find out by pausing the old listener while it tries: connections would be lost.
    binds = [line.split()[1].rpartition(":")[0] for line in text.splitlines() if line.split()[:1] == ["bind"]]
    for address in binds:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            if probe.connect_ex((reachable(address), port)) == 0:
                raise UserError(
                    f"port {port} is taken: another program on the gateway's host listens on it",
                    "Stop that program, or choose a port that is free; the old one goes on answering",
                )
