"""A new algorithm package that works unchanged, and the section that serves it."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from modelserve.config import parser, template
from modelserve.errors import UserError

BACKEND = '''\
"""{name}: load the model in _model_init, use it in _model_inference."""

import modelserve


class {name}(modelserve.AlgoBackend):
    def _model_init(self, model_path_lst=None):
        """Once per replica, with the paths of the section's `model` files."""
        self.vowels = set("aeiou")

    def _model_inference(self, param_dict):
        """Once per request, with its JSON object."""
        text = param_dict["text"]
        return {{"length": len(text), "vowels": sum(letter in self.vowels for letter in text.lower())}}
'''
WARMUP = '{"text": "good morning"}'


def route_of(name: str) -> str:
    """Return the route of a new package: ``face-detection`` for ``FaceDetection``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_+", "-", name).strip("-").lower()


def section_of(name: str) -> str:
    """Return the section of conf.ini that serves a new package."""
    lines = [f"[{parser.SECTION_PREFIX}{name}]", f"backend = {name}", f"route = {route_of(name)}"]
    return "\n".join([*lines, "method = GET, POST", f"warmup = {WARMUP}"]) + "\n"


def make(root: Path, name: str) -> Path:
    """Make ``algopkg/<name>`` and append its section to conf.ini.

    Args:
        root: the project: the directory of ``conf.ini`` and ``algopkg``.
        name: the name of the package and of its class.

    Returns:
        The package's directory.

    Raises:
        UserError: the name is invalid or in use, or conf.ini cannot take the section. Nothing is made then.
    """
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name):
        raise UserError(f"'{name}' cannot name a package and its class", "Use letters, digits and '_': FaceDetection")
    directory = root / "algopkg" / name
    if directory.exists():
        raise UserError(f"{directory} exists already", "Choose another name, or remove it")
    file = root / "conf.ini"
    if not file.is_file():
        raise UserError(f"{file} is missing", "Run this in the project's directory, or give --project")
    text = parser.read(file)
    added = ("" if text.endswith("\n") else "\n") + "\n" + section_of(name)
    # Some templates only Ansible can read: the new section is then not checked.
    if template.read_if_known(text, str(file)) is not None:
        template.read_if_known(text + added, str(file))
    directory.mkdir(parents=True)
    (directory / "__init__.py").touch()
    (directory / "requirements.txt").write_text("# what backend.py imports, one per line: name==version\n")
    (directory / "backend.py").write_text(BACKEND.format(name=name))
    # Appended with the file's own line ends: the user's text stays byte for byte, in any locale.
    newline = "\r\n" if b"\r\n" in file.read_bytes() else "\n"
    with file.open("a", encoding="utf-8", newline=newline) as stream:
        stream.write(added)
    return directory
