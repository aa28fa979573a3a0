"""Read ``Model_ZOO/models.yml``, and write hashes and revisions into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError

from modelserve.errors import Location, Problem, UserError, validation_problems
from modelserve.models.entry import MANIFEST, Model
from modelserve.util.files import write_atomically


def read(directory: Path, pinned: bool = True) -> list[Model]:
    """Return the entries of ``models.yml``; without the file there are none.

    Args:
        directory: Model_ZOO.
        pinned: whether every entry must have its hash, and name a fixed revision.

    Raises:
        UserError: entries that are not valid.
    """
    manifest = directory / MANIFEST
    shown = f"{directory.name}/{MANIFEST}"
    if not manifest.exists():
        return []
    try:
        entries = yaml.safe_load(manifest.read_text(encoding="utf-8-sig")) or []
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(Problem(" ".join(str(error).split()), "Correct the YAML", shown)) from None
    if not isinstance(entries, list):
        raise UserError(Problem("must be a list of entries", "Begin each with '- file: NAME'", shown))
    models, problems = [], []
    for number, entry in enumerate(entries, 1):
        location = Location(shown, _title(entry, number))
        if isinstance(entry, dict) and not {"file", "directory"} & entry.keys():
            problems.append(location.at("file").problem("is missing", "Add 'file' or 'directory', its name here"))
            continue
        try:
            model = Model.model_validate(entry)
        except ValidationError as error:
            problems += validation_problems(error, location)
            continue
        models.append(model)
        problems += model.unpinned(location) if pinned else []
    for name, count in Counter(model.name for model in models).items():
        if count > 1:
            problems.append(Problem("is described twice", "Remove one", shown, name))
    if problems:
        raise UserError(problems)
    return models


def write(directory: Path, name: str, values: Mapping[str, str]) -> None:
    """Write keys of an entry; everything else in the file stays as it is, comments too.

    Args:
        directory: Model_ZOO.
        name: the entry's name.
        values: the keys with their values, which need no quotes in YAML.

    Raises:
        UserError: the file cannot be changed in place.
    """
    manifest = directory / MANIFEST
    for key, value in values.items():
        text = manifest.read_text(encoding="utf-8-sig")
        changed = _with_key(text, name, key, value)
        entries = {str(entry.get("file") or entry.get("directory")): entry for entry in yaml.safe_load(changed)}
        if entries[name].get(key) != value:
            fix = f"Write '{key}: {value}' into the entry"
            raise UserError(Problem("cannot be changed in place", fix, f"{directory.name}/{MANIFEST}", name))
        write_atomically(manifest, changed)


def _title(entry: object, number: int) -> str:
    name = (entry.get("file") or entry.get("directory")) if isinstance(entry, dict) else None
    return str(name or f"entry {number}")


def _with_key(text: str, name: str, key: str, value: str) -> str:
    """Return the YAML with a key of an entry changed or added."""
    document = yaml.compose(text, yaml.SafeLoader)
    for entry in document.value if document else ():
        pairs = {node.value: (node, content) for node, content in entry.value}
        naming = pairs.get("file") or pairs.get("directory")
        if naming is None or naming[1].value != name:
            continue
        if key in pairs:
            content = pairs[key][1]
            return text[: content.start_mark.index] + value + text[content.end_mark.index :]
        end = naming[1].end_mark.index
        separator = ", " if entry.flow_style else "\n" + " " * naming[0].start_mark.column
        return f"{text[:end]}{separator}{key}: {value}{text[end:]}"
    return text
