"""Secrets of sections: their values reach replicas, and nothing else that is written down."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from modelserve.author import trial
from modelserve.cli.main import main
from modelserve.cli.tables import plan_text
from modelserve.config import parser
from modelserve.config.ini import Lines
from modelserve.config.routes import Served
from modelserve.config.section import Section
from modelserve.deploy.plan import Plan, compare
from modelserve.deploy.releases import Releases, Target
from modelserve.deploy.secret_references import SecretReferences
from modelserve.errors import UserError
from modelserve.replica import secret_variables
from modelserve.replica.deployment import Algorithm
from modelserve.security.section_secrets import LARGEST, SectionSecrets
from modelserve.serve.application import Application, deploy_document
from modelserve.serve.contract import AppArgs, Secret
from modelserve.settings import Settings
from modelserve.store import secret_values

VALUE, OTHER = "planted-4f9c1d7e", "planted-00aa11bb"
SERVED = Served(port=666)
CONF = "[MODEL SERVE]\nport = 666\n[algopkg.Echo]\nbackend = Echo\nroute = echo\nsecret.HF_TOKEN = hf_token\n"
PACKAGE = """
import os
import modelserve

AT_IMPORT = os.environ["HF_TOKEN"]

class Echo(modelserve.AlgoBackend):
    def _model_inference(self, param_dict):
        return AT_IMPORT
"""


class Head:
    """The head's data directory, with a token, and what an apply does with secrets there."""

    def __init__(self, home: Path) -> None:
        (home / "secrets" / "values").mkdir(parents=True)
        (home / "secrets" / "ray_token").write_text("0123abcd\n")
        (home / "conf.ini").write_text(CONF)
        self.home = home
        self.settings = Settings(home=home)
        self.messages: list[str] = []
        self.references = SecretReferences(self.settings, self.messages.append)

    def inventory(self, **values: str) -> None:
        (self.home / "secrets" / "inventory.json").write_text(json.dumps(values))

    def target(self, text: str = CONF) -> Target:
        conf = parser.parse(text)
        self.references.read(conf, "conf.ini", Lines(text))
        applications = {section.name: self.application(section) for section in conf.sections}
        return Target(text, SERVED, applications, {})

    def application(self, section: Section) -> Application:
        secrets = self.references.of_section(section)
        return Application.from_section(section, Path("/store/pkg/E-1"), [], Path("/store/env/E-1"), secrets)

    def plan(self, old: Target) -> Plan:
        return compare(self.target().applications, old.applications, SERVED, SERVED)

    def values(self, application: Application) -> dict[str, str]:
        """What a replica on the head finds."""
        return secret_values.read(self.settings, "", application.args.secrets_id, print)

    def written(self, *without: str) -> str:
        """Everything below the data directory, without the secrets."""
        files = [path for path in self.home.rglob("*") if path.is_file() and self.home / "secrets" not in path.parents]
        return "".join(path.read_text() for path in files)


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Head:
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path / "home"))
    return Head(tmp_path / "home")


@pytest.fixture
def fetch_command(head: Head, fresh_python: None, monkeypatch: pytest.MonkeyPatch) -> Head:
    """Replicas of this process ask the head's own command, as in the image."""
    code = f"import sys; sys.path.insert(0, {str(Path(trial.__file__).parents[2])!r}); "
    code += "from modelserve.cli.main import entry; entry(sys.argv[1:])"
    monkeypatch.setattr(secret_variables, "COMMAND", (sys.executable, "-c", code, "node", "secrets", "--id"))
    monkeypatch.delenv("MODELSERVE_HEAD", raising=False)
    return head


def problem(action: Any, *arguments: Any) -> str:
    with pytest.raises(UserError) as raised:
        action(*arguments)
    return str(raised.value)


def test_a_value_comes_from_the_inventory_or_from_a_file(head: Head) -> None:
    head.inventory(a="one", b="two\n")
    (head.home / "secrets" / "values" / "c").write_bytes(b"three\r\n")
    (head.home / "secrets" / "values" / ".c.swp").write_text("an editor's")
    secrets = SectionSecrets(head.settings)
    assert secrets.names() == {"a": "modelserve_secrets", "b": "modelserve_secrets", "c": "file"}
    assert [secrets.value(name) for name in "abc"] == ["one", "two", "three"]


def test_a_secret_in_both_places_is_refused(head: Head) -> None:
    head.inventory(hf_token=VALUE)
    (head.home / "secrets" / "values" / "hf_token").write_text(OTHER)
    text = problem(head.target)
    assert "hf_token: in modelserve_secrets of the inventory and in a file" in text
    assert VALUE not in text
    assert OTHER not in text


def test_a_missing_secret_is_named_with_section_key_and_both_ways_to_set_it(head: Head) -> None:
    assert problem(head.target) == (
        "conf.ini:6 [algopkg.Echo] secret.HF_TOKEN: the cluster has no secret 'hf_token'. "
        "Set modelserve_secrets.hf_token in the inventory and deploy, or run 'modelserve secrets set hf_token' "
        "on the head, which writes secrets/values/hf_token below modelserve_home"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"a\0b", "NUL"),
        (b"\xff", "not UTF-8"),
        (b"x" * (LARGEST + 1), "longer"),
    ],
    ids=["empty", "line", "nul", "binary", "long"],
)
def test_a_value_that_cannot_be_a_variable_s_is_refused_and_not_shown(head: Head, content: bytes, words: str) -> None:
    file = head.home / "secrets" / "values" / "hf_token"
    file.write_bytes(content)
    text = problem(head.target)
    assert words in text and str(file) in text
    assert "xxxx" not in text


@pytest.mark.parametrize("content", ["{", '["planted-1"]', '{"a": 1}', '{"a": "planted-1'])
def test_a_damaged_file_of_the_inventory_is_an_error_line_without_its_content(head: Head, content: str) -> None:
    (head.home / "secrets" / "inventory.json").write_text(content)
    text = problem(head.target)
    assert "inventory.json: is not as modelserve writes it" in text
    assert "planted" not in text


def test_the_configuration_and_the_release_have_no_value(head: Head) -> None:
    head.inventory(hf_token=VALUE)
    target = head.target()
    Releases(head.home / "releases", 3).record(target, head.plan(Target("", SERVED, {}, {})).summary())
    head.references.publish([target.applications])
    document = json.dumps(deploy_document(target.applications.values(), 8000))
    assert "hf_token" in document
    for text in (document, head.written(), json.dumps(head.plan(target).as_dict())):
        assert VALUE not in text
    assert head.values(target.applications["Echo"]) == {"HF_TOKEN": VALUE}


def test_a_digest_depends_on_a_key_of_the_cluster(head: Head, tmp_path: Path) -> None:
    other = Head(tmp_path / "other")
    digests = {SectionSecrets(one.settings).digest("a", "1234") for one in (head, head, other)}
    assert len(digests) == 2
    assert (head.home / "secrets" / "digest_key").stat().st_mode & 0o777 == 0o600


def test_another_value_needs_new_replicas_and_the_plan_names_the_secret_alone(head: Head) -> None:
    head.inventory(hf_token=VALUE)
    old = head.target()
    assert not head.plan(old)
    head.inventory(hf_token=OTHER)
    plan = head.plan(old)
    assert plan.summary() == ["~ Echo (secret hf_token)"]
    assert "secret hf_token changed (new replicas)" in plan_text(plan)
    (difference,) = plan.as_dict()["changes"][0]["differences"]
    assert difference == {"what": "secret hf_token", "old": "(hidden)", "new": "(hidden)", "new_replicas": True}
    identities = {
        app.user_config.identity for app in (*old.applications.values(), *head.target().applications.values())
    }
    assert len(identities) == 2


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({}, {"A": "a"}, ["secret a added"]),
        ({"A": "a"}, {}, ["secret a removed"]),
        ({"A": "a"}, {"A": "b"}, ["secret a removed", "secret b added"]),
        ({"A": "a"}, {"B": "a"}, ["secret a changed"]),
        ({"A": "a"}, {"A": "a", "B": "a"}, ["secret a changed"]),
        ({"A": "a", "B": "a"}, {"A": "b", "B": "a"}, ["secret a changed", "secret b added"]),
    ],
)
def test_a_plan_shows_the_secrets_that_come_and_go(
    head: Head, old: dict[str, str], new: dict[str, str], lines: list[str]
) -> None:
    head.inventory(a=VALUE, b=OTHER)
    base = CONF.replace("secret.HF_TOKEN = hf_token\n", "")
    before, after = (
        head.target(base + "".join(f"secret.{name} = {secret}\n" for name, secret in one.items())) for one in (old, new)
    )
    plan = compare(after.applications, before.applications, SERVED, SERVED)
    assert sorted(line.strip() for line in plan_text(plan).splitlines()[1:]) == [
        f"{line} (new replicas)" for line in lines
    ]


def test_while_a_deploy_fails_the_replicas_of_before_find_their_value(head: Head) -> None:
    head.inventory(hf_token=VALUE)
    before = head.target()
    head.references.publish([before.applications])
    head.inventory(hf_token=OTHER)
    after = head.target()
    head.references.publish([after.applications, before.applications])
    assert head.values(before.applications["Echo"]) == {"HF_TOKEN": VALUE}
    assert head.values(after.applications["Echo"]) == {"HF_TOKEN": OTHER}
    head.references.publish([before.applications])  # as after a failure
    assert head.values(before.applications["Echo"]) == {"HF_TOKEN": VALUE}
    assert "Apply conf.ini again" in problem(head.values, after.applications["Echo"])


def test_values_that_nothing_needs_are_removed(head: Head) -> None:
    head.inventory(hf_token=VALUE)
    target = head.target()
    head.references.publish([target.applications])
    assert len([*(head.home / "store" / "secrets").iterdir()]) == 1
    head.references.publish([{}])
    assert [*(head.home / "store" / "secrets").iterdir(), *(head.home / "secrets" / "served").iterdir()] == []


def test_values_are_published_again_with_another_token(head: Head) -> None:
    head.inventory(hf_token=VALUE)
    head.references.publish([head.target().applications])
    (file,) = (head.home / "store" / "secrets").iterdir()
    before = file.read_text()
    secret_values.publish_again(head.settings)
    assert file.read_text() == before
    (head.home / "secrets" / "ray_token").write_text("another")
    secret_values.publish_again(head.settings)
    assert file.read_text() != before
    assert (file.stat().st_mode & 0o777) == 0o600


def test_a_rollback_has_the_present_value_and_reports_it(head: Head) -> None:
    two = CONF + "secret.OTHER = other\n"
    head.inventory(hf_token=VALUE, other="stays")
    releases = Releases(head.home / "releases", 3)
    number = releases.record(head.target(two))
    head.inventory(hf_token=OTHER, other="stays")
    renewed = head.references.renew(releases.read(number).target, number)
    assert head.messages == [
        "secrets have their present values: hf_token changed since release 1; other did not change"
    ]
    # The same as an apply of the release's conf.ini.
    applied = head.target(two).applications["Echo"]
    assert renewed.applications["Echo"] == applied
    assert renewed.applications["Echo"].user_config == applied.user_config
    head.references.publish([renewed.applications])
    assert head.values(renewed.applications["Echo"]) == {"HF_TOKEN": OTHER, "OTHER": "stays"}


def test_a_rollback_without_the_secret_is_refused_before_anything_changes(head: Head) -> None:
    head.inventory(hf_token=VALUE)
    releases = Releases(head.home / "releases", 3)
    number = releases.record(head.target())
    head.inventory()
    text = problem(head.references.renew, releases.read(number).target, number)
    assert text.startswith("release 1: the cluster has no secret 'hf_token'. Set modelserve_secrets.hf_token")


def args(package: Path | str, secrets: Mapping[str, Secret]) -> dict[str, Any]:
    return AppArgs(name="Echo", package=str(package), backend="Echo", secrets=dict(secrets)).model_dump()


def test_a_package_finds_its_secret_when_it_is_imported(
    fetch_command: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = fetch_command
    monkeypatch.setenv("HF_TOKEN", "not this one")
    package = tmp_path / "Echo"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "backend.py").write_text(PACKAGE)
    head.inventory(hf_token=VALUE)
    target = head.target()
    head.references.publish([target.applications])
    monkeypatch.setattr("modelserve.replica.ray_compat.bind_within", lambda ports: None)
    algorithm = Algorithm(args(package, target.applications["Echo"].args.secrets))
    assert algorithm.backend.instance._model_inference({}) == VALUE


def test_a_replica_whose_values_are_not_there_names_the_secret_and_the_fix(fetch_command: Head) -> None:
    wanted = AppArgs.model_validate(args("/x", {"HF_TOKEN": Secret(name="hf_token", digest="0" * 16)}))
    with pytest.raises(RuntimeError, match=r"hf_token cannot be fetched: the head has no values.*Apply conf"):
        secret_variables.set_variables(wanted)


@pytest.mark.parametrize(
    "code", ["print('planted-1')", "print('{}')", "import sys; sys.exit('gone')", "print('{\"A\": 1}')"]
)
def test_an_error_of_a_replica_has_nothing_of_what_the_command_printed(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_variables, "COMMAND", (sys.executable, "-c", code))
    wanted = AppArgs.model_validate(args("/x", {"HF_TOKEN": Secret(name="hf_token", digest="0" * 16)}))
    with pytest.raises(RuntimeError, match="the secret hf_token cannot be fetched") as raised:
        secret_variables.set_variables(wanted)
    assert "planted" not in str(raised.value)


def test_a_replica_without_secrets_starts_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_variables, "COMMAND", ("/does/not/exist",))
    secret_variables.set_variables(AppArgs.model_validate(args("/x", {})))


def test_the_command_sets_lists_and_removes_files(
    head: Head, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    head.inventory(other="of the inventory")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{VALUE}\n".encode())))
    assert main(["secrets", "set", "hf_token"]) == 0
    file = head.home / "secrets" / "values" / "hf_token"
    assert (file.read_text(), file.stat().st_mode & 0o777) == (VALUE, 0o600)
    capsys.readouterr()
    assert main(["secrets", "--json"]) == 0
    place = "conf.ini [algopkg.Echo] secret.HF_TOKEN"
    assert json.loads(capsys.readouterr().out)["secrets"] == [
        {"name": "hf_token", "from": "file", "used_by": [place]},
        {"name": "other", "from": "modelserve_secrets", "used_by": []},
    ]
    assert main(["secrets"]) == 0
    assert main(["secrets", "remove", "hf_token"]) == 0
    assert not file.exists()
    assert main(["secrets", "remove", "hf_token"]) == 1
    assert main(["secrets", "remove", "../ray_token"]) == 1
    assert main(["secrets", "set", "other"]) == 1
    assert main(["secrets", "set", "../x"]) == 1
    output = capsys.readouterr()
    assert VALUE not in output.out + output.err
    assert "the inventory's. Change it in modelserve_secrets and deploy" in output.err


def test_the_check_on_the_head_finds_a_missing_secret(head: Head, capsys: pytest.CaptureFixture[str]) -> None:
    package = head.home / "algopkg" / "Echo"
    package.mkdir(parents=True)
    (package / "backend.py").write_text("class Echo: ...\n")
    assert main(["check"]) == 1
    assert "conf.ini:6 [algopkg.Echo] secret.HF_TOKEN: the cluster has no secret 'hf_token'" in capsys.readouterr().err
    # On another machine nothing is known of the head's: its document has what Ansible compares.
    assert main(["check", "--json", "--project", str(head.home)]) == 0
    (secret,) = json.loads(capsys.readouterr().out)["secrets"]
    assert secret["name"] == "hf_token"
    assert secret["missing"].startswith("conf.ini:6 [algopkg.Echo] secret.HF_TOKEN: the cluster has no secret")


def test_a_local_run_takes_the_author_s_variable_else_the_head_s(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "algopkg" / "Echo").mkdir(parents=True)
    (project / "algopkg" / "Echo" / "backend.py").write_text("class Echo: ...\n")
    (project / "conf.ini").write_text(CONF)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    text = problem(trial.prepare, head.settings, "Echo", project)
    assert text.startswith("conf.ini [algopkg.Echo] secret.HF_TOKEN: HF_TOKEN is not set in your environment. Set it")
    head.inventory(hf_token=VALUE)
    assert trial.prepare(head.settings, "Echo", project).variables["HF_TOKEN"] == VALUE
    monkeypatch.setenv("HF_TOKEN", "mine")
    prepared = trial.prepare(head.settings, "Echo", project)
    assert prepared.variables["HF_TOKEN"] == "mine"
    assert "mine" not in repr(prepared) + prepared.args.model_dump_json()
    assert os.environ["HF_TOKEN"] == "mine"
