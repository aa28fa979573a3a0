"""Models and artifacts of MLflow, from the server that ``MLFLOW_TRACKING_URI`` names."""

from __future__ import annotations

import shutil
from pathlib import Path

from modelserve.models.sources.request import Request, library

SOURCE = "mlflow"


def fetch(request: Request) -> Path:
    """Download a version of a registered model, or an artifact of a run.

    Returns:
        The file or the directory.
    """
    artifacts = library("mlflow.artifacts", SOURCE)
    shutil.rmtree(request.content, ignore_errors=True)
    request.content.mkdir()
    return Path(artifacts.download_artifacts(artifact_uri=request.model.mlflow, dst_path=str(request.content)))


def pinned(request: Request) -> dict[str, str]:
    """Return the version that an alias names now, or the newest one."""
    client = library("mlflow", SOURCE).MlflowClient()
    uri = request.model.mlflow
    if not uri.startswith("models:/"):
        return {}
    name, _, alias = uri.removeprefix("models:/").partition("@")
    name = name.split("/")[0]
    if alias:
        return {"mlflow": f"models:/{name}/{client.get_model_version_by_alias(name, alias).version}"}
    versions = [int(version.version) for version in client.search_model_versions(f"name='{name}'")]
    if not versions:
        raise ValueError(f"there is no registered model '{name}'")
    return {"mlflow": f"models:/{name}/{max(versions)}"}
