"""Secrets managers behind secret references: HashiCorp Vault (or OpenBao) and AWS Secrets Manager.

Each is an extra (`pip install 'fhir-writeback-dagster[vault]'`, `[aws]`) and is imported only when a reference names it. Where
the manager is and who we are to it comes from its own usual environment (``VAULT_ADDR`` and ``VAULT_TOKEN``; AWS's chain of
credentials): a layer that is not given these cannot read there. Nothing is cached: whoever asks gets what stands there now.

No exception of theirs is kept as a cause, since its text or its frames may hold what was read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from fhir_writeback_dagster.errors import SecretError

SECONDS = 10
CURRENT = "AWSCURRENT"


def read_vault(reference: str) -> bytes:
    """``vault:mount/path#key``: one key of the latest version of a KV version 2 secret.

    :raises SecretError: hvac is not installed, Vault is not configured or refuses, or there is no such secret or key.
    """
    place, _, key = reference.removeprefix("vault:").partition("#")
    mount, _, path = place.partition("/")
    try:
        import hvac
        from requests import Session
    except ImportError:
        raise _not_installed(reference, "vault") from None
    address, token = os.environ.get("VAULT_ADDR"), os.environ.get("VAULT_TOKEN")
    if not address or not token:
        raise SecretError(
            "vault_not_configured",
            f"{reference}: VAULT_ADDR or VAULT_TOKEN is not set in this process",
            fix="give both to this layer's environment; a Vault agent renews the token",
        )
    with Session() as session:
        session.trust_env = False  # no proxies from the environment: a secret goes nowhere by accident
        client = hvac.Client(
            url=address, token=token, timeout=SECONDS, session=session, verify=os.environ.get("VAULT_CACERT") or True
        )
        try:
            answer = client.secrets.kv.v2.read_secret_version(path=path, mount_point=mount, raise_on_deleted_version=True)
            value = answer["data"]["data"].get(key)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing of it may be told but its class
            raise _unread(reference, error) from None
    if not isinstance(value, str) or not value:
        raise SecretError("secret_missing", f"{reference}: the secret has no such key", fix="name one of its keys after the #")
    return value.encode()


def read_aws(reference: str) -> bytes:
    """``aws-sm:id#stage``: a secret by name or ARN; without a stage the current version.

    :raises SecretError: boto3 is not installed, AWS refuses, or there is no such secret.
    """
    secret, _, stage = reference.removeprefix("aws-sm:").partition("#")
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise _not_installed(reference, "aws") from None
    logging.getLogger("botocore").setLevel(logging.INFO)  # at DEBUG it logs whole answers
    config = Config(connect_timeout=SECONDS, read_timeout=SECONDS, retries={"total_max_attempts": 3})
    try:
        client = boto3.session.Session().client("secretsmanager", config=config)
        answer = client.get_secret_value(SecretId=secret, VersionStage=stage or CURRENT)
        value = answer.get("SecretString") or answer.get("SecretBinary")
    except Exception as error:  # noqa: BLE001 - whatever it is, nothing of it may be told but its class
        raise _unread(reference, error) from None
    if not value:
        raise SecretError("secret_missing", f"{reference} is empty", fix="put the secret there")
    return value.encode() if isinstance(value, str) else bytes(value)


STORES: dict[str, Callable[[str], bytes]] = {"vault:": read_vault, "aws-sm:": read_aws}


REACHED_BY = {
    "vault:": {"VAULT_ADDR": True, "VAULT_TOKEN": True, "VAULT_CACERT": False},
    "aws-sm:": dict.fromkeys(
        (
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AWS_PROFILE",
            "AWS_REGION",
            "AWS_DEFAULT_REGION",
            "AWS_ROLE_ARN",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CA_BUNDLE",
            "AWS_ENDPOINT_URL_SECRETS_MANAGER",
        ),
        False,
    ),
}
"""The variables that each scheme reads, and whether it cannot do without (a machine's role needs none of AWS's)."""


def _not_installed(reference: str, extra: str) -> SecretError:
    return SecretError(
        "store_not_installed",
        f"{reference}: the client of this secrets manager is not installed",
        fix=f"install the extra `{extra}`",
    )


def _unread(reference: str, error: Exception) -> SecretError:
    response = getattr(error, "response", None)  # botocore's: its code is one of a fixed list
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    told = code if isinstance(code, str) and code.isalnum() else type(error).__name__
    return SecretError("secret_unread", f"{reference}: {told}", fix="is it there, and may this layer read it?")
