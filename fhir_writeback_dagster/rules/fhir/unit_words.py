"""Words that laboratories and wards write for units, in lower case, and the UCUM that everybody means by them."""

from __future__ import annotations

from collections.abc import Mapping

#: Whole texts. Only words with one meaning in clinical data.
WHOLE: Mapping[str, str] = {
    "lb": "[lb_av]", "lbs": "[lb_av]", "pound": "[lb_av]", "pounds": "[lb_av]", "ounces": "[oz_av]", "fl oz": "[foz_us]",
    "in": "[in_i]", "inch": "[in_i]", "inches": "[in_i]", "ft": "[ft_i]", "feet": "[ft_i]", "f": "[degF]", "°f": "[degF]",
    "degf": "[degF]", "deg f": "[degF]", "degrees f": "[degF]", "fahrenheit": "[degF]", "c": "Cel", "°c": "Cel", "degc": "Cel",
    "deg c": "Cel", "degrees c": "Cel", "cel": "Cel", "celsius": "Cel", "centigrade": "Cel", "bpm": "/min", "beats/min": "/min",
    "beats/minute": "/min", "beats per minute": "/min", "breaths/min": "/min", "breaths/minute": "/min",
    "breaths per minute": "/min", "per minute": "/min", "/minute": "/min", "1/min": "/min", "percent": "%", "pct": "%",
    "kg/sqm": "kg/m2", "kg/m^2": "kg/m2", "score": "{score}", "ratio": "{ratio}", "inr": "{INR}", "ph": "[pH]",
    "cm h2o": "cm[H2O]", "cmh2o": "cm[H2O]", "mm hg": "mm[Hg]", "g%": "g/dL", "gm%": "g/dL", "mg%": "mg/dL", "gm": "g",
    "mm/1h": "mm/h", "min": "min", "kcal": "kcal", "g": "g",
}  # fmt: skip

#: One side of a ``/``.
PARTS: Mapping[str, str] = {
    "kg": "kg", "g": "g", "gm": "g", "gms": "g", "gram": "g", "grams": "g", "mg": "mg", "mgs": "mg", "mcg": "ug", "ug": "ug",
    "ng": "ng", "pg": "pg", "fg": "fg", "l": "L", "liter": "L", "litre": "L", "dl": "dL", "cl": "cL", "ml": "mL", "cc": "mL",
    "ul": "uL", "mcl": "uL", "cumm": "uL", "cu mm": "uL", "cmm": "uL", "mm3": "uL", "mm^3": "uL", "nl": "nL", "pl": "pL",
    "fl": "fL",
    "mol": "mol", "mmol": "mmol", "umol": "umol", "mcmol": "umol", "nmol": "nmol", "pmol": "pmol", "fmol": "fmol", "eq": "eq",
    "meq": "meq", "ueq": "ueq", "mosm": "mosm", "mosmol": "mosm", "osm": "osm", "u": "U", "unit": "U", "units": "U", "mu": "mU",
    "uu": "uU", "ku": "kU", "iu": "[IU]", "miu": "m[IU]", "uiu": "u[IU]", "mciu": "u[IU]", "kiu": "k[IU]", "ukat": "ukat",
    "s": "s", "sec": "s", "secs": "s", "second": "s", "seconds": "s", "ms": "ms", "msec": "ms", "min": "min", "mins": "min",
    "minute": "min", "minutes": "min", "h": "h", "hr": "h", "hrs": "h", "hour": "h", "hours": "h", "24h": "(24.h)",
    "24hr": "(24.h)", "24hrs": "(24.h)", "24 h": "(24.h)", "24 hr": "(24.h)", "24 hrs": "(24.h)", "24 hours": "(24.h)", "d": "d",
    "day": "d", "days": "d", "wk": "wk", "week": "wk", "weeks": "wk", "month": "mo", "months": "mo", "year": "a", "years": "a",
    "yr": "a", "yrs": "a", "mm": "mm", "cm": "cm", "km": "km", "m2": "m2", "m^2": "m2", "sqm": "m2", "mmhg": "mm[Hg]",
    "mm[hg]": "mm[Hg]", "kpa": "kPa", "hpf": "[HPF]", "lpf": "[LPF]", "cells": "{cells}", "cell": "{cells}",
    "copies": "{copies}", "cp": "{copies}", "cps": "{copies}", "cfu": "[CFU]", "pfu": "[PFU]", "beats": "{beats}",
    "breaths": "{breaths}", "%": "%", "1.73m2": "{1.73_m2}", "1.73 m2": "{1.73_m2}", "1.73m^2": "{1.73_m2}",
    "1.73 m^2": "{1.73_m2}", "1.73": "{1.73_m2}", "1.73sqm": "{1.73_m2}", "kcal": "kcal",
}  # fmt: skip

#: A count in front of a volume.
COUNTS: Mapping[str, str] = {
    "k": "10*3", "th": "10*3", "thou": "10*3", "thousand": "10*3", "thousands": "10*3", "mil": "10*6", "mill": "10*6",
    "million": "10*6", "millions": "10*6", "m": "10*6", "giga": "10*9", "billion": "10*9", "bil": "10*9", "t": "10*12",
    "tera": "10*12", "trillion": "10*12",
}  # fmt: skip
#: What follows a unit after a blank, or sits at it: said in an annotation.
SUFFIXES: Mapping[str, str] = {
    "feu": "{FEU}", "ddu": "{DDU}", "bce": "{BCE}", "creat": "{creat}", "creatinine": "{creat}", "cr": "{creat}",
    "anti-xa": "{anti-Xa}", "hgb": "{Hgb}", "hb": "{Hgb}", "wbc": "{WBC}", "h2o": "{H2O}", "rbc": "{RBC}",
}  # fmt: skip
