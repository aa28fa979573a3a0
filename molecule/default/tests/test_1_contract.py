"""The image's Ray and uvicorn are what modelserve needs, and the check would notice if they were not."""

from __future__ import annotations

from conftest import HEAD, run

CHECK = ("/opt/venv/bin/python", "/opt/lib/check_contract.py")


def test_ray_and_uvicorn_keep_the_contract() -> None:
    assert " checks passed with Ray" in run("docker", "exec", HEAD, *CHECK).stdout


def test_a_switch_that_serve_does_not_have_breaks_it() -> None:
    result = run("docker", "exec", "--env", "RAY_SERVE_NO_SUCH_SWITCH=1", HEAD, *CHECK, check=False)
    assert result.returncode == 1
    (line,) = result.stdout.splitlines()
    assert line.startswith("error: contract with Ray")
    assert line.endswith("Serve reads no variable RAY_SERVE_NO_SUCH_SWITCH")
