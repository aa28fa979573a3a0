"""The sync agent: how it learns and publishes replicas, reports failures, and renews a certificate in time."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from modelserve.config.routes import Served
from modelserve.errors import UserError
from modelserve.gateway import sync_agent
from modelserve.gateway.gateway import Gateway
from modelserve.gateway.remote import RemoteGateways, publish_targets
from modelserve.gateway.sync_agent import Discovery, PublishedTargets, TargetsSync
from modelserve.gateway.targets import FILE, Target, Targets
from modelserve.security import certificates
from modelserve.settings import Settings

if TYPE_CHECKING:
    from conftest import Site, StoreServer

API = "/api/serve/applications/"
ECHO = Targets(algorithms={"Echo": (Target(replica="a", address="10.0.0.2", port=30000),)})


def test_a_cause_is_reported_once_until_it_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = iter([False, UserError("off"), UserError("off"), True, UserError("off")])

    def sync() -> bool:
        result = next(outcomes)
        if isinstance(result, UserError):
            raise result
        return result

    sync_agent.repeat(sync, 0, times=5)
    assert capsys.readouterr().out.splitlines() == ["off", "the gateway has a new configuration", "off"]


def test_a_certificate_near_its_end_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path, gateway_tls=True)
    Gateway(settings).configure(Served(port=666))
    assert not Gateway(settings).refresh()
    first = shown(tmp_path)
    after = datetime.timedelta(days=certificates.DAYS - certificates.RENEW_DAYS + 1)
    soon = datetime.datetime.now(datetime.UTC) + after
    monkeypatch.setattr(certificates, "_now", lambda: soon)
    assert Gateway(settings).refresh()
    assert not Gateway(settings).refresh()
    assert shown(tmp_path).not_valid_after_utc > first.not_valid_after_utc


def shown(home: Path) -> x509.Certificate:
    """The certificate of the gateway's configuration."""
    (file,) = (home / "gateway").glob("tls-*.pem")
    return x509.load_pem_x509_certificate(file.read_bytes())


def say(site: Site, *replicas: str) -> None:
    """Let Serve list some replicas of Echo."""
    names = [f"SERVE_REPLICA::Echo#Echo#{replica}" for replica in replicas]
    group = {
        "targets": [{"ip": "10.0.0.2", "port": 30000, "instance_id": "", "name": name} for name in names],
        "route_prefix": "/Echo",
        "protocol": "HTTP",
    }
    site.answers[API] = (200, json.dumps({"applications": {}, "target_groups": [group]}).encode())


def head(tmp_path: Path, site: Site) -> Settings:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "ray_token").write_text("0123abcd")
    (tmp_path / "gateway").mkdir()
    return Settings(home=tmp_path, dashboard_url=site.url)


def test_replicas_stay_while_serve_does_not_answer(tmp_path: Path, site: Site) -> None:
    discovery = Discovery(head(tmp_path, site))
    say(site, "a")
    assert discovery.observe() == ECHO
    site.answers[API] = (503, b"restarting")
    assert discovery.observe() == ECHO
    say(site)
    (unlisted,) = discovery.observe().of("Echo")
    assert not unlisted.serving
    discovery.forget({("Echo", "a")})
    assert discovery.observe() == Targets()


def test_an_agent_that_starts_while_serve_does_not_answer_has_the_replicas_of_before(
    tmp_path: Path, site: Site
) -> None:
    settings = head(tmp_path, site)
    (tmp_path / "gateway" / FILE).write_text(ECHO.model_dump_json())
    assert Discovery(settings).observe() == ECHO


def test_an_answer_that_is_no_list_of_replicas_is_an_error(tmp_path: Path, site: Site) -> None:
    site.answers[API] = (200, b'{"target_groups": [{}]}')
    with pytest.raises(UserError, match="list of replicas is not what Ray"):
        Discovery(head(tmp_path, site)).observe()


def test_an_agent_without_a_round_lately_is_not_healthy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has done nothing"):
        sync_agent.health(tmp_path)
    TargetsSync(Settings(home=tmp_path), lambda: ECHO).sync()
    sync_agent.health(tmp_path)
    os.utime(tmp_path / "gateway" / sync_agent.ALIVE_FILE, (0, 0))
    with pytest.raises(UserError, match="has done nothing"):
        sync_agent.health(tmp_path)


def test_another_host_has_the_head_s_replicas_and_keeps_them(tmp_path: Path, store_server_of_head: StoreServer) -> None:
    settings, home = Settings(home=store_server_of_head.home), tmp_path / "home"
    published = settings.home / "store" / "gateways"
    publish_targets(settings, ECHO)
    assert not published.exists(), "there is no gateway on another host"
    published.mkdir()
    publish_targets(settings, ECHO)
    assert "10.0.0.2" not in (published / "@targets").read_text()
    RemoteGateways(settings, print).publish({})
    (home / "secrets").mkdir(parents=True)
    (home / "secrets" / "ray_token").write_text("0123abcd\n")
    replicas = PublishedTargets(Settings(home=home), "127.0.0.1")
    assert replicas.current() == Targets()
    replicas.sync()
    assert replicas.current() == ECHO
    store_server_of_head.stop()
    with pytest.raises(UserError, match="does not answer"):
        replicas.sync()
    assert replicas.current() == ECHO
    TargetsSync(Settings(home=home), replicas.current).sync()
    assert PublishedTargets(Settings(home=home), "127.0.0.1").current() == ECHO, "after a restart"


def test_what_another_process_is_about_to_publish_stays(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    published = tmp_path / "store" / "gateways"
    published.mkdir(parents=True)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "ray_token").write_text("0123abcd\n")
    publish_targets(settings, ECHO)
    (published / ".@targets.6msds8vj").touch()
    (published / "former").touch()
    RemoteGateways(settings, print).publish({})
    assert {path.name for path in published.iterdir()} == {"@targets", ".@targets.6msds8vj"}


def test_replicas_of_another_cluster_are_refused(tmp_path: Path, store_server_of_head: StoreServer) -> None:
    settings, home = Settings(home=store_server_of_head.home), tmp_path / "home"
    (settings.home / "store" / "gateways").mkdir()
    publish_targets(settings, ECHO)
    (home / "secrets").mkdir(parents=True)
    (home / "secrets" / "ray_token").write_text("0123abcd\n")
    replicas = PublishedTargets(Settings(home=home), "127.0.0.1")
    replicas.sync()
    (settings.home / "store" / "gateways" / "@targets").write_text("encrypted with another token")
    with pytest.raises(UserError, match="not of this cluster's token"):
        replicas.sync()
    assert replicas.current() == ECHO
