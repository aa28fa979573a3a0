"""The sync agent reports each cause of a failure once, and renews a certificate in time."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from modelserve.config.routes import Served
from modelserve.errors import UserError
from modelserve.gateway import sync_agent
from modelserve.gateway.gateway import Gateway
from modelserve.security import certificates
from modelserve.settings import Settings


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
