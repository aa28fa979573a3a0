"""What site.yml made: the containers, and algorithms that answer."""

from __future__ import annotations

import json
import math
import subprocess
import time
from typing import Any

import pytest
from conftest import HEAD, HOME, PROJECT, SOURCE, Cluster, run


@pytest.mark.essential
@pytest.mark.parametrize("name", [HEAD, "modelserve_gateway", "modelserve_gateway_sync", "modelserve_catalog"])
def test_a_container_runs_as_promised(host: Any, name: str) -> None:
    container = host.docker(name)
    assert container.is_running
    deadline = time.monotonic() + 60
    while (details := container.inspect())["State"]["Health"]["Status"] == "starting":
        assert time.monotonic() < deadline, "its health is not known after a minute"
        time.sleep(1)
    assert details["State"]["Health"]["Status"] == "healthy"
    options = details["HostConfig"]
    assert options["RestartPolicy"]["Name"] == "unless-stopped"
    assert options["NetworkMode"] == "host"
    assert options["CapDrop"] == ["ALL"]
    assert "no-new-privileges" in " ".join(options["SecurityOpt"])
    assert not any(mount["Source"] == "/" for mount in details["Mounts"])
    assert options["ReadonlyRootfs"]
    if name == "modelserve_gateway":  # root for its port, with that one right
        assert options["CapAdd"] in (["NET_BIND_SERVICE"], ["CAP_NET_BIND_SERVICE"])
    else:
        assert details["Config"]["User"] == "6370:0"
        assert not options["CapAdd"] and host.file(str(HOME)).uid == 6370


def test_the_head_has_the_shared_memory_and_time_zone_it_was_given(host: Any) -> None:
    details = host.docker(HEAD).inspect()
    assert details["HostConfig"]["ShmSize"] == 8 * 2**30
    assert "TZ=Etc/UTC" in details["Config"]["Env"]


@pytest.mark.essential
def test_the_token_is_secret_and_the_dashboard_wants_it(host: Any, cluster: Cluster) -> None:
    token = host.file(str(HOME / "secrets" / "ray_token"))
    assert token.mode == 0o600 and token.size == 64
    assert cluster.ask("api/serve/applications/", port=8265)[0] == 401
    listening = host.run("cat /proc/net/tcp").stdout
    assert f"0100007F:{8265:04X} 00000000:0000 0A" in listening and f"00000000:{8265:04X}" not in listening


def test_the_settings_are_readable_by_root_alone(host: Any) -> None:
    assert host.file(str(HOME / "settings.json")).mode == 0o600


@pytest.mark.essential
def test_conf_ini_is_a_template(host: Any) -> None:
    assert (
        "# The project under test. local: conf.ini is a template." in host.file(str(HOME / "conf.ini")).content_string
    )


@pytest.mark.essential
def test_the_example_answers(cluster: Cluster) -> None:
    status, answer = cluster.ask("extract", {"text": "What a GREAT day"})
    assert (status, answer["status"], answer["result"]) == (200, 1, {"score": 2, "words": {"great": 2}})
    assert answer["info"].startswith("Result from ")


@pytest.mark.essential
def test_the_embedding_is_a_unit_vector_that_knows_what_is_alike(cluster: Cluster) -> None:
    _, answer = cluster.ask("embed", {"sentence": "a cat sits on the mat"})
    vector = answer["result"]["embedding"]
    assert len(vector) == 384
    assert math.isclose(sum(x * x for x in vector), 1, rel_tol=1e-4)

    def similarity(other: str) -> float:
        return cluster.ask("embed", {"sentences": ["a cat sits on the mat", other]})[1]["result"]["similarity"]

    near, far = similarity("a kitten rests on the rug"), similarity("quarterly revenue grew by ten percent")
    assert near > 0.4 > 0.2 > far


@pytest.mark.essential
def test_dependencies_that_exclude_each_other_run_side_by_side(cluster: Cluster) -> None:
    old, new = (cluster.ask(f"numpy/{age}", {})[1]["result"] for age in ("old", "new"))
    assert (old["numpy"], new["numpy"]) == ("2.1.3", "2.3.5")
    assert old["prefix"] != new["prefix"] and old["sum"] == new["sum"] == 6


def test_an_environment_is_one_that_conda_can_read(cluster: Cluster) -> None:
    prefix = cluster.ask("numpy/old", {})[1]["result"]["prefix"]
    (record,) = [json.loads(line) for line in [run("sh", "-c", f"cat {prefix}/conda-meta/python-*.json").stdout]]
    assert record["name"] == "python" and record["build"].startswith("system_cp3")


@pytest.mark.essential
def test_a_class_written_the_original_way_answers(cluster: Cluster) -> None:
    assert cluster.ask("original", {"word": "good"})[1] == cluster.ask("original", {"word": "good"}, "POST")[1]
    status, answer = cluster.ask("original", {"word": "good"})
    assert (status, answer["status"], answer["result"]) == (200, 1, "v1:1")
    status, answer = cluster.ask("original", {"word": "unheard-of"})
    assert (status, answer["status"]) == (200, 0) and "KeyError" in answer["info"]


@pytest.mark.essential
@pytest.mark.parametrize(
    ("route", "params", "method", "status", "says"),
    [
        ("extract", "{not json", "GET", 400, "not JSON"),
        ("extract", [1, 2], "POST", 400, "JSON object"),
        ("extract", {"wrong": 1}, "GET", 500, "request id"),
        ("numpy/old", {}, "POST", 405, "use GET"),
    ],
)
def test_a_wrong_request_is_told_so(
    cluster: Cluster, route: str, params: Any, method: str, status: int, says: str
) -> None:
    got, answer = cluster.ask(route, params, method)
    assert (got, answer["status"]) == (status, 0)
    assert says in answer["info"] and answer["request_id"] and "Traceback" not in json.dumps(answer)


@pytest.mark.essential
def test_an_unknown_route_is_404(cluster: Cluster) -> None:
    assert cluster.ask("nowhere", {})[0] == 404


@pytest.mark.essential
def test_the_gateway_listens_on_loopback_alone(host: Any) -> None:
    listening = host.run("cat /proc/net/tcp").stdout
    assert f"0100007F:{6660:04X} 00000000:0000 0A" in listening and f"00000000:{6660:04X}" not in listening


@pytest.mark.essential
def test_status_and_smoke_playbooks_show_every_algorithm(cluster: Cluster) -> None:
    status = cluster.playbook("playbooks/status.yml").stdout
    assert status.count("RUNNING") == 7 and "http://127.0.0.1:6660/embed" in status
    smoke = cluster.playbook("playbooks/smoke.yml").stdout
    assert smoke.count(" ok ") >= 7 and '"status": 1' in smoke


def test_check_mode_finds_nothing_to_change(cluster: Cluster) -> None:
    assert "changed=0" in cluster.playbook("site.yml", "--check").stdout


def test_the_head_s_shell_has_what_users_expect(cluster: Cluster) -> None:
    assert cluster.head("bash", "-c", "pwd").stdout.strip() == str(HOME)
    assert "modelserve" in cluster.head("bash", "-c", "ls controller.py algopkg Model_ZOO && which modelserve").stdout
    assert "Active:" in cluster.head("ray", "status").stdout


@pytest.mark.parametrize("place", ["checkout", "container"])
def test_the_user_s_tests_work_in_both_places(cluster: Cluster, place: str) -> None:
    params = ["--params", '{"text": "bad"}']
    if place == "checkout":
        package = run("python3", str(SOURCE / "test/algopkg_test.py"), "--home", str(HOME), *params)
        server = run("python3", str(SOURCE / "test/server_test.py"), "--url", "http://127.0.0.1:6660/extract", *params)
    else:
        package = cluster.head("python", f"{HOME}/test/algopkg_test.py", *params)
        server = cluster.head("python", "test/server_test.py", "--url", "http://127.0.0.1:6660/extract", *params)
    assert "AlgoExample: passed" in package.stdout and '"score": -1' in package.stdout
    assert "passed after" in server.stdout


def test_the_user_s_tests_fail_with_the_cause(cluster: Cluster) -> None:
    package = cluster.head("python", "test/algopkg_test.py", "--params", '{"txt": 1}', check=False)
    assert package.returncode == 1 and "KeyError: 'text'" in package.stdout
    server = cluster.head("python", "test/server_test.py", "--url", "http://127.0.0.1:6660/nowhere", check=False)
    assert server.returncode == 1 and "404" in server.stderr


def test_nothing_of_the_project_was_left_out(cluster: Cluster) -> None:
    result: subprocess.CompletedProcess[str] = cluster.head("modelserve", "plan", "--json")
    document = json.loads(result.stdout)
    assert document["changed"] is False and len(document["unchanged"]) == 7
    assert (PROJECT / "Model_ZOO" / "minilm-int8.onnx").exists()
