"""The structured dosage of a MedicationRequest as one text for people, in the order in which a label says it.

Nothing is worked out: what is said is put into words. A dosage that says more than these words can leaves its elements unread,
and so its order waits for a person.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Node = Mapping[str, Any]

_UNITS = {"s": "second", "min": "minute", "h": "hour", "d": "day", "wk": "week", "mo": "month", "a": "year"}
_READ = frozenset({"sequence", "text", "doseAndRate", "timing", "asNeededBoolean", "additionalInstruction", "patientInstruction"})


def dosage_text(dosage: Any) -> str | None:
    """``"Take with food. dose 1 tablet, once every 6 hours, as needed."``; None where no words are known for what it says."""
    if not isinstance(dosage, dict) or dosage.keys() - _READ:
        return None
    try:
        parts = [part for part in (_dose(dosage), _timing(dosage), _as_needed(dosage)) if part]
        more = [*_instructions(dosage)]
    except _Unsaid:
        return None
    text = dosage.get("text")
    if isinstance(text, str) and not parts and not more:
        return text
    said = [text.strip() if isinstance(text, str) else "", ", ".join(parts), *more]
    return " ".join(part if part.endswith(".") else f"{part}." for part in said if part) or None


class _Unsaid(Exception):
    """An element that no word is known for."""


def _only(node: Any, *names: str) -> Node:
    if not isinstance(node, dict) or node.keys() - set(names):
        raise _Unsaid
    return node


def _dose(dosage: Node) -> str:
    doses = dosage.get("doseAndRate")
    if doses is None:
        return ""
    if not isinstance(doses, list) or len(doses) != 1:
        raise _Unsaid
    quantity = _only(_only(doses[0], "type", "doseQuantity").get("doseQuantity"), "value", "unit", "system", "code")
    unit = quantity.get("unit") or quantity.get("code")
    return f"dose {quantity['value']}" + (f" {unit}" if unit else "") if "value" in quantity else ""


def _timing(dosage: Node) -> str:
    if "timing" not in dosage:
        return ""
    repeat = _only(_only(dosage["timing"], "repeat").get("repeat"), "frequency", "period", "periodUnit")
    if not {"frequency", "period", "periodUnit"} <= repeat.keys() or repeat["periodUnit"] not in _UNITS:
        raise _Unsaid
    number, unit = str(repeat["period"]).removesuffix(".0"), _UNITS[repeat["periodUnit"]]
    times = "once" if repeat["frequency"] == 1 else f"{repeat['frequency']} times"
    return f"{times} every {unit}" if number == "1" else f"{times} every {number} {unit}s"


def _as_needed(dosage: Node) -> str:
    needed = dosage.get("asNeededBoolean")
    text = dosage.get("text")
    told = isinstance(text, str) and "as needed" in text.casefold()
    return "as needed" if needed is True and not told else ""


def _instructions(dosage: Node) -> Iterator[str]:
    found = dosage.get("additionalInstruction", [])
    for concept in found if isinstance(found, list) else [found]:
        codings = concept.get("coding") if isinstance(concept, dict) else None
        display = codings[0].get("display") if isinstance(codings, list) and codings and isinstance(codings[0], dict) else None
        text = concept.get("text", display) if isinstance(concept, dict) else None
        if not isinstance(text, str):
            raise _Unsaid
        yield text
    if isinstance(instruction := dosage.get("patientInstruction"), str):
        yield instruction
