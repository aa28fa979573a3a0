"""Ray's REST API: the token goes along, and what Ray refuses or does not answer is said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from modelserve.errors import UserError
from modelserve.serve.api import RayAPI
from modelserve.settings import Settings

if TYPE_CHECKING:
    from conftest import Site

PATH = "/api/serve/applications/"


@pytest.fixture
def ray(tmp_path: Path, site: Site) -> RayAPI:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "ray_token").write_text("the token\n")
    return RayAPI(Settings(home=tmp_path, dashboard_url=site.url + "/"))


def test_what_serve_runs_is_read_with_the_token(ray: RayAPI, site: Site) -> None:
    site.answers[PATH] = (200, b'{"applications": {}}')
    assert ray.serve_details() == {"applications": {}}
    assert site.asked[0].headers["Authorization"] == "Bearer the token"


def test_a_configuration_is_submitted_as_json(ray: RayAPI, site: Site) -> None:
    site.answers[PATH] = (200, b"")
    ray.submit({"applications": [{"name": "Echo"}]})
    (asked,) = site.asked
    assert (asked.method, asked.path) == ("PUT", PATH)
    assert json.loads(asked.body) == {"applications": [{"name": "Echo"}]}


def test_a_cluster_without_a_token_is_asked_without_one(tmp_path: Path, site: Site) -> None:
    site.answers[PATH] = (200, b"{}")
    RayAPI(Settings(home=tmp_path, dashboard_url=site.url)).serve_details()
    assert "Authorization" not in site.asked[0].headers


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_names_its_file(ray: RayAPI, site: Site, tmp_path: Path, status: int) -> None:
    site.answers[PATH] = (status, b"Unauthorized")
    with pytest.raises(UserError, match="refuses the cluster's token") as caught:
        ray.serve_details()
    assert caught.value.problems[0].file == str(tmp_path / "secrets" / "ray_token")
    assert "the token\n" not in str(caught.value)


def test_applications_are_read_by_name(ray: RayAPI, site: Site) -> None:
    replica = {"replica_id": "a", "state": "RUNNING", "of_tomorrow": 1}
    shown = {"Echo": {"status": "RUNNING", "deployments": {"Echo": {"replicas": [replica]}}}}
    site.answers[PATH] = (200, json.dumps({"applications": shown}).encode())
    assert ray.applications()["Echo"].replica_ids("RUNNING") == {"a"}


def test_details_that_are_not_serve_s_are_one_line(ray: RayAPI, site: Site) -> None:
    site.answers[PATH] = (200, b'{"applications": {"Echo": {"state": "RUNNING"}}}')
    with pytest.raises(UserError, match=r"not what Ray 2\.60 writes") as caught:
        ray.applications()
    assert "\n" not in str(caught.value)


def test_ray_s_own_error_is_shown(ray: RayAPI, site: Site) -> None:
    site.answers[PATH] = (500, b"no such option: max_surge")
    with pytest.raises(UserError, match="500: no such option: max_surge"):
        ray.submit({})


def test_a_head_that_does_not_answer_is_named(tmp_path: Path, closed_port: int) -> None:
    url = f"http://127.0.0.1:{closed_port}"
    with pytest.raises(UserError, match=f"does not answer at {url}"):
        RayAPI(Settings(home=tmp_path, dashboard_url=url)).serve_details()


def test_something_else_on_ray_s_port_is_no_traceback(ray: RayAPI, site: Site) -> None:
    site.answers[PATH] = (200, b"<html>not Ray</html>")
    with pytest.raises(UserError):
        ray.serve_details()


def test_what_is_reserved_is_read_by_node(ray: RayAPI, site: Site) -> None:
    usage = {"abc": {"GPU": [1.5, 2.0], "CPU": [0.0, 4.0]}, "def": {"CPU": [1.0, 4.0]}}
    document = {"data": {"clusterStatus": {"loadMetricsReport": {"usageByNode": usage}}}}
    site.answers["/api/cluster_status"] = (200, json.dumps(document).encode())
    assert ray.usage() == {"abc": {"GPU": 1.5, "CPU": 0.0}, "def": {"CPU": 1.0}}
