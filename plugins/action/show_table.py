"""Show rows as a table, as wide as its cells. Changes nothing.

- show_table:
    title: Checks of head
    columns: [check, found, verdict]
    rows: [{check: memory, found: 8000 MiB, verdict: ok}]
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()


class ActionModule(ActionBase):
    """The action ``show_table``."""

    _supports_check_mode = True
    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Print the table."""
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(
            argument_spec={
                "title": {"type": "str", "required": True},
                "columns": {"type": "list", "elements": "str", "required": True},
                "rows": {"type": "list", "elements": "dict", "required": True},
            }
        )
        columns = options["columns"]
        rows = [[str(row.get(column, "")) for column in columns] for row in options["rows"]]
        widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
        display.display(options["title"])
        for cells in [columns, ["-" * width for width in widths], *rows]:
            line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            display.display(f"  {line.rstrip()}")
        return {"changed": False}
