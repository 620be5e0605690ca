"""What the demo's sources talk about: local codes and units of each, and the standard code and unit that must come of them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
CVX = "http://hl7.org/fhir/sid/cvx"
BLOOD_PRESSURE = "85354-9"
PROGRESS_NOTE = "11506-3"


@dataclass(frozen=True, slots=True)
class Measure:
    """A local code of a source, the LOINC code it means, and values in ``low`` … ``high`` tenths of the UCUM ``unit``.

    ``other`` is a second unit that the source writes now and then: value in it = value · ``factor`` + ``offset``.
    """

    local: str
    name: str
    loinc: str
    unit: str
    low: int
    high: int
    written: str
    other: str | None = None
    factor: Decimal = Decimal(1)
    offset: Decimal = Decimal(0)


LABS: tuple[Measure, ...] = (
    Measure("HB", "Hemoglobin", "718-7", "g/dL", 95, 172, "g/dL", "g/L", Decimal(10)),
    Measure("K", "Potassium", "2823-3", "mmol/L", 32, 54, "mmol/L"),
    Measure("NA", "Sodium", "2951-2", "mmol/L", 1310, 1460, "mmol/L"),
    Measure("CREA", "Creatinine", "2160-0", "mg/dL", 6, 19, "mg/dL"),
    Measure("GLUC", "Glucose", "2345-7", "mg/dL", 700, 2100, "mg/dL"),
    Measure("GLUCM", "Glucose (molar)", "14749-6", "mmol/L", 39, 117, "mmol/L"),
    Measure("A1C", "Hemoglobin A1c", "4548-4", "%", 48, 112, "%"),
    Measure("WBC", "Leukocytes", "6690-2", "10*3/uL", 35, 140, "10*3/uL"),
)
#: A local code that the ConceptMap does not know.
UNMAPPED_LAB = "XLIP"

WEIGHT = Measure("WT", "Weight", "29463-7", "kg", 480, 1190, "kg", "lb", Decimal("2.2046226"))
TEMPERATURE = Measure("TEMP", "Temperature", "8310-5", "Cel", 358, 396, "C", "F", Decimal("1.8"), Decimal(32))
PULSE = Measure("HR", "Pulse", "8867-4", "/min", 520, 1240, "/min")
OXYGEN = Measure("SPO2", "Oxygen saturation", "59408-5", "%", 910, 1000, "%")
SYSTOLIC = Measure("SYS", "Systolic", "8480-6", "mm[Hg]", 950, 1780, "mmHg")
DIASTOLIC = Measure("DIA", "Diastolic", "8462-4", "mm[Hg]", 550, 990, "mmHg")
VITALS: tuple[Measure, ...] = (WEIGHT, TEMPERATURE, PULSE, OXYGEN)

PROBLEMS = (
    ("44054006", "Diabetes mellitus type 2"),
    ("38341003", "Hypertensive disorder"),
    ("195967001", "Asthma"),
    ("49436004", "Atrial fibrillation"),
    ("235595009", "Gastroesophageal reflux disease"),
    ("73430006", "Sleep apnea"),
    ("396275006", "Osteoarthritis"),
    ("271737000", "Anemia"),
)
ALLERGIES = (("91936005", "Allergy to penicillin"), ("91935009", "Allergy to peanut"), ("300916003", "Latex allergy"))
DRUGS = (
    ("860975", "metformin hydrochloride 500 MG Oral Tablet"),
    ("314076", "lisinopril 10 MG Oral Tablet"),
    ("617312", "atorvastatin 20 MG Oral Tablet"),
    ("310965", "ibuprofen 200 MG Oral Tablet"),
)
VACCINES = (("140", "Influenza, seasonal"), ("115", "Tdap"), ("208", "COVID-19 mRNA"))
PROCEDURES = (("29303009", "Electrocardiographic procedure"), ("399208008", "Plain chest X-ray"))
