"""Who made a model is asked of real signatures: made by model-signing, by keys and certificates made here."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from model_signing import hashing as signed_hashing
from model_signing import signing
from modelserve import hashing
from modelserve.errors import Problem, UserError
from modelserve.models import zoo as models

FILES = {"net.onnx": b"weights" * 1000, "words.json": b"{}"}


class Zoo:
    """A Model_ZOO with signed models, and the keys that are no part of it."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "Model_ZOO"
        self.aside = root / "aside"
        for directory in (self.directory / "keys", self.aside):
            directory.mkdir(parents=True)
        for file, content in FILES.items():
            (self.directory / file).write_bytes(content)
        for name in ("team", "other"):
            self.key(name)
        self.signer = signing.Config().use_elliptic_key_signer(private_key=self.aside / "team.pem")

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """A key pair: ``keys/<name>.pem`` in the zoo, the private one beside."""
        made = ec.generate_private_key(ec.SECP256R1())
        (self.directory / "keys" / f"{name}.pem").write_bytes(
            made.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (self.aside / f"{name}.pem").write_bytes(made.private_bytes(*form))
        return made

    def sign(self, *files: str, signature: str = "model.sig", by: signing.Config | None = None) -> None:
        """Sign a directory of these files; one alone is signed as a file."""
        if len(files) == 1:
            (by or self.signer).sign(self.directory / files[0], self.directory / signature)
            return
        published = self.aside / "published"
        published.mkdir(exist_ok=True)
        for file in files:
            (published / file).write_bytes((self.directory / file).read_bytes())
        (by or self.signer).sign(published, self.directory / signature)

    def describe(self, *files: str, **more: str) -> None:
        """Entries for these files, with a signature by the team's key, or as ``more`` says."""
        signed = {
            "signature": "model.sig",
            **({} if "certificate" in more else {"public_key": "keys/team.pem"}),
            **more,
        }
        entries = []
        for file in files:
            content = self.directory / file
            sha256 = hashlib.sha256(content.read_bytes()).hexdigest()
            entries.append({"file": file, "sha256": sha256, "path": f"Model_ZOO/{file}", **signed})
        (self.directory / "models.yml").write_text(yaml.safe_dump(entries))

    def fetch(self) -> list[str]:
        return models.fetch(self.directory, lambda line: None)

    def refused(self) -> Problem:
        """What both the operator's machine and the head's say: one problem, in one line, the same."""
        said = []
        for ask in (self.fetch, self.apply):
            with pytest.raises(UserError) as caught:
                ask()
            (problem,) = caught.value.problems
            said.append(problem)
        assert said[0] == said[1]
        assert said[0].file == "Model_ZOO/models.yml"
        assert said[0].fix
        assert "\n" not in str(said[0])
        return said[0]

    def apply(self, *used: str, verified: Path | None = None) -> None:
        models.require_described(self.directory, used or FILES, hashing.of_model, verified)


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Zoo(tmp_path)


@pytest.fixture
def both(zoo: Zoo) -> Zoo:
    zoo.sign(*FILES)
    zoo.describe(*FILES)
    return zoo


def test_a_signature_over_a_directory_is_verified(both: Zoo, capsys: pytest.CaptureFixture[str]) -> None:
    assert both.fetch() == []
    both.apply()
    assert capsys.readouterr().out == "", "standard output carries a document"


def test_a_signature_over_one_file_is_verified(zoo: Zoo) -> None:
    zoo.sign("net.onnx")
    zoo.describe("net.onnx")
    assert zoo.fetch() == []
    zoo.apply()


def test_what_was_changed_is_refused_though_its_sha256_was_changed_with_it(both: Zoo) -> None:
    (both.directory / "net.onnx").write_bytes(b"Weights" * 1000)
    both.describe(*FILES)
    problem = both.refused()
    assert (problem.section, problem.message) == (
        "net.onnx, words.json",
        "model.sig is of other content than the file has",
    )


def test_another_s_signature_is_refused(both: Zoo) -> None:
    both.describe(*FILES, public_key="keys/other.pem")
    assert both.refused().message == "model.sig was not made by Model_ZOO/keys/other.pem, or was changed since"


def document(zoo: Zoo) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((zoo.directory / "model.sig").read_text())
    return found


def test_a_signature_that_was_changed_is_refused(both: Zoo) -> None:
    (both.directory / "net.onnx").write_bytes(b"other")
    both.describe(*FILES)
    signature = document(both)
    payload = base64.b64decode(signature["dsseEnvelope"]["payload"]).decode()
    was, now = (hashlib.sha256(content).hexdigest() for content in (FILES["net.onnx"], b"other"))
    assert was in payload
    signature["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(was, now).encode()).decode()
    (both.directory / "model.sig").write_text(json.dumps(signature))
    assert "was not made by Model_ZOO/keys/team.pem, or was changed since" in both.refused().message


def test_what_the_signature_does_not_cover_is_refused(zoo: Zoo) -> None:
    (zoo.directory / "more.json").write_text("[]")
    zoo.sign(*FILES)
    zoo.describe(*FILES, "more.json")
    problem = zoo.refused()
    assert (problem.section, problem.message) == (
        "more.json",
        "model.sig does not cover this file, but net.onnx, words.json",
    )


def test_a_signature_that_covers_more_than_is_described_is_refused(zoo: Zoo) -> None:
    zoo.sign(*FILES)
    zoo.describe("net.onnx")
    assert "covers words.json too, which no entry" in zoo.refused().message


@pytest.mark.parametrize("text", ["", "hello", "{}", '{"dsseEnvelope": {"payload": "e30="}}', "[1]"])
def test_what_is_no_signature_is_named(both: Zoo, text: str) -> None:
    (both.directory / "model.sig").write_text(text)
    assert "model.sig is not a signature of model-signing" in both.refused().message


@pytest.mark.parametrize("missing", ["model.sig", "keys/team.pem"])
def test_what_is_not_there_is_named(both: Zoo, missing: str) -> None:
    (both.directory / missing).unlink()
    assert f"there is no Model_ZOO/{missing}" in both.refused().message


def test_a_key_that_is_none_is_named(both: Zoo) -> None:
    (both.directory / "keys" / "team.pem").write_text("my key\n")
    assert "Model_ZOO/keys/team.pem cannot be used" in both.refused().message


def test_a_signature_over_parts_of_files_is_named(zoo: Zoo) -> None:
    parts = signed_hashing.Config().use_shard_serialization()
    zoo.sign(*FILES, by=zoo.signer.set_hashing_config(parts))
    zoo.describe(*FILES)
    assert "model.sig was made over parts of files" in zoo.refused().message


def test_without_the_library_the_way_out_is_said(both: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    assert "this Python has no model_signing" in both.refused().message


def test_unsigned_models_need_no_library(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    zoo.describe(*FILES, signature="", public_key="")
    zoo.fetch()
    zoo.apply()


def test_what_is_not_used_is_not_verified_on_the_head(both: Zoo) -> None:
    (both.directory / "model.sig").unlink()
    both.apply("something_else")


def test_a_signature_is_verified_once_per_content_key_and_signature(
    both: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = tmp_path / "signatures.json"
    both.apply(verified=verified)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "model_signing", None)
        both.apply(verified=verified)
        both.describe(*FILES, public_key="keys/other.pem")
        with pytest.raises(UserError, match="this Python has no model_signing"):
            both.apply(verified=verified)
    with pytest.raises(UserError, match="was not made by"):
        both.apply(verified=verified)
    verified.write_text("[")
    both.describe(*FILES)
    both.apply(verified=verified)


def certify(zoo: Zoo, name: str, authority: str, usage: bool = True) -> signing.Config:
    """Who signs with a certificate that the authority issued."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject: str, issuer: str, ca: bool) -> x509.Certificate:
        key = serialization.load_pem_public_key((zoo.directory / "keys" / f"{subject}.pem").read_bytes())
        by = serialization.load_pem_private_key((zoo.aside / f"{issuer}.pem").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(by, ec.EllipticCurvePrivateKey)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if usage:
            flags = dict.fromkeys(
                ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
            )
            flags |= {"digital_signature": not ca, "key_cert_sign": ca, "crl_sign": ca, "decipher_only": False}
            builder = builder.add_extension(x509.KeyUsage(**flags), critical=True)
        return builder.sign(by, hashes.SHA256())

    for subject, ca in ((authority, True), (name, False)):
        pem = certificate(subject, authority, ca).public_bytes(serialization.Encoding.PEM)
        (zoo.directory / "keys" / f"{subject}.crt").write_bytes(pem)
    return signing.Config().use_certificate_signer(
        private_key=zoo.aside / f"{name}.pem",
        signing_certificate=zoo.directory / "keys" / f"{name}.crt",
        certificate_chain=[zoo.directory / "keys" / f"{authority}.crt"],
    )


@pytest.fixture
def authority(zoo: Zoo) -> Zoo:
    zoo.key("authority")
    zoo.key("outsider")
    return zoo


def test_who_was_certified_by_the_authority_may_sign(authority: Zoo) -> None:
    authority.sign(*FILES, by=certify(authority, "team", "authority"))
    authority.describe(*FILES, certificate="keys/authority.crt")
    assert authority.fetch() == []
    authority.apply()
    (authority.directory / "net.onnx").write_bytes(b"other")
    authority.describe(*FILES, certificate="keys/authority.crt")
    assert "is of other content" in authority.refused().message


def test_who_was_certified_by_another_may_not(authority: Zoo) -> None:
    certify(authority, "team", "authority")
    authority.sign(*FILES, by=certify(authority, "other", "outsider"))
    authority.describe(*FILES, certificate="keys/authority.crt")
    assert "by a signer that Model_ZOO/keys/authority.crt does not certify" in authority.refused().message


def test_a_certificate_that_is_not_for_signing_is_named(authority: Zoo) -> None:
    authority.sign(*FILES, by=certify(authority, "team", "authority", usage=False))
    authority.describe(*FILES, certificate="keys/authority.crt")
    assert "cannot be used for signing" in authority.refused().message


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"signature": "a.sig"}, "exactly one of 'public_key' and 'certificate'"),
        ({"public_key": "a.pem"}, "exactly one of 'public_key' and 'certificate'"),
        ({"signature": "a.sig", "public_key": "a", "certificate": "b"}, "exactly one of 'public_key' and"),
        ({"signature": "../a.sig", "public_key": "a"}, "'../a.sig' must be a file in Model_ZOO, or below"),
        ({"signature": "a.sig", "public_key": "/etc/a.pem"}, "'/etc/a.pem' must be a file in Model_ZOO"),
        ({"signature": "a.sig", "certificate": "a/../../b"}, "must be a file in Model_ZOO"),
    ],
)
def test_a_wrong_entry_is_refused(zoo: Zoo, more: dict[str, str], words: str) -> None:
    entry = {"file": "net.onnx", "sha256": "0" * 64, "path": "x", **more}
    (zoo.directory / "models.yml").write_text(yaml.safe_dump([entry]))
    with pytest.raises(UserError) as caught:
        models.read(zoo.directory)
    assert words in str(caught.value)


def test_a_signature_over_a_model_that_is_a_directory_covers_all_of_its_files(zoo: Zoo) -> None:
    bert = zoo.directory / "bert"
    bert.mkdir()
    (bert / "weights").write_bytes(b"weights")
    zoo.signer.sign(bert, zoo.directory / "model.sig")

    def describe() -> None:
        entry = {"directory": "bert", "sha256": hashing.of_model(bert), "path": "Model_ZOO/bert"}
        signed = {"signature": "model.sig", "public_key": "keys/team.pem"}
        (zoo.directory / "models.yml").write_text(yaml.safe_dump([entry | signed]))

    describe()
    assert zoo.fetch() == []
    zoo.apply("bert")
    (bert / "more").write_text("unsigned")
    describe()
    for ask in (zoo.fetch, lambda: zoo.apply("bert")):
        with pytest.raises(UserError, match=r"models.yml \[bert\]: model.sig"):
            ask()
