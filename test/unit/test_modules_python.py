"""The modules run on the hosts' Python 3.9: neither their grammar nor their calls need a later one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*ROOT.glob("plugins/modules/*.py"), *ROOT.glob("plugins/module_utils/*.py")])
# Keyword arguments that Python 3.10 and later added.
NEW_KEYWORDS = {"zip": {"strict"}, "dataclass": {"slots", "kw_only"}}
NEW_NAMES = {
    "UTC",
    "StrEnum",
    "ExceptionGroup",
    "TaskGroup",
    "pairwise",
    "aclosing",
    "tomllib",
    "TypeAlias",
    "ParamSpec",
}


def too_new(source: str) -> list[str]:
    """Return what Python 3.9 does not have; raise SyntaxError for its grammar."""
    tree = ast.parse(source, feature_version=(3, 9))
    features = []
    postponed = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    if not postponed:
        features.append("annotations are evaluated")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            features += [f"{name}({key.arg}=)" for key in node.keywords if key.arg in NEW_KEYWORDS.get(name, ())]
            if name in ("isinstance", "issubclass") and isinstance(node.args[-1], ast.BinOp):
                features.append(f"{name}(, X | Y)")
        names = [node.id] if isinstance(node, ast.Name) else [node.attr] if isinstance(node, ast.Attribute) else []
        names += [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        features += [name for name in names if name in NEW_NAMES]
    return features


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_module_needs_no_python_after_3_9(file: Path) -> None:
    assert too_new(file.read_text()) == []


@pytest.mark.parametrize(
    ("source", "feature"),
    [
        ("list(zip([], [], strict=True))", "zip(strict=)"),
        ("isinstance(1, int | str)", "isinstance(, X | Y)"),
        ("from datetime import UTC", "UTC"),
        ("import enum\nclass A(enum.StrEnum): ...", "StrEnum"),
        ("import dataclasses\n@dataclasses.dataclass(slots=True)\nclass A: ...", "dataclass(slots=)"),
    ],
)
def test_a_later_feature_is_found(source: str, feature: str) -> None:
    assert too_new(f"from __future__ import annotations\n{source}") == [feature]


def test_annotations_that_are_evaluated_are_found() -> None:
    assert too_new("def read(path: str) -> str | None: ...") == ["annotations are evaluated"]


@pytest.mark.parametrize("source", ["match 1:\n    case 1: ...", "try: ...\nexcept* OSError: ..."])
def test_a_later_grammar_is_refused(source: str) -> None:
    with pytest.raises(SyntaxError):
        too_new(source)
