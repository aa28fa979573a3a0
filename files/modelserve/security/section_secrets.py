"""The secrets of sections, on the head: their values and the digests by which a change is noticed.

A value comes from ``secrets/inventory.json``, which Ansible writes from ``modelserve_secrets``, or from a file in
``secrets/values`` that an operator or ``modelserve secrets set`` put there.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from pathlib import Path

from modelserve.config.parser import SECTION_PREFIX
from modelserve.config.section import Conf
from modelserve.config.values import SECRET_NAMES, is_secret_name
from modelserve.errors import Location, Problem, UserError
from modelserve.settings import Settings
from modelserve.util.files import write_atomically

INVENTORY, FILE = "modelserve_secrets", "file"
LARGEST = 65536  # bytes; Linux takes 128 KiB for one environment variable
DIGITS = 16  # of a digest: 64 bits
_HOW_TO_SET = (
    "Set modelserve_secrets.{name} in the inventory and deploy, or run 'modelserve secrets set {name}' on the head, "
    "which writes secrets/values/{name} below modelserve_home"
)


def uses(conf: Conf, file: str) -> list[tuple[str, Location]]:
    """Return the secrets that sections refer to: each name with its place.

    Args:
        conf: the configuration.
        file: conf.ini's name in messages.
    """
    return [
        (name, Location(file, SECTION_PREFIX + section.name, f"secret.{variable}"))
        for section in conf.sections
        for variable, name in section.secret.items()
    ]


def missing(name: str, location: Location | None = None) -> Problem:
    """Return the problem of a secret that the cluster does not have.

    Args:
        name: the secret's name.
        location: what refers to it.
    """
    return (location or Location()).problem(f"the cluster has no secret '{name}'", _HOW_TO_SET.format(name=name))


class SectionSecrets:
    """The secrets that sections can refer to.

    Args:
        settings: the head's settings.
    """

    def __init__(self, settings: Settings) -> None:
        directory = settings.home / "secrets"
        self._inventory_file = directory / "inventory.json"
        self._files = directory / "values"
        self._key_file = directory / "digest_key"

    def names(self) -> dict[str, str]:
        """Return the names of all secrets, each with where it comes from: :data:`INVENTORY` or :data:`FILE`.

        Raises:
            UserError: the secrets cannot be read, or one comes from both.
        """
        inventory, files = self._inventory(), self._file_names()
        if both := sorted(inventory.keys() & files):
            message = f"{', '.join(both)}: in modelserve_secrets of the inventory and in a file on the head"
            raise UserError(message, f"Take it out of the inventory, or run 'modelserve secrets remove {both[0]}'")
        return {name: FILE if name in files else INVENTORY for name in sorted([*inventory, *files])}

    def value(self, name: str) -> str:
        """Return the value of a secret.

        Raises:
            UserError: there is no such secret, or it cannot be the value of an environment variable.
        """
        source = self.names().get(name)
        if source is None:
            raise UserError(missing(name))
        if source == INVENTORY:
            return _checked(f"modelserve_secrets: {name}", self._inventory()[name])
        file = self._files / name
        return _checked(str(file), _text_of(file))

    def digest(self, name: str, value: str) -> str:
        """Return a digest of a secret's value. It is keyed: nobody can find a short value by trying."""
        if not self._key_file.exists():
            write_atomically(self._key_file, secrets.token_hex(32), 0o600)
        key = self._key_file.read_bytes().strip()
        return hmac.new(key, f"{name}\0{value}".encode(), hashlib.sha256).hexdigest()[:DIGITS]

    def set(self, name: str, value: str) -> None:
        """Write a secret's file.

        Raises:
            UserError: the name or the value is not valid, or the secret is the inventory's.
        """
        if not is_secret_name(name):
            raise UserError("that cannot be the name of a secret", SECRET_NAMES)
        if name in self._inventory():
            raise UserError(f"the secret {name} is the inventory's", "Change it in modelserve_secrets and deploy")
        checked = _checked("the value", value)
        self._files.mkdir(mode=0o700, exist_ok=True)
        write_atomically(self._files / name, checked, 0o600)

    def remove(self, name: str) -> None:
        """Remove a secret's file.

        Raises:
            UserError: there is none.
        """
        if not is_secret_name(name) or name not in self._file_names():
            raise UserError("there is no file of that secret on the head", "See 'modelserve secrets'")
        (self._files / name).unlink()

    def _inventory(self) -> dict[str, str]:
        try:
            content = json.loads(self._inventory_file.read_text())
        except FileNotFoundError:
            return {}
        except PermissionError as error:
            raise _unreadable(self._inventory_file, error) from None
        except ValueError:  # its message would show a part of the content
            content = None
        if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
            fix = "Deploy with the inventory's modelserve_secrets again"
            raise UserError(Problem("is not as modelserve writes it", fix, str(self._inventory_file)))
        return content

    def _file_names(self) -> list[str]:
        try:
            names = [path.name for path in self._files.iterdir() if path.is_file()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(self._files, error) from None
        return [name for name in names if is_secret_name(name)]


def _text_of(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except OSError as error:
        raise _unreadable(file, error) from None
    except UnicodeDecodeError:
        raise UserError(
            Problem("is not UTF-8 text", "Write it as base64, which the package decodes", str(file))
        ) from None


def _checked(source: str, text: str) -> str:
    """Return the value of a text: without the line break that editors put at the end.

    Raises:
        UserError: it cannot be the value of an environment variable. The message does not show it.
    """
    value = text[:-1] if text.endswith("\n") else text
    value = value.removesuffix("\r")
    problem = ""
    if not value:
        problem = "is empty"
    elif "\0" in value:
        problem = "holds a NUL character"
    elif len(value.encode()) > LARGEST:
        problem = f"is longer than {LARGEST} bytes"
    if problem:
        raise UserError(Problem(problem, "Write the value again", source))
    return value


def _unreadable(file: Path, error: OSError) -> UserError:
    fix = f"Run this in the head's container, and give the file to its user: chown --reference={file.parents[1]} {file}"
    return UserError(Problem(f"cannot be read: {error.strerror}", fix, str(file)))
