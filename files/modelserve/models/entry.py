"""One entry of models.yml: a model file and where it comes from."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Model(BaseModel):
    """One model file and where it comes from: exactly one of ``wheel`` (with ``member``), ``url`` and ``path``.

    A ``signature`` is verified with ``public_key`` or ``certificate``: see :mod:`modelserve.models.signatures`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(pattern=r"^[^/]*[^/.][^/]*$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    wheel: str = ""
    member: str = ""
    url: str = Field("", pattern=r"^(https?://.*)?$")
    path: str = ""
    signature: str = ""
    public_key: str = ""
    certificate: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> Model:
        if sum(map(bool, (self.wheel, self.url, self.path))) != 1:
            raise ValueError("needs exactly one of 'wheel', 'url' and 'path'")
        if bool(self.wheel) != bool(self.member):
            raise ValueError("'wheel' and 'member' go together")
        if sum(map(bool, (self.public_key, self.certificate))) != bool(self.signature):
            raise ValueError("'signature' goes with exactly one of 'public_key' and 'certificate'")
        for name in (self.signature, self.public_key, self.certificate):
            if name.startswith("/") or ".." in name.split("/"):  # only Model_ZOO is copied to the head
                raise ValueError(f"'{name}' must be a file in Model_ZOO, or below")
        return self
