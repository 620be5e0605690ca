"""Secrets by reference: configuration says where a secret is, a layer reads it when it uses it, nothing keeps it in text.

``env:NAME`` reads a variable of the process's own environment — the way that gives a secret to one layer only;
``file:///absolute/path`` or ``file://relative/to/home`` reads a file that only its owner may read; ``vault:mount/path#key`` and
``aws-sm:id#stage`` ask a secrets manager (`secretstores`).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from fhir_writeback_dagster.config.secret_managers import STORES
from fhir_writeback_dagster.errors import SecretError


class Secret:
    """A secret value that no repr, log or format can show; ``reveal`` is the one way out."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a secret is never pickled")

    def reveal(self) -> bytes:
        return self._value

    def key(self) -> bytes:
        """The value as a 32-byte key written in base64."""
        try:
            raw = base64.b64decode(self._value.strip(), validate=True)
        except binascii.Error:
            raw = b""
        if len(raw) != 32:
            raise SecretError("bad_key", "expected 32 bytes in base64", fix="make one: openssl rand -base64 32") from None
        return raw


_FORMS = re.compile(r"env:[A-Za-z_]\w*|file://.+|vault:[^/#\s]+/[^#\s]+#[^#\s]+|aws-sm:[^#\s]+(#[^#\s]+)?")


def _known_scheme(reference: str) -> str:
    if not _FORMS.fullmatch(reference):
        raise ValueError("expected a secret reference: env:NAME, file://path, vault:mount/path#key or aws-sm:id#stage")
    return reference


SecretRef = Annotated[str, AfterValidator(_known_scheme)]


def resolve(reference: str, home: Path) -> Secret:
    """Read the secret that ``reference`` names.

    :raises SecretError: not set, not there, refused, or a file that others may read; the text holds the reference only.
    """
    if reference.startswith("env:"):
        name = reference[4:]
        value = os.environb.get(name.encode())
        if not value:
            raise SecretError(
                "secret_missing",
                f"{reference} is not set in this process",
                fix=f"set {name} in .env, or in this layer's environment",
            )
        return Secret(value)
    for scheme, read in STORES.items():
        if reference.startswith(scheme):
            return Secret(read(reference))
    path = home / reference.removeprefix("file://")
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SecretError("secret_exposed", f"{reference} can be read by others", fix="chmod 600 the file")
        return Secret(path.read_bytes())
    except OSError as error:
        raise SecretError(
            "secret_missing", f"{reference}: {type(error).__name__}", fix="put the secret there, readable by this user"
        ) from None
