"""The HAProxy of a gateway: its files, its start, its reload and its health."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import sys
import time
import urllib.error
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from modelserve.config.routes import Served
from modelserve.errors import Problem, UserError
from modelserve.gateway.targets import Target, Targets
from modelserve.util.endpoints import endpoint
from modelserve.util.files import write_atomically
from modelserve.util.http import local_opener

HEALTH_PATH = "/healthz"
# Header of /healthz: the version of the configuration that answers.
VERSION_HEADER = "X-Modelserve-Configuration"
# And the version of the replicas that it has of the algorithm in the query: /healthz?algorithm=<name>.
TARGETS_HEADER = "X-Modelserve-Targets"
SERVED = "served.json"
LOADED = "configuration.json"
RELEASE_FILE = "release.map"
VERSIONS_FILE = "targets.map"
NO_RELEASE = "-"
# Stands in a configuration's text for the servers of a backend: its name, and their options.
_SERVERS = re.compile(r"^ *@SERVERS (\S+) (.*)@$", re.MULTILINE)
# HAProxy's "*" is IPv4's. A listener of its own for IPv6 leaves IPv4 addresses in logs and headers as they are.
_EVERY_ADDRESS = re.compile(r"^( *)bind \*:(\d+)(.*)$", re.MULTILINE)
BACKEND_PREFIX = "algorithm:"
WAIT_S = 0.25
COMMAND_TIMEOUT_S = 30.0
# The controller's user writes and HAProxy reads, as root for its port but without root's rights, in the same group.
PRIVATE = 0o640
# Files that a configuration names. Names carry the content's hash, so that the old configuration keeps its own files.
NAMED = ("tls-*.pem", "clients-*.map", "routes-*.map", "choices-*.map")


class Written(Served):
    """The content of ``served.json``.

    Attributes:
        url: URL of the gateway, as seen from its own host.
        keys: whether clients need a key.
    """

    url: str = ""
    keys: bool = False


class Configuration(BaseModel):
    """A configuration of a gateway.

    Attributes:
        text: HAProxy's configuration file, with a line in the place of each backend's servers.
        version: hash of the text; a header of ``/healthz``.
        files: content by name of the files that ``text`` names, in the same directory.
        written: content of ``served.json``.
        release: number of the release that is served, for the log.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    version: str
    files: Mapping[str, str] = {}
    written: Written
    release: str = NO_RELEASE

    def backends(self) -> dict[str, str]:
        """Return the options of a server by algorithm."""
        return {name.removeprefix(BACKEND_PREFIX): options for name, options in _SERVERS.findall(self.text)}

    def with_servers(self, targets: Targets) -> str:
        """Return the text of HAProxy's configuration with the replicas as servers, for the host of this process.

        What listens on all addresses listens on the IPv6 ones, too, where the host has IPv6.
        """

        def servers(match: re.Match[str]) -> str:
            kept = configured(targets.of(match[1].removeprefix(BACKEND_PREFIX)))
            return "\n".join(f"    server {target.replica} {target.endpoint} {match[2]}" for target in kept)

        text = _SERVERS.sub(servers, self.text)
        return _EVERY_ADDRESS.sub(r"\g<0>\n\1bind [::]:\2 v6only\3", text) if has_ipv6() else text


def has_ipv6() -> bool:
    """Return whether this host can listen on IPv6 addresses: its kernel may be started without."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def configured(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    """Return the replicas that HAProxy starts with: those that do not stop; all, where all stop."""
    return tuple(target for target in targets if not target.stopping) or targets


class Proxy:
    """The HAProxy of this host.

    Its files lie in ``<home>/gateway``: ``haproxy.cfg``, ``served.json`` and the control socket ``master.sock``.

    Args:
        home: modelserve_home.
    """

    def __init__(self, home: Path) -> None:
        self.directory = gateway_directory(home)
        self._config = self.directory / "haproxy.cfg"
        self._loaded = self.directory / LOADED
        self._served = self.directory / SERVED
        self._release = self.directory / RELEASE_FILE
        self._socket = self.directory / "master.sock"

    def written(self) -> Written | None:
        """Return what the present configuration was made from; None where there is none."""
        return read_served(self._served)

    def load(self, configuration: Configuration) -> bool:
        """Write a configuration, and reload HAProxy where it runs; no connection is lost.

        Args:
            configuration: the configuration.

        Returns:
            Whether anything but the release changed.

        Raises:
            UserError: HAProxy refuses it. The old configuration is restored; HAProxy never stopped using it.
        """
        now = self.written()
        if now is not None and now.port != configuration.written.port:
            _refuse_taken(configuration.text, configuration.written.port)
        self.set_release(configuration.release)
        with self.lock():
            old = self.loaded()
            changed = old is None or configuration.text != old.text or not self._config.exists()
            if changed:
                self._replace(configuration)
        if configuration.written != now:
            write_atomically(self._served, configuration.written.model_dump_json(indent=1) + "\n")
        return changed

    def _replace(self, configuration: Configuration) -> None:
        old = self._config.read_text() if self._config.exists() else None
        for name, content in configuration.files.items():
            write_atomically(self.directory / name, content, PRIVATE)
        if not (self.directory / VERSIONS_FILE).exists():
            write_atomically(self.directory / VERSIONS_FILE, "")
        write_atomically(self._config, configuration.with_servers(Targets.load(self.directory)), PRIVATE)
        try:
            self._reload()
        except UserError:
            if old is None:
                self._config.unlink()
            else:
                write_atomically(self._config, old, PRIVATE)
            raise
        write_atomically(self._loaded, configuration.model_dump_json(exclude={"files"}), PRIVATE)
        self._remove_files_except(configuration.files)

    def loaded(self) -> Configuration | None:
        """Return the configuration that was loaded last, without its files; None where there is none."""
        try:
            return Configuration.model_validate_json(self._loaded.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write_servers(self, targets: Targets) -> None:
        """Write the replicas into the file with which HAProxy starts and reloads; a running one is not told."""
        loaded = self.loaded()
        if loaded is not None:
            text = loaded.with_servers(targets)
            if not self._config.exists() or self._config.read_text() != text:
                write_atomically(self._config, text, PRIVATE)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep the controller, which loads configurations, apart from the sync agent, which changes servers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "servers.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _remove_files_except(self, names: Container[str]) -> None:
        for file in (file for pattern in NAMED for file in self.directory.glob(pattern)):
            if file.name not in names:
                file.unlink()

    def release(self) -> str:
        """Return the release that the log's lines name."""
        return self._release.read_text().split()[1] if self._release.exists() else NO_RELEASE

    def set_release(self, release: str) -> bool:
        """Write a release into the log's lines from now on.

        Returns:
            Whether they named another one before.
        """
        if self._release.exists() and self.release() == release:
            return False
        # HAProxy looks the release up for every line: a running one needs no reload.
        write_atomically(self._release, f"release {release}\n")
        self.command(f"set map {self._release} release {release}")
        return True

    def command(self, command: str) -> str:
        """Return the running HAProxy's answer to a command of its management guide; empty where it does not run."""
        return self._send(f"@1 {command}").strip()

    def run(self) -> None:
        """Replace this process with HAProxy, after waiting for a first configuration."""
        if not self._is_configured():
            print("waiting for a configuration: the first apply writes it", flush=True)
        while not self._is_configured():
            time.sleep(WAIT_S)
        self._socket.unlink(missing_ok=True)
        sys.stdout.flush()
        os.execvp("haproxy", ["haproxy", "-W", "-db", "-S", f"{self._socket},mode,660", "-f", str(self._config)])

    def health(self) -> None:
        """Return when the gateway answers.

        Raises:
            UserError: it does not answer, or has no configuration.
        """
        written = self.written()
        if written is None or not self._is_configured():
            raise UserError("the gateway has no configuration yet", "Apply conf.ini")
        url = written.url + HEALTH_PATH
        try:
            local_opener().open(url, timeout=5).close()
        except urllib.error.HTTPError as error:
            raise UserError(f"what answers at {url} is not the gateway: {error.code}", "Stop it") from None
        except OSError as error:
            raise UserError(f"the gateway does not answer at {url}: {getattr(error, 'reason', error)}") from None

    def _is_configured(self) -> bool:
        return self._config.exists() and self._served.exists()

    def _reload(self) -> None:
        # HAProxy 2.7 and later answer when the new process has started or was refused.
        answer = self._send("reload")
        if "Success=0" in answer:
            reason = [line for line in answer.splitlines() if "[ALERT]" in line]
            raise UserError(
                f"the gateway refuses its new configuration: {' '.join(reason)[:500]}",
                "Choose a port that is free on this host; the old one goes on answering",
            )

    def _send(self, command: str) -> str:
        """Send a command of HAProxy's management guide.

        Returns:
            HAProxy's answer; empty where it does not run. It reads its files when it starts.

        Raises:
            UserError: it does not answer in time.
        """
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(COMMAND_TIMEOUT_S)
                connection.connect(str(self._socket))
                connection.sendall(f"{command}\n".encode())
                connection.shutdown(socket.SHUT_WR)  # a worker would keep the connection open for more commands
                return b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")
        except TimeoutError:
            message = f"the gateway's HAProxy does not answer '{command}' in {COMMAND_TIMEOUT_S:g} s"
            raise UserError(message, "Restart the container modelserve_gateway") from None
        except (FileNotFoundError, ConnectionError):  # it starts, or its master process executes itself again
            return ""


def gateway_directory(home: Path) -> Path:
    """Return the directory of the gateway's files."""
    return home / "gateway"


def url_of(address: str, port: int, tls: bool) -> str:
    """Return the URL of a gateway that listens on ``address``, as its own host reaches it."""
    host = reachable(address)
    return f"http{'s' if tls else ''}://{endpoint(host, port)}"


def reachable(address: str) -> str:
    """Return an address that reaches a listener on ``address`` from its own host."""
    return {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(address, address)


def read_served(file: Path) -> Written | None:
    """Return the content of a ``served.json``; None where there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return Written.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        fix = "Remove it and apply conf.ini"
        raise UserError(Problem(f"is damaged: {error.errors()[0]['msg']}", fix, str(file))) from None


def _refuse_taken(text: str, port: int) -> None:
    # HAProxy pauses the old listener while it tries to bind: connections would be lost.
    binds = [line.split()[1].rpartition(":")[0] for line in text.splitlines() if line.split()[:1] == ["bind"]]
    binds = [address.strip("[]") for address in binds]
    for address in binds:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            if probe.connect_ex((reachable(address), port)) == 0:
                raise UserError(
                    f"port {port} is taken: another program on the gateway's host listens on it",
                    "Stop that program, or choose a port that is free; the old one goes on answering",
                )
