"""Make one archive of the hosts' parts of a diagnosis and show its path. Changes no host.

- diagnose_archive:
    dest: .                 # directory on the operator's machine
    hosts: [head, worker_1]
    parts: [{part: /tmp/x.tar.gz, headline: "...", problems: []}, {unreachable: true, msg: "..."}]
"""

from __future__ import annotations

import importlib.util
import io
import os
import platform
import re
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import IO, Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.release import __version__ as ansible_version
from ansible.utils.display import Display

display = Display()


class ActionModule(ActionBase):
    """The action ``diagnose_archive``."""

    _supports_check_mode = True
    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write the archive; show a line per host, and the archive's path as the run's last line."""
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            argument_spec={
                "dest": {"type": "str", "required": True},
                "hosts": {"type": "list", "elements": "str", "required": True},
                "parts": {"type": "list", "elements": "dict", "required": True},
            }
        )
        name = time.strftime("modelserve-diagnose-%Y%m%dT%H%M%SZ", time.gmtime())
        path = Path(options["dest"]).expanduser().absolute() / f"{name}.tar.gz"
        rows = [(host, *_outcome(part)) for host, part in zip(options["hosts"], options["parts"], strict=True)]
        text = _summary(name, rows)
        parts = {
            host: part["part"] for host, part in zip(options["hosts"], options["parts"], strict=True) if "part" in part
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(handle, "wb") as stream:
                    _write(stream, name, text, parts)
            except BaseException:
                path.unlink()
                raise
        except OSError as error:
            raise AnsibleActionFail(
                f"cannot write {path}: {error.strerror}; -e diagnose_dest=DIR names another"
            ) from None
        finally:
            for part in parts.values():
                Path(part).unlink()
        display.display(text.rstrip())
        size = path.stat().st_size
        line = f"{path} ({size / 2**20:.1f} MiB)" if size >= 2**20 else f"{path} ({-(-size // 1024)} KiB)"
        # "changed" is about hosts. The callback shows the line below the recap.
        stats = {"data": {"modelserve_last_line": line}, "per_host": False, "aggregate": False}
        return {"changed": False, "path": str(path), "size": size, "ansible_stats": stats}


def _outcome(part: Mapping[str, Any]) -> tuple[str, str]:
    """Return a host's state in a word, and its details."""
    if part.get("unreachable"):
        return "unreachable", _first_line(part.get("msg"))
    if "part" not in part:
        return "failed", _first_line(part.get("msg"))
    if part["problems"]:
        return "in part", f"{part['headline']}; {len(part['problems'])} not collected, see its summary.txt"
    return "collected", part["headline"]


def _first_line(message: object) -> str:
    """Return a message's first line without secrets: it comes from a host that could not remove them itself."""
    lines = str(message or "no reason given").strip().splitlines() or ["no reason given"]
    return str(_redact_module().Redactor().text(lines[0].removeprefix("Task failed: ")))[:300]


def _redact_module() -> ModuleType:
    file = Path(__file__).parents[1] / "module_utils" / "modelserve_redact.py"
    spec = importlib.util.spec_from_file_location("modelserve_redact", file)
    if spec is None or spec.loader is None:
        raise AnsibleActionFail(f"cannot load {file}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _summary(name: str, rows: Sequence[tuple[str, str, str]]) -> str:
    """Return a summary of the cluster: a line per host."""
    missing = [host for host, state, _ in rows if state in ("unreachable", "failed")]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{name}: {len(rows) - len(missing)} of {len(rows)} hosts answered"]
    lines += [f"  {host:<{widths[0]}}  {state:<{widths[1]}}  {details}" for host, state, details in rows]
    lines += [f"Nothing is in the archive of: {', '.join(missing)}"] if missing else []
    lines += ["Each host has a directory with a summary.txt of its own."]
    return "\n".join(lines) + f"\nCollected by ansible-core {ansible_version}, Python {platform.python_version()}.\n"


def _write(stream: IO[bytes], name: str, text: str, parts: Mapping[str, str]) -> None:
    """Write the archive: the summary, then each host's files below a directory of its name."""
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        entry = tarfile.TarInfo(f"{name}/summary.txt")
        entry.size, entry.mode, entry.mtime = len(text.encode()), 0o600, int(time.time())
        archive.addfile(entry, io.BytesIO(text.encode()))
        for number, (host, part) in enumerate(parts.items()):
            directory = re.sub(r"[^\w.-]", "_", host)
            directory = host if directory == host and host.strip(".") else f"{directory}_{number}"
            with tarfile.open(part) as files:
                for old in files:
                    path = PurePosixPath(old.name)
                    if not old.isreg() or path.is_absolute() or ".." in path.parts:  # hosts are not trusted with paths
                        continue
                    new = tarfile.TarInfo(f"{name}/{directory}/{path}")
                    new.size, new.mode, new.mtime = old.size, 0o600, old.mtime
                    archive.addfile(new, files.extractfile(old))
