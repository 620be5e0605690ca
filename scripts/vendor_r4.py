"""Make ``rules/fhir/r4/definitions.json.gz`` and the tests' official examples from HL7's own npm package.

    npm pack hl7.fhir.r4.examples@4.0.1 && tar xzf hl7.fhir.r4.examples-4.0.1.tgz
    python scripts/vendor_r4.py package

The package (CC0-1.0, by HL7) holds the StructureDefinitions, value sets, code systems and examples of R4 4.0.1. Only what the
written resource types reach is kept. The output depends on the input alone, so a second run changes no byte.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
DEFINITIONS = ROOT / "fhir_writeback_dagster" / "rules" / "fhir" / "r4" / "definitions.json.gz"
EXAMPLES = ROOT / "tests" / "decide" / "r4_examples.json.gz"

WRITTEN = (
    "AllergyIntolerance",
    "Condition",
    "DocumentReference",
    "Immunization",
    "MedicationRequest",
    "Observation",
    "Patient",
    "Procedure",
    "Provenance",
)
#: Types that ride as contained resources in the written ones; any other contained type is checked for its shell only.
CONTAINED = ("Device", "Location", "Medication", "Organization", "Practitioner", "PractitionerRole", "Specimen", "Substance")
VITAL_PROFILES = ("bmi", "bodyheight", "bodytemp", "bodyweight", "bp", "headcircum", "heartrate", "oxygensat", "resprate")
#: Hold for every element or are advice only: `ele-1` and `ext-1` are rules of the code, `dom-6` is a best practice.
COMMON_CONSTRAINTS = {"dom-6", "ele-1", "ext-1"}
FHIR_TYPE = "http://hl7.org/fhir/StructureDefinition/structuredefinition-fhir-type"
CANONICAL = "http://hl7.org/fhir/StructureDefinition/"
VITAL_SIGN_UNITS = "http://hl7.org/fhir/ValueSet/ucum-vitals-common"


class Package:
    """The unpacked npm package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code_systems = {r["url"]: r for r in self._all("CodeSystem")}
        self.value_sets = {r["url"]: r for r in self._all("ValueSet")}

    def _all(self, resource_type: str) -> list[Json]:
        return [json.loads(p.read_text("utf-8")) for p in sorted(self.folder.glob(f"{resource_type}-*.json"))]

    def examples(self, resource_type: str) -> list[Json]:
        return self._all(resource_type)

    def structure(self, name: str) -> Json:
        loaded: Json = json.loads((self.folder / f"StructureDefinition-{name}.json").read_text("utf-8"))
        return loaded

    def codes(self, system: str) -> list[str] | None:
        """Every code of a code system, or None where the package has no complete list."""
        found = self.code_systems.get(system)
        if found is None or found.get("content") != "complete":
            return None
        codes: list[str] = []
        stack = list(found.get("concept", []))
        while stack:
            concept = stack.pop()
            codes.append(concept["code"])
            stack += concept.get("concept", [])
        return sorted(codes)

    def expand(self, url: str) -> dict[str, list[str]] | None:
        """``{system: codes}`` of a value set, or None where it cannot be enumerated (MIME types, currencies)."""
        compose = self.value_sets[url.split("|", maxsplit=1)[0]]["compose"]
        if "exclude" in compose:
            return None
        codes: dict[str, set[str]] = {}
        for include in compose["include"]:
            if "filter" in include:
                return None
            if "concept" in include:
                codes.setdefault(include["system"], set()).update(c["code"] for c in include["concept"])
            elif "system" in include:
                whole = self.codes(include["system"])
                if whole is None:
                    return None
                codes.setdefault(include["system"], set()).update(whole)
            for other in include.get("valueSet", []):
                nested = self.expand(other)
                if nested is None:
                    return None
                for system, found in nested.items():
                    codes.setdefault(system, set()).update(found)
        return {system: sorted(found) for system, found in sorted(codes.items())}


def type_names(element: Json) -> list[str]:
    """Names of an element's types; ``#Observation.component`` is a nested structure of a resource's own."""
    if "contentReference" in element:
        return ["#" + element["contentReference"].split("#")[-1]]
    names: list[str] = []
    for kind in element.get("type", []):
        code: str = kind["code"]
        if code in {"BackboneElement", "Element"}:
            code = "#" + element["path"]
        elif code.startswith("http:"):
            code = next(e["valueUrl"] for e in kind["extension"] if e["url"] == FHIR_TYPE)
        elif any(p == CANONICAL + "SimpleQuantity" for p in kind.get("profile", [])):
            code = "SimpleQuantity"
        names.append(code)
    return names


def pack_element(element: Json) -> Json:
    packed: Json = {"min": element["min"], "max": element["max"], "types": type_names(element)}
    targets = sorted({p.removeprefix(CANONICAL) for t in element.get("type", []) for p in t.get("targetProfile", [])})
    if targets:
        packed["targets"] = targets
    binding = element.get("binding", {})
    if binding.get("strength") == "required":
        packed["binding"] = binding["valueSet"].split("|")[0]
    return packed


def pack_types(package: Package, roots: tuple[str, ...]) -> dict[str, Json]:
    """``{type: {elements, constraints}}`` of all types that ``roots`` reach; primitives have no entry."""
    types: dict[str, Json] = {}
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name in types:
            continue
        structure = package.structure(name)
        if structure["kind"] == "primitive-type":
            continue
        for element in structure["snapshot"]["element"]:
            # A constrained type (SimpleQuantity, Age) is written under its base's paths.
            path = element["path"].replace(structure["type"], name, 1)
            owner, _, last = path.rpartition(".")
            rules = [
                {"key": c["key"], "severity": c["severity"], "expression": c["expression"]}
                for c in element.get("constraint", [])
                if c["key"] not in COMMON_CONSTRAINTS
            ]
            nested = not owner or any(t == "#" + element["path"] for t in type_names(element))
            if nested:
                types[path] = {"elements": {}, "constraints": rules}
            if not owner or element["max"] == "0":
                continue
            packed = pack_element(element)
            if structure["kind"] == "resource" and path == f"{name}.id":
                packed["types"] = ["id"]
            if rules and not nested:
                packed["constraints"] = rules
            types[owner]["elements"][last] = packed
            todo += [t for t in packed["types"] if not t.startswith("#") and t != "Resource"]
    return dict(sorted(types.items()))


def vital_units(package: Package) -> dict[str, list[str]]:
    """UCUM codes that the R4 vital-signs profiles allow for a LOINC code."""
    units: dict[str, list[str]] = {}
    for name in VITAL_PROFILES:
        codes: dict[str, str] = {}
        allowed: dict[str, list[str]] = {}
        for element in package.structure(name)["differential"]["element"]:
            slice_of = element["id"].split(".")[1].partition(":")[2] if "." in element["id"] else ""
            if element["path"].endswith("code.coding.code") and "fixedCode" in element:
                codes[slice_of] = element["fixedCode"]
            elif element["path"].endswith("valueQuantity.code") or element["path"].endswith("value[x].code"):
                expansion = package.expand(element["binding"]["valueSet"]) if "binding" in element else None
                allowed[slice_of] = [element["fixedCode"]] if "fixedCode" in element else next(iter((expansion or {}).values()))
        units |= {codes[part]: allowed[part] for part in allowed}
    return dict(sorted(units.items()))


def examples(package: Package) -> list[Json]:
    """Official examples of the written types: files of their own, and entries of example bundles."""
    found = [r for name in WRITTEN for r in package.examples(name)]
    for bundle in package.examples("Bundle"):
        entries = [entry.get("resource", {}) for entry in bundle.get("entry", [])]
        found += [r for r in entries if r.get("resourceType") in WRITTEN]
    for resource in found:
        resource.pop("text", None)  # generated narrative: three quarters of the bytes, none of the meaning
    return found


def write(path: Path, value: object) -> None:
    data = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0))
    sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes, sha256 {hashlib.sha256(data).hexdigest()}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package", type=Path, help="folder of the unpacked npm package")
    package = Package(parser.parse_args().package)
    types = pack_types(package, WRITTEN + CONTAINED)
    bound = sorted({e["binding"] for t in types.values() for e in t["elements"].values() if "binding" in e})
    write(
        DEFINITIONS,
        {
            "version": "4.0.1",
            "written": list(WRITTEN),
            "resources": package.codes("http://hl7.org/fhir/resource-types"),
            "types": types,
            "value_sets": {url: package.expand(url) for url in bound},
            "vital_units": vital_units(package),
            "ucum_examples": (package.expand("http://hl7.org/fhir/ValueSet/ucum-common") or {})["http://unitsofmeasure.org"],
        },
    )
    write(EXAMPLES, examples(package))


if __name__ == "__main__":
    main()
