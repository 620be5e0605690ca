"""The codes that the Consent evaluator knows, from HL7 Terminology (v3-ActCode, v3-ActReason, v3-Confidentiality) and R4.

What is not here is *unknown*, and unknown never permits (see :mod:`fhir_writeback_dagster.rules.consent.evaluate`).
"""

from __future__ import annotations

from typing import Final

_THO: Final = "http://terminology.hl7.org/CodeSystem/"

ACT_CODE: Final = f"{_THO}v3-ActCode"
ACT_REASON: Final = f"{_THO}v3-ActReason"
CONFIDENTIALITY: Final = f"{_THO}v3-Confidentiality"
CONSENT_ACTION: Final = f"{_THO}consentaction"
CONSENT_CATEGORY: Final = f"{_THO}consentcategorycodes"
CONSENT_SCOPE: Final = f"{_THO}consentscope"
RESOURCE_TYPES: Final = "http://hl7.org/fhir/resource-types"

#: A consent of these statuses says nothing yet, or nothing any more.
IDLE_STATUSES: Final = ("draft", "proposed", "rejected", "inactive", "entered-in-error")

#: consentscope → is it about who may record and share data? The others are about being treated, studied, or resuscitated.
SCOPES: Final = {"patient-privacy": True, "research": False, "treatment": False, "adr": False}

#: Categories of directives and acknowledgements that neither permit nor forbid a record: advance directives, notices.
NOT_ABOUT_DATA: Final = frozenset({"acd", "dnr", "polst", "hcd", "npp"})
EMERGENCY_ONLY: Final = "emrgonly"
EMERGENCY_PURPOSES: Final = frozenset({"ETREAT", "BTG", "ERTREAT"})

#: What a write-back does, in R4's consentaction: it gathers data into a record, or corrects what stands there.
WRITE_ACTIONS: Final = frozenset({"collect", "correct"})
#: A ban on these also bans the write: the extract's content is used, and it becomes visible in another system.
BANNING_ACTIONS: Final = WRITE_ACTIONS | {"use", "disclose"}
ACTIONS: Final = BANNING_ACTIONS | {"access"}

#: policyRule of v3-ActCode → the effect outside of the root provision.
POLICY_RULES: Final = {"OPTIN": "permit", "OPTINR": "permit", "OPTOUT": "deny", "OPTOUTE": "deny"}

#: v3-ActReason, PurposeOfUse: child → parent, for the purposes that a tenant may name.
PURPOSE_PARENT: Final = {
    "TREAT": "PurposeOfUse",
    "CAREMGT": "TREAT",
    "CLINTRL": "TREAT",
    "COC": "TREAT",
    "ETREAT": "TREAT",
    "BTG": "ETREAT",
    "ERTREAT": "ETREAT",
    "POPHLTH": "TREAT",
    "HOPERAT": "PurposeOfUse",
    "RECORDMGT": "HOPERAT",
    "HQUALIMP": "HOPERAT",
    "PATADMIN": "HOPERAT",
    "HPAYMT": "PurposeOfUse",
    "HRESCH": "PurposeOfUse",
    "PUBHLTH": "PurposeOfUse",
    "PATRQT": "PurposeOfUse",
}

#: v3-Confidentiality from open to closed; what bears no such label is `N`.
CONFIDENTIALITY_RANK: Final = {"U": 0, "L": 1, "M": 2, "N": 3, "R": 4, "V": 5}
DEFAULT_RANK: Final = CONFIDENTIALITY_RANK["N"]

#: v3-ActCode, InformationSensitivityPolicy: child → parent.
LABEL_PARENT: Final = {
    "ETH": "SUD",
    "ETHUD": "SUD",
    "OPIOIDUD": "SUD",
    "SUD": "BH",
    "MH": "BH",
    "PSY": "BH",
    "PSYTHPN": "PSY",
    "COGN": "BH",
    "EMOTDIS": "BH",
    "DVD": "BH",
}

#: Labels whose data a general permit does not cover: a provision has to name each of them, or its parent (:func:`covering`).
#: 42 CFR Part 2 §2.31 wants the consent to name substance use disorder records; state laws want the like for the others.
RESTRICTED: Final = {
    "42CFRPart2": "part2",
    "42CFRPart2CD": "part2",
    "ETH": "part2",
    "ETHUD": "part2",
    "OPIOIDUD": "part2",
    "SUD": "part2",
    "BH": "behavioural_health",
    "MH": "behavioural_health",
    "PSY": "behavioural_health",
    "PSYTHPN": "behavioural_health",
    "COGN": "behavioural_health",
    "EMOTDIS": "behavioural_health",
    "DVD": "behavioural_health",
    "ADOL": "minors",
}

_PART_2: Final = frozenset({"42CFRPart2", "42CFRPart2CD"})
_SUBSTANCES: Final = frozenset({"SUD", "ETH", "ETHUD", "OPIOIDUD"})


def purposes_of(code: str) -> frozenset[str]:
    """``code`` and the purposes that include it: a permit for TREAT covers ETREAT, not the other way round."""
    return _upwards(code, PURPOSE_PARENT)


def labels_of(code: str) -> frozenset[str]:
    """``code`` and the wider sensitivity labels that include it."""
    return _upwards(code, LABEL_PARENT)


def covering(code: str) -> frozenset[str]:
    """The labels that a permit may name for data labelled ``code``, which is restricted: itself, or a wider one of its category.

    42CFRPart2 covers every kind of substance use disorder information, for that is what a consent under this law is about; none
    of the kinds covers 42CFRPart2, and behavioural health at large covers none of them.
    """
    law = _PART_2 if code in _SUBSTANCES else frozenset()
    return frozenset(wider for wider in labels_of(code) | law if RESTRICTED.get(wider) == RESTRICTED[code])


def hit_by(denied: str, borne: str) -> bool | None:
    """Does a ban on data labelled ``denied`` forbid data labelled ``borne``? None: it may, the labels do not say.

    A narrower label is hit. A wider one may hold just what is banned; so may 42CFRPart2, ETH (HL7: alcohol *or* drug abuse) and
    the other kinds of substance use disorder information among each other, but not alcohol (ETHUD) and opioids (OPIOIDUD).
    """
    if denied in labels_of(borne) or (borne in _PART_2 and denied in labels_of("SUD")):
        return True
    kin = {denied, borne} <= _SUBSTANCES | _PART_2 and {denied, borne} != {"ETHUD", "OPIOIDUD"}
    return None if borne in labels_of(denied) or kin else False


def _upwards(code: str, parents: dict[str, str]) -> frozenset[str]:
    found = [code]
    while (parent := parents.get(found[-1])) is not None:
        found.append(parent)
    return frozenset(found)
