"""Models from Hugging Face's hub, or a mirror of it (``HF_ENDPOINT``)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from modelserve.models.sources.request import Request, human, library

SOURCE = "hf"


def fetch(request: Request) -> Path:
    """Download the files of a commit; the token comes from ``HF_TOKEN`` or the one that ``hf auth login`` keeps.

    Returns:
        The directory; where the entry is a file, the file.

    Raises:
        ValueError: no file has a name that the entry asks for.
    """
    hub, utils, model = library("huggingface_hub", SOURCE), library("huggingface_hub.utils", SOURCE), request.model
    utils.disable_progress_bars()
    patterns = list(model.files) or ([model.file] if model.file else None)
    info = hub.HfApi().model_info(model.hf, revision=model.revision or "main", files_metadata=True)
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
    names = list(utils.filter_repo_objects(sizes, allow_patterns=patterns))
    if not names or (model.file and len(names) > 1):
        raise ValueError(_misfit(model.file, patterns, names, list(sizes)))
    total = sum(sizes[name] for name in names)
    request.require_space(total - _fetched(request.content))
    request.report(f"{model.name}: {len(names)} files, {human(total)}")
    hub.snapshot_download(model.hf, revision=info.sha, allow_patterns=names, local_dir=request.content)
    shutil.rmtree(
        request.content / ".cache", ignore_errors=True
    )  # what the library needs to go on after an interruption
    return request.content / names[0] if model.file else request.content


def pinned(request: Request) -> dict[str, str]:
    """Return the commit that a branch or a tag names now."""
    hub, model = library("huggingface_hub", SOURCE), request.model
    info: Any = hub.HfApi().model_info(model.hf, revision=model.revision or "main")
    return {"revision": str(info.sha)}


def _misfit(file: str, patterns: list[str] | None, names: list[str], there: list[str]) -> str:
    if names:
        return f"{file} is one file, and 'files' selects {len(names)}: {', '.join(sorted(names)[:5])}"
    shown = ", ".join(sorted(there)[:8]) + (", ..." if len(there) > 8 else "")
    return f"no file of the repository is selected by {', '.join(patterns or ['*'])}; there are {shown or 'none'}"


def _fetched(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
