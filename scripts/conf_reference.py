#!/usr/bin/env python
"""Write the tables of docs/conf.md from the model that checks conf.ini; run it with PYTHONPATH=files."""

from __future__ import annotations

import re
from pathlib import Path

from modelserve.config.section import Section, Server
from pydantic import BaseModel
from pydantic.fields import FieldInfo

PAGE = Path(__file__).resolve().parent.parent / "docs" / "conf.md"


def default_of(field: FieldInfo) -> str:
    """Return a field's default in the notation of conf.ini."""
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == () or value == {}:
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{', '.join(value) if isinstance(value, tuple) else value}`"


def table(model: type[BaseModel]) -> str:
    """Return a model's fields as a Markdown table."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        if not field.exclude:
            rows.append(f"| `{field.title or name}` | {default_of(field)} | {field.description} |")
    return "\n".join(rows)


def render(page: str) -> str:
    """Return the page with its tables from the model."""
    for name, model in (("server", Server), ("section", Section)):
        pattern = rf"(?<=<!-- {name} -->\n).*?(?=\n<!-- end -->)"
        page = re.sub(pattern, table(model).replace("\\", r"\\"), page, flags=re.S)
    return page


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
