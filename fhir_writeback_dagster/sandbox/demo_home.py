"""The demo's project home: tenants, keys for each layer by itself, landing zones, and the shipped mappings and policies."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from fhir_writeback_dagster.ops.environment import write_layer_file
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.sandbox.keys import make_secret
from fhir_writeback_dagster.sandbox.servers.sekmet import CLIENT_ID
from fhir_writeback_dagster.sandbox.story.hospitals import Hospital

SOURCES = ("lab_portal", "ward_flowsheet", "bedside_agent", "clinic_export")
KINDS = (
    "vital_sign",
    "lab_result",
    "condition",
    "medication_request",
    "allergy",
    "immunization",
    "procedure",
    "document",
    "patient",
)
#: What the write-back asks the EHR for: no more than it reads and writes.
SCOPES = (
    *(f"system/{kind}.rs" for kind in ("Encounter", "Consent")),
    "system/Patient.rsu",
    *(
        f"system/{kind}.crus"
        for kind in (
            "Observation",
            "Condition",
            "MedicationRequest",
            "AllergyIntolerance",
            "Immunization",
            "Procedure",
            "DocumentReference",
        )
    ),
)
_SHIPPED = Path(__file__).resolve().parents[2]


def make_home(folder: Path, hospitals: Iterable[tuple[Hospital, str, str]]) -> StateFolder:
    """Write the home of the demo into ``folder``: each hospital with its EHR's address and the private JWK for it.

    Sealing and identity keys go to the layers that seal, the EHR's key to commit alone.
    """
    link_shipped(folder)
    (folder / "tenants").mkdir()
    state = StateFolder(folder)
    keys: dict[str, str] = {}
    ehr_keys: dict[str, str] = {}
    for hospital, base_url, private_jwk in hospitals:
        document = tenant_document(hospital, base_url)
        (folder / "tenants" / f"{hospital.id}.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        for source in SOURCES:
            zone_of(folder, hospital, source).mkdir(parents=True)
        keys |= {_variable(hospital, name): make_secret() for name in ("sealing", "identity")}
        ehr_keys[_variable(hospital, "ehr")] = private_jwk
    write_layer_file(state, "ingest", keys)
    write_layer_file(state, "decide", keys)
    write_layer_file(state, "commit", keys | ehr_keys)
    return state


def link_shipped(folder: Path) -> None:
    """The mappings, expectations and policies that come with the project."""
    for name in ("mappings", "expectations", "policies"):
        (folder / name).symlink_to(_SHIPPED / name)


def zone_of(folder: Path, hospital: Hospital, source: str) -> Path:
    """The landing zone of one source of one hospital."""
    return folder / "landing" / hospital.id / source


def tenant_document(hospital: Hospital, base_url: str) -> dict[str, Any]:
    """What ``tenants/<tenant>.yaml`` says."""
    systems = {"mrn": hospital.mrn_system, "visit": hospital.visit_system}
    return {
        "tenant": hospital.id,
        "name": hospital.name,
        "time_zone": hospital.time_zone,
        "identifier_system": hospital.identifier_system,
        "ehr": {
            "vendor": "generic",
            "base_url": base_url,
            "sandbox": True,
            "auth": {
                "type": "smart_backend",
                "client_id": CLIENT_ID,
                "private_key": f"env:{_variable(hospital, 'ehr')}",
                "scopes": list(SCOPES),
            },
            "concurrency": 16,
        },
        "keys": {
            "sealing": f"env:{_variable(hospital, 'sealing')}",
            "identity": [f"env:{_variable(hospital, 'identity')}"],
        },
        "sources": {
            source: {"version": 1, "landing": f"landing/{hospital.id}/{source}", "patient_systems": systems} for source in SOURCES
        },
        "mappings": dict.fromkeys(KINDS, 1),
        "modes": {"default": "off", "by_type": hospital.modes},
        "consent": {"none_found": hospital.none_found},
    }


def _variable(hospital: Hospital, name: str) -> str:
    return f"{hospital.id.upper()}_{name.upper()}_KEY"
