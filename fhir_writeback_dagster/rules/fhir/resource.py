"""What a FHIR resource is in this package: JSON as it was parsed, decimals kept as :class:`decimal.Decimal`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Resource = dict[str, Any]
ReadResource = Mapping[str, Any]
"""A resource that is only looked at."""
