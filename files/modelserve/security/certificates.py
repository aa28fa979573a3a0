"""The certificates of gateways and nodes: the site's own, or those of a CA that the cluster made."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from modelserve.errors import Problem, UserError
from modelserve.settings import Settings
from modelserve.util.files import write_atomically

CA_DAYS = 3650
DAYS = 397  # the longest that browsers accept
RENEW_DAYS = 30
_DAY = datetime.timedelta(days=1)


def ensure(settings: Settings) -> str:
    """Return the gateway's certificate and key from ``<home>/secrets``; issue or renew them where needed.

    Where the settings say so, these are the site's own: ``site_certificate.pem`` and ``site_key.pem``. Else the
    cluster's CA (``ca.pem`` and ``ca_key.pem``, made once) issues a certificate for the names of all gateways. It is
    valid for 397 days, and renewed 30 days before it expires and when the names change.

    Args:
        settings: the head's settings.

    Returns:
        PEM as HAProxy reads it: the certificate with its chain, then the key.

    Raises:
        UserError: the site's own certificate and key do not match, or the certificate has expired.
    """
    secrets = settings.home / "secrets"
    if settings.site_certificate:
        return _site(secrets / "site_certificate.pem", secrets / "site_key.pem")
    remote = {name.replace("_", "-") for name in settings.gateways}
    remote |= {gateway.address for gateway in settings.gateways.values()}
    names = sorted({*settings.gateway_names, *remote, "localhost", "127.0.0.1", "::1"})
    file = secrets / "gateway.pem"
    if not (file.exists() and _is_current(file.read_bytes(), names)):
        ca, ca_key = _authority(secrets)
        server = [ExtendedKeyUsageOID.SERVER_AUTH]
        write_atomically(file, _issue(ca, ca_key, names, "modelserve gateway", server, DAYS), 0o600)
    return file.read_text()


def node(settings: Settings, name: str, address: str) -> str:
    """Return a node's certificate and key, with which Ray's processes authenticate each other.

    They lie in ``<home>/secrets/nodes``. The CA issues them for ten years, and again when the address changes.

    Args:
        settings: the head's settings.
        name: the node's name in the inventory.
        address: the node's address in the cluster.

    Returns:
        PEM: the certificate, then the key.
    """
    secrets = settings.home / "secrets"
    file = secrets / "nodes" / f"{name}.pem"
    names = sorted({address, "localhost", "127.0.0.1"})
    if not (file.exists() and _is_current(file.read_bytes(), names)):
        ca, ca_key = _authority(secrets)
        # Ray's processes are clients and servers with the same certificate.
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        write_atomically(file, _issue(ca, ca_key, names, f"modelserve node {name}", both, CA_DAYS), 0o600)
    return file.read_text()


def node_authority(settings: Settings) -> str:
    """Return the CA's certificate (PEM), which the nodes trust."""
    return (settings.home / "secrets" / "ca.pem").read_text()


def authority(settings: Settings) -> str:
    """Return the CA's certificate (PEM) for clients to trust; empty where it did not issue the gateway's."""
    file = settings.home / "secrets" / "ca.pem"
    used = settings.gateway_tls and not settings.site_certificate
    return file.read_text() if used and file.exists() else ""


def _site(certificate: Path, key: Path) -> str:
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            Problem(f"cannot be read: {error}", "Check modelserve_gateway_certificate and _key", str(certificate))
        ) from None
    if private.public_key() != loaded.public_key():
        raise UserError(Problem("does not belong to the key", "Check modelserve_gateway_key", str(certificate)))
    if loaded.not_valid_after_utc < _now():
        raise UserError(
            Problem(f"expired on {loaded.not_valid_after_utc:%Y-%m-%d}", "Renew it, then deploy", str(certificate))
        )
    return f"{certificate.read_text().rstrip()}\n{key.read_text()}"


def _is_current(pem: bytes, names: list[str]) -> bool:
    certificate = x509.load_pem_x509_certificate(pem)
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    there = sorted(str(getattr(name, "value", name)) for name in extension)
    return there == names and certificate.not_valid_after_utc - _now() > RENEW_DAYS * _DAY


def _authority(secrets: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    file, key_file = secrets / "ca.pem", secrets / "ca_key.pem"
    if not file.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("modelserve cluster CA")
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = (
            _builder(name, name, key, CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_atomically(key_file, _pem(key), 0o600)
        write_atomically(file, certificate.public_bytes(serialization.Encoding.PEM).decode(), 0o644)
    loaded = serialization.load_pem_private_key(key_file.read_bytes(), None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise UserError(Problem("is not the key modelserve made", "Remove it and ca.pem", str(key_file)))
    return x509.load_pem_x509_certificate(file.read_bytes()), loaded


def _issue(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    names: list[str],
    common: str,
    usage: list[x509.ObjectIdentifier],
    days: int,
) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(_name(common), ca.subject, key, days)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode() + _pem(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - _DAY)  # clocks differ
        .not_valid_after(_now() + days * _DAY)
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
