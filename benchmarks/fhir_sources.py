"""How many resources of FHIR files the shipped contract of an agent reads, and why not the others.

    python benchmarks/fhir_sources.py FILE…

Of docs/adding-a-source.md: HL7's IPS examples are `npm pack hl7.fhir.uv.ips@2.0.0`, folder `package/example`; Synthea's are the
`fhir` folder of a run with `exporter.fhir.export`. Counts and reasons only: no value is printed.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from fhir_writeback_dagster.config.yaml_file import load_yaml
from fhir_writeback_dagster.ingest.contracts.contract import Contract
from fhir_writeback_dagster.ingest.normalise.columns import Maker
from fhir_writeback_dagster.ingest.normalise.records import normalise
from fhir_writeback_dagster.ingest.readers.read import read

CONTRACT = Path(__file__).parent.parent / "mappings" / "sources" / "fhir_agent" / "2.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    contract = load_yaml(CONTRACT, Contract)
    table = contract.tables["resources"]
    ends, reasons = Counter[tuple[str, str]](), Counter[tuple[str, str, str]]()
    for path in parser.parse_args().files:
        frame = read(path.read_bytes(), table, whole=False)
        made = normalise(frame, "resources", table, contract.actor, Maker("fhir_agent", {}, "UTC", {}, offset_required=True))
        types = frame["resourceType"].to_list()
        ends.update((types[row], "record") for record in made.records for row in record.rows)
        ends.update((types[row], other.disposition) for row, other in made.others.items())
        reasons.update((types[row], other.reason, other.column or "") for row, other in made.others.items())
    for (kind, end), number in sorted(ends.items()):
        print(f"{kind:<28}{end:<14}{number:>7}")
    for (kind, reason, column), number in sorted(reasons.items()):
        print(f"  {kind:<26}{reason} {column}: {number}")


if __name__ == "__main__":
    main()
