"""What each vendor's EHR takes: ``rules/vendors/<vendor>.yaml``, read by decide, commit, the docs and the fault proxy alike.

Every cell says where it comes from, and so how it is known; what nobody knows is left out of the file, and is then ``None``
here. Nothing reads an unknown as a promise: :meth:`Cell.get` takes what is to be assumed, and that is the careful side.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, Field, model_validator

from fhir_writeback_dagster.config.strict_model import StrictModel
from fhir_writeback_dagster.config.yaml_file import load_yaml
from fhir_writeback_dagster.errors import ConfigError

VENDORS = Path(__file__).parent / "vendors"

Known = Literal["measured", "verified", "secondary", "unverified"]
"""``measured``: we asked a running server; ``verified``: read in a captured /metadata or on the vendor's own page;
``secondary``: a copy or summary of the vendor's page; ``unverified``: somebody remembers it so.
"""
CreatePrecondition = Literal["if_none_exist", "idempotency_key", "search", "none"]
UpdatePrecondition = Literal["if_match", "if_unmodified_since", "none"]
BundleKind = Literal["batch", "transaction"]
UpdateForm = Literal["patch", "put", "none"]
Method = Literal["none", "private_key_jwt", "client_secret", "mtls", "cloud"]
"""How a client proves who it is; ``cloud``: by the cloud's own ways, which are not built here."""

T = TypeVar("T")


class Citation(StrictModel):
    known: Known
    what: str
    url: str | None = None


class Cell(StrictModel, Generic[T]):
    """One fact: its ``value`` (None: unknown), the key of its source, and what a reader should know besides."""

    value: T | None = None
    source: str | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if self.value is not None and self.source is None:
            raise ValueError("expected `source`: how is it known?")
        return self

    def get(self, unknown: T) -> T:
        """The value, or what is assumed where it is unknown."""
        return unknown if self.value is None else self.value


Types = Cell[tuple[str, ...]]
"""Resource types; ``*``: all of R4's. Unknown: those that the live CapabilityStatement names."""


class OwnCode(StrictModel):
    """``unit``: UCUM; the one that the vendor's field is in."""

    code: str
    unit: str


class Create(StrictModel):
    types: Types = Types()
    precondition: Cell[CreatePrecondition] = Field(
        Cell[CreatePrecondition](), description="the strongest that makes a repeated create harmless"
    )
    idempotency_header: Cell[str] = Field(Cell[str](), description="takes a UUID; a repeat brings the original")
    own_api: Types = Field(Types(), description="types that are written over the vendor's own API, by its `module`")
    own_codes: Cell[dict[str, OwnCode]] = Field(Cell[dict[str, OwnCode]](), description="its name of each LOINC code")
    answers_body: Cell[bool] = Field(Cell[bool](), description="a 201 shows the resource when asked by Prefer")
    keeps_identifier: Cell[bool] = Field(Cell[bool](), description="an identifier of ours stands on the stored resource")
    takes_id: Cell[bool] = Field(Cell[bool](), description="a body with an id is not refused")
    race_status: Cell[int] = Field(Cell[int](), description="what losers of concurrent conditional creates are told")
    unknown_condition: Cell[Literal["refused", "creates"]] = Field(
        Cell[Literal["refused", "creates"]](), description="If-None-Exist with a parameter that the server does not know"
    )


class Update(StrictModel):
    put: Types = Types()
    patch: Types = Types()
    precondition: Cell[UpdatePrecondition] = Cell[UpdatePrecondition]()
    required: Cell[bool] = Field(Cell[bool](), description="an update without the precondition is refused")
    missing_status: Cell[int] = Cell[int]()
    stale_status: Cell[int] = Cell[int]()
    patch_precondition: Cell[bool] = Field(Cell[bool](), description="a PATCH heeds the precondition too")
    put_drops_missing: Cell[bool] = Field(Cell[bool](), description="a PUT empties what its body does not hold")


class Bundles(StrictModel):
    kinds: Cell[tuple[BundleKind, ...]] = Cell[tuple[BundleKind, ...]]()
    entries: Cell[int] = Cell[int]()
    conditional_entries: Cell[int] = Field(Cell[int](), description="most entries of a transaction with `ifNoneExist`")
    atomic: Cell[bool] = Field(Cell[bool](), description="a transaction with one bad entry leaves nothing")


class Answers(StrictModel):
    etag: Cell[bool] = Cell[bool]()
    patch_etag: Cell[bool] = Cell[bool]()
    asynchronous: Cell[bool] = Field(Cell[bool](), description="202: accepted for mediation, decided later")
    read_back: Cell[bool] = Field(Cell[bool](), description="success does not mean stored: read it and compare")
    outcomes: Cell[bool] = Field(Cell[bool](), description="errors are OperationOutcomes")
    request_id_header: Cell[str] = Field(Cell[str](), description="its own id of a request, kept with the attempt")
    error_field: Cell[str] = Field(Cell[str](), description="where they are not: the field of the JSON that holds the code")


class Reads(StrictModel):
    search_lag_s: Cell[float] = Field(Cell[float](), description="a write can be missing from searches so long")
    history: Cell[bool] = Cell[bool]()
    mirror: Cell[Literal["last_updated", "on_demand"]] = Field(
        Cell[Literal["last_updated", "on_demand"]](), description="how the mirror is filled; unknown: polled by _lastUpdated"
    )
    validate_operation: Cell[bool] = Field(Cell[bool](), description="$validate exists")
    page_size: Cell[int] = Field(Cell[int](), description="largest `_count` that a search may ask for; 0: none at all")
    informational: Cell[tuple[str, ...]] = Field(
        Cell[tuple[str, ...]](), description="codes of OperationOutcomes among a search's entries that leave nothing out"
    )
    chart_search: Cell[dict[str, tuple[str, ...]]] = Field(
        Cell[dict[str, tuple[str, ...]]](), description="what a search of a type has to name beside the patient"
    )


class VendorWindow(StrictModel):
    """At most ``requests`` in each second, or minute, of the clock: what `commit.pace` can keep to."""

    requests: int = Field(ge=1)
    per: Literal["second", "minute"]


class VendorLimits(StrictModel):
    windows: Cell[tuple[VendorWindow, ...]] = Field(
        Cell[tuple[VendorWindow, ...]](), description="what a tenant's `ehr.limits` are where it names none"
    )
    retry_after: Cell[bool] = Field(Cell[bool](), description="a 429 says how long to wait")
    body_bytes: Cell[int] = Field(Cell[int](), description="a larger body is not sent")

    @model_validator(mode="after")
    def _one_window_a_unit(self) -> Self:
        units = [window.per for window in self.windows.get(())]
        if len(units) != len(set(units)):
            raise ValueError("expected at most one window per second and one per minute")
        return self


class Access(StrictModel):
    methods: Cell[tuple[Method, ...]] = Cell[tuple[Method, ...]]()
    algorithms: Cell[tuple[Literal["RS384", "ES384"], ...]] = Cell[tuple[Literal["RS384", "ES384"], ...]]()
    scopes: Cell[tuple[Literal["v1", "v2"], ...]] = Cell[tuple[Literal["v1", "v2"], ...]]()
    token_seconds: Cell[int] = Field(Cell[int](), description="how long a token lives whose answer does not say")
    headers: Cell[tuple[str, ...]] = Field(Cell[tuple[str, ...]](), description="request headers that hold our client id")


class ErrorCode(StrictModel):
    """A code in an error's body and the class of `commit.taxonomy` that it is, whatever the status says."""

    code: str
    means: Literal[
        "busy",
        "duplicate",
        "encounter_locked",
        "forbidden",
        "malformed",
        "never",
        "patient_gone",
        "reference",
        "several_matches",
        "throttled",
        "unprocessable",
    ]
    source: str
    note: str | None = None


class Quirk(StrictModel):
    text: str
    source: str


class Vendor(StrictModel):
    """One file. ``module``: of `commit.adapters`, where behaviour needs code."""

    vendor: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    title: str
    module: str = Field("generic", pattern=r"^[a-z][a-z0-9_]*$")
    sources: dict[str, Citation]
    create: Create = Create()
    update: Update = Update()
    bundles: Bundles = Bundles()
    answers: Answers = Answers()
    reads: Reads = Reads()
    limits: VendorLimits = VendorLimits()
    access: Access = Access()
    provenance: Cell[tuple[Literal["transaction", "header", "post", "contained"], ...]] = Cell[
        tuple[Literal["transaction", "header", "post", "contained"], ...]
    ]()
    errors: tuple[ErrorCode, ...] = ()
    quirks: tuple[Quirk, ...] = ()

    @model_validator(mode="after")
    def _sources_exist(self) -> Self:
        named = {cell.source for _, cell in self.cells() if cell.source}
        named |= {error.source for error in self.errors} | {quirk.source for quirk in self.quirks}
        if unknown := sorted(named - set(self.sources)):
            raise ValueError(f"no such source: {', '.join(unknown)}; expected one of {', '.join(sorted(self.sources))}")
        return self

    @property
    def on_demand(self) -> bool:
        """Is its mirror filled by lookups, because it refuses to list its patients?"""
        return self.reads.mirror.value == "on_demand"

    def cells(self) -> list[tuple[str, Cell[object]]]:
        """Every cell with its path, such as ``create.precondition``, in the model's order."""
        found: list[tuple[str, Cell[object]]] = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Cell):
                found.append((name, value))
            elif isinstance(value, BaseModel):
                found += [(f"{name}.{part}", cell) for part, cell in value if isinstance(cell, Cell)]
        return found

    def known(self, cell: Cell[T]) -> Known | None:
        """How a cell is known; None: it is not."""
        return self.sources[cell.source].known if cell.source and cell.value is not None else None


def vendors() -> list[str]:
    """Every vendor that has a file, sorted."""
    return sorted(path.stem for path in VENDORS.glob("*.yaml"))


@cache
def _read(path: Path) -> Vendor:
    return load_yaml(path, Vendor)


def load_vendor(name: str, folder: Path | None = None) -> Vendor:
    """The matrix of one vendor; a file is read once a process.

    :raises ConfigError: there is no such vendor, or its file is wrong (with line and what was expected).
    """
    path = (folder or VENDORS) / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise ConfigError("unknown_vendor", f"no vendor {name}", where="ehr.vendor", fix=f"one of {known}; docs/adding-an-ehr.md")
    found = _read(path)
    if found.vendor != name:
        raise ConfigError("vendor_mismatch", "`vendor` differs from the file's name", where=f"{path}:1", fix="make them equal")
    return found
