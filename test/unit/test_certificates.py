"""Certificates: clients that trust the cluster's CA reach the gateway by each of its names, and by no other."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from modelserve.errors import UserError
from modelserve.security import certificates
from modelserve.settings import Settings


def settings(home: Path, *names: str, **values: bool) -> Settings:
    return Settings(home=home, gateway_tls=True, gateway_names=names, **values)


def shake_hands(pem: str, authority: str, name: str, tmp_path: Path) -> str:
    """The TLS version of a connection by ``name``, or why there is none."""
    (tmp_path / "served.pem").write_text(pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "served.pem")
    client = ssl.create_default_context(cadata=authority)
    here, there = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(there, server_side=True):
                pass
        except OSError:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(here, server_hostname=name) as connection:
            return str(connection.version())
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    finally:
        here.close()
        thread.join()


@pytest.mark.parametrize("name", ["head-node", "10.0.0.1", "localhost", "127.0.0.1"])
def test_the_gateway_is_trusted_by_its_names(tmp_path: Path, name: str) -> None:
    here = settings(tmp_path, "head-node", "10.0.0.1")
    pem = certificates.ensure(here)
    assert shake_hands(pem, certificates.authority(here), name, tmp_path).startswith("TLSv1")
    assert "mismatch" in shake_hands(pem, certificates.authority(here), "other", tmp_path)
    assert all((tmp_path / "secrets" / name).stat().st_mode & 0o777 == 0o600 for name in ("ca_key.pem", "gateway.pem"))


def test_it_is_kept_until_the_names_change_or_its_end_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = settings(tmp_path, "head")
    first = certificates.ensure(here)
    assert certificates.ensure(here) == first
    authority = certificates.authority(here)
    assert certificates.ensure(settings(tmp_path, "head", "api.example.org")) != first
    second = certificates.ensure(here)
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=certificates.DAYS - 10)
    monkeypatch.setattr(certificates, "_now", lambda: later)
    renewed = certificates.ensure(here)
    assert renewed != second
    assert certificates.authority(here) == authority, "clients still trust it"
    assert x509.load_pem_x509_certificate(renewed.encode()).not_valid_after_utc > later


def test_the_site_s_own_is_taken_as_it_is(tmp_path: Path) -> None:
    made = certificates.ensure(settings(tmp_path / "other", "api.example.org"))
    certificate, _, key = made.partition("-----BEGIN PRIVATE KEY")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "site_certificate.pem").write_text(certificate)
    (secrets / "site_key.pem").write_text("-----BEGIN PRIVATE KEY" + key)
    site = settings(tmp_path, "head", site_certificate=True)
    assert certificates.ensure(site) == made
    assert certificates.authority(site) == ""
    other = certificates.ensure(settings(tmp_path / "third"))
    (secrets / "site_key.pem").write_text("-----BEGIN PRIVATE KEY" + other.partition("-----BEGIN PRIVATE KEY")[2])
    with pytest.raises(UserError, match="does not belong to the key"):
        certificates.ensure(site)
    (secrets / "site_certificate.pem").write_text("x")
    with pytest.raises(UserError, match="cannot be read"):
        certificates.ensure(site)


def test_nodes_know_each_other_and_nobody_else(tmp_path: Path) -> None:
    here = Settings(home=tmp_path)
    issued = {name: certificates.node(here, name, address) for name, address in (("a", "10.0.0.1"), ("b", "10.0.0.2"))}
    assert certificates.node(here, "a", "10.0.0.1") == issued["a"] != certificates.node(here, "a", "10.0.0.9")
    (tmp_path / "ca.pem").write_text(certificates.node_authority(here))
    for name, pem in issued.items():
        (tmp_path / f"{name}.pem").write_text(pem)
    assert meet(tmp_path, "b.pem") == "known"
    outsider = Settings(home=tmp_path / "outsider")
    (tmp_path / "outsider.pem").write_text(certificates.node(outsider, "b", "10.0.0.2"))
    assert meet(tmp_path, "outsider.pem") == "refused"


def meet(tmp_path: Path, client: str) -> str:
    """Whether node ``a`` lets in who shows the certificate of the file ``client``, and is known to it."""
    sides = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)]
    for context, file in zip(sides, ("a.pem", client), strict=True):
        context.load_cert_chain(tmp_path / file)
        context.load_verify_locations(tmp_path / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    here, there = socket.socketpair()
    met = []

    def serve() -> None:
        try:
            with sides[0].wrap_socket(there, server_side=True) as connection:
                connection.recv(1)
                met.append("known")
        except OSError:
            met.append("refused")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with sides[1].wrap_socket(here, server_hostname="10.0.0.1") as connection:
            connection.sendall(b"x")
            thread.join()
    except OSError:
        thread.join()
    return met[0]
