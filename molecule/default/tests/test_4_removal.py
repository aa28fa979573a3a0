"""The last word: stop and reset remove what modelserve made, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import HEAD, HOME, Cluster, run

FOREIGN = "foreign_to_modelserve"


@pytest.fixture
def foreign() -> Iterator[str]:
    """A container of somebody else's."""
    image = run("docker", "inspect", "--format", "{{.Config.Image}}", HEAD).stdout.strip()
    run("docker", "tag", image, f"{FOREIGN}:1")
    run("docker", "run", "--detach", "--name", FOREIGN, "--entrypoint", "sleep", f"{FOREIGN}:1", "600")
    yield FOREIGN
    run("docker", "rm", "--force", FOREIGN)
    run("docker", "rmi", f"{FOREIGN}:1", check=False)


def test_stop_and_reset_leave_what_is_not_theirs(cluster: Cluster, foreign: str) -> None:
    names = ["docker", "ps", "--all", "--format", "{{.Names}}"]
    cluster.playbook("playbooks/down.yml")
    left = run(*names).stdout.split()
    assert (
        foreign in left
        and HEAD not in left
        and not {"modelserve_gateway", "modelserve_gateway_sync", "modelserve_catalog"} & set(left)
    )
    assert (HOME / "store").is_dir() and (HOME / "secrets/ray_token").exists()
    assert "inet modelserve" not in run("nft", "list", "tables").stdout, "its ports are open again"

    cluster.playbook("site.yml")
    assert cluster.ask("extract", {"text": "good"})[0] == 200

    text = cluster.playbook("playbooks/purge.yml", check=False).stdout
    assert "Nothing was removed. To go on: -e confirm=local" in text and HOME.exists()
    cluster.playbook("playbooks/purge.yml", "-e", "confirm=local")
    left = run(*names).stdout.split()
    assert foreign in left and HEAD not in left
    assert not HOME.exists()
