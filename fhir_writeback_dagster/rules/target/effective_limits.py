"""How hard a target is driven, and how long it is left alone after a silence: the tenant's word beside its vendor's matrix."""

from __future__ import annotations

from datetime import timedelta

from fhir_writeback_dagster.config.tenants import EhrSettings, LimitSettings
from fhir_writeback_dagster.rules.target.matrix import load_vendor


def limits_of(ehr: EhrSettings) -> LimitSettings:
    """``ehr.limits``, with the vendor's windows where the tenant names no limit itself (``per_minute: null`` names one: none).

    :raises ConfigError: the tenant names a vendor that has no matrix.
    """
    windows = load_vendor(ehr.vendor).limits.windows.get(())
    defaults = {f"per_{window.per}": window.requests for window in windows}
    return ehr.limits.model_copy(update={k: v for k, v in defaults.items() if k not in ehr.limits.model_fields_set})


def quiet_of(ehr: EhrSettings) -> timedelta:
    """``ehr.quiet``, or as long as a write can be missing from the vendor's searches, whichever is longer: a look that comes
    before would prove an absence that is none.

    :raises ConfigError: the tenant names a vendor that has no matrix.
    """
    return max(ehr.quiet, timedelta(seconds=load_vendor(ehr.vendor).reads.search_lag_s.get(0.0)))
