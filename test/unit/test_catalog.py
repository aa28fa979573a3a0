"""The catalog: the real application, asked over HTTP, before a web server that stands for Serve and the replicas."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn
from modelserve.catalog import app, schemas
from modelserve.catalog import catalog as catalog_module
from modelserve.catalog.catalog import Catalog
from modelserve.catalog.readiness import judge
from modelserve.config.section import Section
from modelserve.errors import UserError
from modelserve.gateway.targets import FILE, Target, Targets
from modelserve.serve.application import Application
from modelserve.serve.status import ApplicationStatus
from modelserve.settings import Settings
from openapi_spec_validator import OpenAPIV31SpecValidator

if TYPE_CHECKING:
    from conftest import Site

API = "/api/serve/applications/"


def details(
    *states: str,
    status: str = "RUNNING",
    deployment: str = "HEALTHY",
    least: int | None = None,
    message: str = "",
    **user_config: Any,
) -> dict[str, Any]:
    """Serve's details of an application, as far as they matter here."""
    scaling = {} if least is None else {"min_replicas": least, "max_replicas": 2}
    section = Section(name="X", backend="X", route="x", method=("GET", "POST"), **scaling)
    config = Application.from_section(section, Path("/pkg/X-1"), [], Path("/env/X-1")).to_serve()
    (wanted,) = config["deployments"]
    wanted["user_config"] |= user_config
    return {
        "status": status,
        "message": message,
        "route_prefix": "/X",
        "deployed_app_config": config,
        "deployments": {
            "X": {
                "status": deployment,
                "message": "",
                "target_num_replicas": 2,
                "deployment_config": wanted,
                "replicas": [{"replica_id": str(at), "state": state} for at, state in enumerate(states)],
            }
        },
    }


class World:
    """A head: what its controller wrote, what Serve says, and the catalog that is asked about both."""

    def __init__(self, home: Path, site: Site) -> None:
        self.home, self.site = home, site
        (home / "gateway").mkdir()
        self.settings = Settings(home=home, dashboard_url=site.url)
        ui = home / "ui"
        ui.mkdir()
        (ui / "swagger-ui.css").write_text("body {}")
        self.app = app.application(Catalog(self.settings), ui)
        self.client: httpx.Client

    def serve(self, *names: str) -> None:
        """What the controller writes: each algorithm at a route of its own."""
        routes = {name.lower(): [{"name": name, "prefix": f"/{name}"}] for name in names}
        (self.home / "gateway" / "served.json").write_text(json.dumps({"port": 666, "routes": routes}))
        self.place(**{name: {"0": "127.0.0.1"} for name in names})

    def place(self, **replicas: dict[str, str]) -> None:
        """What the gateway knows: the addresses of each algorithm's replicas, by their ids."""
        algorithms = {
            name: tuple(Target(replica=id_, address=ip, port=self.site.port) for id_, ip in addresses.items())
            for name, addresses in replicas.items()
        }
        (self.home / "gateway" / FILE).write_text(Targets(algorithms=algorithms).model_dump_json())

    def say(self, **applications: Any) -> None:
        """What Serve says from now on."""
        self.site.answers[API] = (200, json.dumps({"applications": applications}).encode())

    def answer(self, name: str, **document: Any) -> None:
        """What an algorithm's replicas say of its types."""
        schema = {"name": name, "methods": ["GET"], "input": {"type": "object"}, "output": {}, **document}
        self.site.answers[f"/{name}/schema"] = (200, json.dumps(schema).encode())

    def asked(self, path: str) -> int:
        return sum(asked.path == path for asked in self.site.asked)

    def ready(self, name: str = "") -> tuple[int, dict[str, Any]]:
        answer = self.client.get(f"/readyz/{name}" if name else "/readyz")
        return answer.status_code, answer.json()

    def document(self) -> dict[str, Any]:
        answer = self.client.get("/openapi.json")
        assert answer.status_code == 200, answer.text
        OpenAPIV31SpecValidator(answer.json()).validate()
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
def world(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(catalog_module, "MAX_AGE_S", 0)
    made = World(tmp_path, site)
    server = uvicorn.Server(uvicorn.Config(made.app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as made.client:
        yield made
    server.should_exit = True
    thread.join()


def test_before_the_first_deploy_nothing_is_ready(world: World) -> None:
    status, answer = world.ready()
    assert status == 503
    assert answer["info"] == "nothing is deployed yet"
    assert world.ready("A")[0] == 503
    assert world.document()["paths"] == {}
    assert not world.asked(API)


def test_ready_is_when_every_algorithm_has_a_replica(world: World) -> None:
    world.serve("A", "B")
    world.say(A=details("RUNNING", "STARTING"), B=details("STARTING", status="DEPLOYING", deployment="UPDATING"))
    status, answer = world.ready()
    assert status == 503
    assert answer["info"] == "B: no replica runs, 1 starting"
    assert answer["algorithms"]["A"] == {"ready": True, "info": "1 of 2 replicas running", "replicas": 1}
    assert world.ready("A")[0] == 200
    assert world.ready("B")[0] == 503

    world.say(A=details("RUNNING"), B=details("RUNNING"))
    status, answer = world.ready()
    assert (status, answer["status"]) == (200, "ok")


def test_what_serve_does_not_run_is_not_ready(world: World) -> None:
    world.serve("A")
    world.say()
    assert world.ready("A") == (
        503,
        {"status": "not ready", "info": "A: Serve does not run it", "ready": False, "replicas": 0},
    )


def test_a_name_that_is_not_served_is_told_so(world: World) -> None:
    world.serve("A", "B")
    world.say(A=details("RUNNING"), B=details("RUNNING"))
    status, answer = world.ready("C")
    assert status == 404
    assert answer["info"] == "no algorithm C is served; A, B is"


@pytest.mark.parametrize(
    ("found", "ready"),
    [
        (details("STOPPING"), False),
        (details(), False),
        (details(least=0), True),
        (details("STARTING", least=0, deployment="UPSCALING"), True),
        (details("STARTING", least=0, status="DEPLOYING", deployment="UPDATING"), False),
        (details(least=0, status="UNHEALTHY", deployment="UNHEALTHY"), False),
        (details(least=0, status="DELETING"), False),
        (details("RUNNING", status="UNHEALTHY", deployment="UNHEALTHY"), True),
        (details("PENDING_MIGRATION"), True),
    ],
)
def test_readiness_by_serve_s_details(found: dict[str, Any], ready: bool) -> None:
    judged = judge(ApplicationStatus.model_validate(found))
    assert judged is not None
    assert judged.ready is ready


def test_the_cause_of_a_failure_is_one_line() -> None:
    message = "Deployment failed:\nTraceback (most recent call last):\n  File x\nModuleNotFoundError: no foo\n"
    judged = judge(ApplicationStatus.model_validate(details(status="DEPLOY_FAILED", message=message)))
    assert judged is not None
    assert judged.info == "no replica runs: ModuleNotFoundError: no foo"


def test_while_serve_looks_for_its_replicas_they_are_asked_directly(world: World) -> None:
    world.serve("A", "B")
    world.say(A=details("RECOVERING"), B=details("UPDATING"))
    world.answer("A")
    status, answer = world.ready()
    assert status == 503
    assert answer["algorithms"]["A"]["ready"]
    assert "404" in answer["algorithms"]["B"]["info"]


def test_replicas_on_a_host_that_is_gone_are_not_believed_in(world: World) -> None:
    lost, kept = details("RUNNING"), details("RUNNING", "RUNNING")
    (replica,) = lost["deployments"]["X"]["replicas"]
    replica["replica_id"] = "2"
    world.serve("A", "B")
    nowhere = "127.0.0.2"  # nothing listens there
    world.place(A={"2": nowhere}, B={"0": nowhere, "1": "127.0.0.1"})
    world.say(A=lost, B=kept)
    status, answer = world.ready()
    assert status == 503
    assert "it does not answer" in answer["algorithms"]["A"]["info"]
    assert answer["algorithms"]["B"] == {"ready": True, "info": "1 of 2 replicas running", "replicas": 1}


def test_without_ray_s_api_each_algorithm_is_asked_directly_and_that_is_said(world: World) -> None:
    world.serve("A", "B")
    world.say(A=details("RUNNING"), B=details("RUNNING"))
    assert world.ready()[0] == 200
    world.site.answers[API] = (503, b"restarting")
    status, answer = world.ready()
    assert status == 503
    assert "Ray answered" in answer["info"]
    assert "asked directly" in answer["info"]
    world.answer("A")
    world.answer("B")
    status, answer = world.ready()
    assert status == 200
    assert "Ray answered" in answer["info"]
    assert "Ray answered" in world.ready("A")[1]["info"]


def test_serve_is_asked_once_a_second_however_often_the_catalog_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_module, "MAX_AGE_S", 30)
    world.serve("A")
    world.say(A=details("RUNNING"))
    for _ in range(20):
        assert world.ready()[0] == 200
    assert world.asked(API) == 1


def test_an_answer_is_believed_for_its_second_and_no_longer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "MAX_AGE_S", 0.2)
    world.serve("A")
    world.say(A=details("RUNNING"))
    assert world.ready()[0] == 200
    world.say(A=details("STARTING"))
    time.sleep(0.25)
    assert world.ready()[0] == 503


def test_a_damaged_file_is_said(world: World) -> None:
    (world.home / "gateway" / "served.json").write_text('{"port": 666')
    status, answer = world.ready()
    assert status == 503
    assert "served.json" in answer["info"]
    assert "\n" not in answer["info"]
    assert world.client.get("/openapi.json").status_code == 503


def test_the_document_has_the_algorithms_types_methods_and_example(world: World) -> None:
    world.serve("A")
    world.say(A=details("RUNNING", warmup={"text": "x"}, max_queued_requests=3))
    world.answer("A", input={"type": "object", "properties": {"text": {"type": "string"}}})
    found = world.document()
    assert set(found["paths"]["/a"]) == {"get", "post"}
    operation = found["paths"]["/a"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["example"] == {"text": "x"}
    assert {"422", "429"} <= set(operation["responses"])
    assert found["paths"]["/a"]["get"]["parameters"][0]["example"] == "x"
    assert found["components"]["schemas"]["A.input"]["properties"] == {"text": {"type": "string"}}


def test_the_document_has_the_media_types_that_a_replica_says(world: World) -> None:
    world.serve("A")
    world.say(A=details("RUNNING", identity="1"))
    world.answer("A")  # of a version that says none
    content = world.document()["paths"]["/a"]["get"]
    assert (
        list(content["requestBody"]["content"]) == list(content["responses"]["200"]["content"]) == ["application/json"]
    )
    world.say(A=details("RUNNING", identity="2"))
    world.answer("A", consumes=["application/octet-stream"], produces=["text/event-stream"])
    content = world.document()["paths"]["/a"]["get"]
    assert list(content["requestBody"]["content"]) == ["application/octet-stream"]
    assert list(content["responses"]["200"]["content"]) == ["text/event-stream"]


def test_the_document_marks_streams_and_applications_of_classes(world: World) -> None:
    world.serve("A", "B")
    world.say(A=details("RUNNING"), B=details("RUNNING"))
    world.answer("A", produces=["application/octet-stream"], streams=True)
    world.answer("B", app=True)
    found = world.document()
    stream, app = found["paths"]["/a"]["get"], found["paths"]["/b"]["get"]
    assert stream["summary"] == "Ask A (stream)"
    assert "stream" in stream["responses"]["200"]["description"]
    assert (app["summary"], app["description"]) == ("Ask B", "It answers its own paths at and below its route.")


def test_types_are_asked_for_once_per_configuration(world: World) -> None:
    world.serve("A")
    world.say(A=details("RUNNING", "RUNNING", identity="1"))
    world.answer("A", output={"type": "integer"})
    for _ in range(3):
        assert world.document()["components"]["schemas"]["A.output"] == {"type": "integer"}
    assert world.asked("/A/schema") == 1
    world.say(A=details("RUNNING", "RUNNING", identity="2"))
    world.answer("A", output={"type": "string"})
    assert world.document()["components"]["schemas"]["A.output"] == {"type": "string"}
    assert world.asked("/A/schema") == 2


def test_types_an_old_replica_gave_during_an_update_are_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.serve("A")
    update = details("RUNNING", "RUNNING", "STARTING", status="DEPLOYING", deployment="UPDATING", identity="2")
    world.say(A=update)
    world.answer("A", output={"type": "integer"})
    world.document()
    world.answer("A", output={"type": "string"})
    world.say(A=details("RUNNING", "RUNNING", identity="2"))
    monkeypatch.setattr(schemas, "RETRY_S", 0)
    assert world.document()["components"]["schemas"]["A.output"] == {"type": "string"}


def test_an_algorithm_scaled_to_zero_is_not_started_for_its_types(world: World) -> None:
    world.serve("A")
    world.say(A=details(least=0))
    world.answer("A", output={"type": "integer"})
    assert world.document()["components"]["schemas"]["A.output"] == {}
    assert not world.asked("/A/schema")
    assert "once a replica runs" in world.document()["tags"][0]["description"]


def test_without_ray_s_api_the_document_stays(world: World) -> None:
    world.serve("A")
    world.site.answers[API] = (503, b"restarting")
    answer = world.client.get("/openapi.json")
    assert answer.status_code == 503
    assert "Ray answered" in answer.json()["info"]
    world.say(A=details("RUNNING", "RUNNING"))
    world.answer("A")
    before = world.document()
    world.site.answers[API] = (503, b"restarting")
    assert world.document() == before


def test_the_page_is_there_and_may_run_its_own_scripts_alone(world: World) -> None:
    page = world.client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "img-src 'self' data: blob:;" in page.headers["content-security-policy"]  # an answer's picture is a blob
    assert "<script>" not in page.text
    for path in ("/docs/page.js", "/docs/page.css", "/docs/swagger-ui/swagger-ui.css"):
        assert path in page.text or path.endswith("js")
        assert world.client.get(path).status_code == 200
    assert world.client.get("/docs/../catalog.py").status_code == 404


def test_a_catalog_that_is_not_there_is_not_healthy(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "PORT", closed_port)
    with pytest.raises(UserError, match="does not answer"):
        app.health()
