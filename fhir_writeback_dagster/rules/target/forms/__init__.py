"""What a vendor's own API has a place for: one module for each that FHIR cannot write, named as its adapter.

decide asks it before it approves, and the adapter makes its request of it: so both say the same.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from fhir_writeback_dagster.rules.target.matrix import Vendor


class Unwritable(Exception):
    """The form has no place for what the payload says, or would say something else; ``code`` is the reason."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def fields(vendor: Vendor, payload: dict[str, Any]) -> dict[str, str]:
    """The form that says ``payload``, without what the tenant's settings and the patient add to it.

    :raises Unwritable: no form says it.
    """
    module = import_module(f"{__name__}.{vendor.module}")
    return cast("dict[str, str]", module.fields(vendor, payload))
