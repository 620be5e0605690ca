"""A tenant is one file, ``tenants/<tenant>.yaml``; it is read when a run needs it, never at import."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field

from fhir_writeback_dagster.config.secrets import SecretRef
from fhir_writeback_dagster.config.strict_model import StrictModel
from fhir_writeback_dagster.config.yaml_file import load_yaml
from fhir_writeback_dagster.errors import ConfigError

TENANT_ID = re.compile(r"[a-z][a-z0-9_-]{0,30}")

Mode = Literal["off", "shadow", "review_all", "sampled", "auto"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


_LONGEST_S = 36_500 * 86_400  # a moment so far from now is still a date


def _duration(value: object) -> object:
    match = re.fullmatch(r"(\d+)([smhd])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a duration such as 90s, 15m, 24h or 30d")
    seconds = int(match[1]) * _UNITS[match[2]] if len(match[1]) <= len(str(_LONGEST_S)) else _LONGEST_S + 1
    if seconds > _LONGEST_S:
        raise ValueError("expected at most 36500d")
    return timedelta(seconds=seconds)


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError):
        raise ValueError("expected an IANA time zone such as Europe/Zurich") from None
    return name


Duration = Annotated[timedelta, BeforeValidator(_duration)]
TimeZone = Annotated[str, AfterValidator(_zone)]


class AuthSettings(StrictModel):
    """Who we are to the EHR: SMART Backend Services (HL7 SMART App Launch 2.2, client-confidential-asymmetric), a client secret,
    our TLS certificate (RFC 8705), or none for a sandbox. See docs/adding-an-ehr.md.
    """

    type: Literal["smart_backend", "client_secret", "mtls", "none"]
    client_id: str = ""
    private_key: SecretRef | None = Field(None, description="a private JWK, or a JWKS with one current (RS384 or ES384)")
    client_secret: SecretRef | None = None
    secret_in: Literal["basic", "post"] = Field("basic", description="RFC 6749, 2.3.1: in the header, or in the form")
    certificate: SecretRef | None = Field(None, description="PEM of our certificate and its key, also beside another type")
    token_endpoint: str | None = Field(None, pattern=r"^https?://\S+$", description="where the EHR does not say it itself")
    audience: str | None = Field(
        None,
        pattern=r"^(issuer|https?://\S+)$",
        description="`aud` of our assertion: a URL, or `issuer` for the issuer that smart-configuration names; left out: the "
        "token endpoint, as SMART says",
    )
    scopes: tuple[str, ...] = Field((), description="none: the least that the mappings need")

    @property
    def references(self) -> tuple[SecretRef, ...]:
        """Every secret that it names."""
        return tuple(one for one in (self.private_key, self.client_secret, self.certificate) if one)


class Blackout(StrictModel):
    """A time of the week, in the tenant's zone, in which the target is left alone; ``to`` before ``from`` ends the next day."""

    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = (
        "mon", "tue", "wed", "thu", "fri", "sat", "sun",
    )  # fmt: skip
    begin: str = Field(alias="from", pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description='"22:30", in quotes')
    end: str = Field(alias="to", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")


class LimitSettings(StrictModel):
    """How hard the target may be driven, over all runs of this tenant; None: no limit. What is left out of the requests a second
    and a minute is as the vendor's matrix says (`rules.tempo`). See docs/engine.md.
    """

    per_second: int | None = Field(None, ge=1, description="requests, tokens included")
    per_minute: int | None = Field(None, ge=1, description="requests in a calendar minute, tokens included")
    points_per_minute: int | None = Field(None, ge=1, description="where requests are weighed by what they cost the target")
    points: dict[Literal["write", "search", "read"], int] = Field({"write": 1, "search": 1, "read": 1})
    blackouts: tuple[Blackout, ...] = ()
    priorities: dict[str, int] = Field(default_factory=dict, description="of a kind; the lowest goes first, others have 100")
    writes_per_day: int | None = Field(100_000, ge=1, description="a person has to release what exceeds it")
    times_usual: float | None = Field(None, gt=1, description="the same, in times of the average day of the last two weeks")


class EhrSettings(StrictModel):
    target: str = Field("ehr", pattern=r"^[a-z][a-z0-9_-]{0,30}$", description="name of this EHR within the tenant")
    vendor: str = Field("generic", description="one of docs/compatibility.md")
    vendor_settings: dict[str, str] = Field(default_factory=dict, description="what its adapter asks for; docs/adding-an-ehr.md")
    base_url: str = Field(pattern=r"^https?://[^\s?#]+[^/\s?#]$", description="FHIR base, without a slash at its end")
    also_at: tuple[Annotated[str, Field(pattern=r"^https?://[^\s?#]+[^/\s?#]$")], ...] = Field(
        (),
        description="other bases under which this EHR names its own resources in references: a former host, or a proxy's",
    )
    sandbox: bool = Field(False, description="only a sandbox may be reached by http or at a private address")
    ca_file: str | None = Field(None, description="PEM of the EHR's own authority, where the usual ones do not vouch for it")
    auth: AuthSettings
    timeout: Duration = timedelta(seconds=30)
    quiet: Duration = Field(
        timedelta(seconds=60),
        description="after a send without an answer nothing is looked up or sent again for this long: longer than the EHR "
        "needs to finish a request. A lag of its searches that the vendor's matrix knows lengthens it (`rules.tempo`)",
    )
    concurrency: int = Field(8, ge=1, le=64)
    bundle_size: int = Field(1, ge=1, le=500, description="writes that may share a request; 1 sends each by itself")
    bundle: Literal["batch", "transaction"] = Field(
        "batch", description="how they share it: a transaction is faster where the EHR is, but one bad entry sends all again"
    )
    most_pages: int = Field(10_000, ge=1, description="pages of one search; a longer one is not believed to end")
    mirror_every: Duration = timedelta(minutes=5)
    mirror_complete_every: Duration = Field(
        timedelta(hours=24),
        description="how often patients and encounters are listed completely, because a poll sees only what the EHR dates as it "
        "should; consents are as often as `consent.max_age` promises",
    )
    pending_ttl: Duration = Field(
        timedelta(days=7),
        description="how long after its send a submission may be mediated (202), or a look for one without an answer be refused, "
        "until a person is asked",
    )
    refused_ttl: Duration = Field(
        timedelta(hours=24),
        description="how long the EHR may refuse what has to be read before a write (the patient's chart, what stands there), "
        "counted from the first refusal, until a person is asked; `pending_ttl` where it answers nobody",
    )
    limits: LimitSettings = LimitSettings()

    @property
    def bases(self) -> tuple[str, ...]:
        """The URLs under which the EHR names its own resources."""
        return (self.base_url, *self.also_at)


class KeySettings(StrictModel):
    """Both are 32 bytes in base64; ``identity`` lists its generations, the newest first, and none is ever dropped."""

    sealing: SecretRef
    identity: tuple[SecretRef, ...] = Field(min_length=1)


class SourceUse(StrictModel):
    version: int = Field(ge=1)
    landing: str = Field(description="folder or URL of the landing zone; relative to the home folder")
    complete_by: Literal["rename", "manifest", "stable_size"] = "rename"
    patient_systems: dict[str, str] = Field(
        default_factory=dict, description="identifier system of each patient identifier that the contract names"
    )
    choices: dict[str, str] = Field(
        default_factory=dict, description="words for what the source cannot say, of those that its contract offers"
    )
    relative_references: Literal["sender", "ehr"] = Field(
        "sender",
        description="FHIR input: whose resource `Patient/1` is where the file does not hold it; ehr: this tenant's EHR's own",
    )


class ModeSettings(StrictModel):
    """Changed by ``fhir-writeback mode set``, or by hand; either way the change is audited (docs/modes.md)."""

    default: Mode = "off"
    by_type: dict[str, Mode] = Field(default_factory=dict)
    sample: float = Field(0.1, ge=0, le=1, description="share of the writes that a person sees under `sampled`")

    def of(self, resource_type: str) -> Mode:
        return self.by_type.get(resource_type, self.default)


class ConsentSettings(StrictModel):
    source: Literal["ehr", "organisation"] = "ehr"
    none_found: Literal["permit", "review", "deny"] = "review"
    max_age: Duration = timedelta(minutes=15)
    purpose: str = "TREAT"
    actor: str | None = Field(None, description="reference of our organisation, as consents name it")
    dates: Literal["any_zone", "tenant_zone"] = Field(
        "any_zone", description="where a day in a consent's period lies: in any zone, or in `time_zone`; docs/consent.md"
    )


class MatchingSettings(StrictModel):
    """Rows that no identifier brings to a patient: may demographics? See docs/matching.md before turning it on."""

    probabilistic: Literal["off", "review", "auto"] = "off"
    auto: float = Field(0.999, ge=0.9, lt=1, description="probability from which a match may be automatic")
    review: float = Field(0.01, gt=0, lt=0.9, description="probability from which a person is asked; below, the row waits")
    weights: str | None = Field(None, description="file of `match learn`, below the home folder; left out: the set ones")
    encounter_by_time: bool = Field(
        False, description="a row that names no encounter gets the patient's only one that holds its time, without a person"
    )


class Tenant(StrictModel):
    tenant: str
    name: str = ""
    time_zone: TimeZone
    identifier_system: str = Field(description="URI that the tenant owns; system of every business key", pattern=r"^\S+:\S+$")
    ehr: EhrSettings
    keys: KeySettings
    sources: dict[str, SourceUse] = Field(min_length=1)
    mappings: dict[str, int] = Field(description="version of the mapping of each kind that this tenant runs")
    labels: int = Field(1, ge=1, description="version of the list that says which codes and ages are sensitive; docs/consent.md")
    modes: ModeSettings = ModeSettings()
    consent: ConsentSettings = ConsentSettings()
    matching: MatchingSettings = MatchingSettings()
    policies: tuple[str, ...] = ("baseline",)
    closed_encounter: Literal["review", "permit"] = Field(
        "review", description="orders and notes for a closed encounter; permit is for loading a past that is over"
    )
    waiting_ttl: Duration = timedelta(days=30)
    verdict_ttl: Duration = timedelta(hours=24)

    @property
    def consent_zone(self) -> str | None:
        """The zone in which the dates of this tenant's consents are meant; None: it may be any."""
        return self.time_zone if self.consent.dates == "tenant_zone" else None


def load_tenant(folder: Path, tenant: str) -> Tenant:
    """Read ``<folder>/<tenant>.yaml``.

    :raises ConfigError: a bad id (it never becomes a path), no such file, or a bad one.
    """
    if not TENANT_ID.fullmatch(tenant):
        raise ConfigError("bad_tenant_id", "not a tenant id", where=str(folder), fix=f"an id matches {TENANT_ID.pattern}")
    path = folder / f"{tenant}.yaml"
    if not path.is_file():
        known = ", ".join(tenant_ids(folder)) or "none"
        raise ConfigError("unknown_tenant", f"no tenant {tenant}", where=str(path), fix=f"known tenants: {known}")
    loaded = load_yaml(path, Tenant)
    if loaded.tenant != tenant:
        raise ConfigError("tenant_mismatch", "`tenant` differs from the file's name", where=f"{path}:1", fix="make them equal")
    return loaded


def tenant_ids(folder: Path) -> list[str]:
    """Ids that have a file, sorted; a file whose name is no tenant id is not one."""
    return sorted(p.stem for p in folder.glob("*.yaml") if TENANT_ID.fullmatch(p.stem)) if folder.is_dir() else []
