"""Why a project's conf.ini cannot be rendered: Ansible names a variable, this names file, line, section and key."""

from __future__ import annotations

DOCUMENTATION = r"""
name: conf_ini_problems
author: modelserve
short_description: Why a conf.ini cannot be rendered
description: One line for each problem. It names the file, line, section and key, and says what to write.
options:
  _terms:
    description: The path of a conf.ini on the machine that runs Ansible.
    required: true
"""

import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible.template import trust_as_template

sys.path.insert(0, str(Path(__file__).parents[2] / "files"))


def innermost(error: BaseException) -> str:
    """Return the message of the error that an error came from, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    message = error.message if isinstance(error, AnsibleError) else str(error)
    return " ".join(message.split())


class LookupModule(LookupBase):
    """The lookup ``conf_ini_problems``."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return the problems of a file."""
        from modelserve.config import parser, template
        from modelserve.errors import UserError

        try:
            text = parser.read(Path(terms[0]), "conf.ini")
        except UserError as error:
            return [str(problem) for problem in error.problems]
        if not template.is_template(text):
            return []
        problems = template.problems(text, "conf.ini") or template.failures(text, "conf.ini", self._message)
        return [str(problem) for problem in problems]

    def _message(self, source: str) -> str:
        """Return why Ansible cannot render a template; empty where it can."""
        try:
            self._templar.template(trust_as_template(source))
        except Exception as error:  # what a filter or a lookup of the template raises
            return innermost(error)
        return ""
