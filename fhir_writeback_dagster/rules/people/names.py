"""Names of people made comparable: case, diacritics, spelling of special letters, nicknames, and likeness of strings.

A name is folded to one or more *forms* (tuples of words in lower-case ASCII where the script allows), because `Müller` is
written both `Muller` and `Mueller`. Other scripts are casefolded and kept: a Cyrillic and a Latin spelling never agree here,
which sends them to a person instead of guessing a transliteration.
"""

from __future__ import annotations

import json
import re
import unicodedata
from functools import lru_cache
from pathlib import Path

#: Letters that NFKD does not take apart, in both of their usual ASCII spellings.
_PLAIN = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h"})
_SPELLED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
_DROPPED = re.compile(r"['’ʼ`´.]")  # O'Brien is Obrien, "J." is "J"
_NICKNAMES = Path(__file__).with_name("nicknames.json")
_WORD = re.compile(r"[^\W_]+")

Form = tuple[str, ...]


@lru_cache(maxsize=65536)
def forms(text: str) -> tuple[Form, ...]:
    """The ways to write ``text`` that count as the same: words, folded; empty for a text without letters or digits.

    >>> forms("Müller-Lüdenscheidt")
    (('muller', 'ludenscheidt'), ('mueller', 'luedenscheidt'))
    """
    lowered = unicodedata.normalize("NFC", text).casefold()
    spelled = lowered.translate(_SPELLED)
    kept = dict.fromkeys(_words(variant) for variant in ((lowered, spelled) if spelled != lowered else (lowered,)))
    return tuple(form for form in kept if form)


def _words(lowered: str) -> Form:
    apart = unicodedata.normalize("NFKD", lowered.translate(_PLAIN))
    return tuple(_WORD.findall(_DROPPED.sub("", "".join(c for c in apart if not unicodedata.combining(c)))))


def same_family(one: str, other: str) -> bool:
    """Equal after folding, also written as one word, or a part of a compound (`García` and `García Márquez`)."""
    return any(
        a == b or "".join(a) == "".join(b) or set(a) <= set(b) or set(b) <= set(a) for a in forms(one) for b in forms(other)
    )


def same_given(one: str, other: str) -> bool:
    """Some word of one could be called as some word of the other: equal, initial, nickname or a slip of the pen."""
    return any(_like(a, b) for a in _all_words(one) for b in _all_words(other))


def nicknames(name: str) -> frozenset[str]:
    """Folded names that ``name`` (one folded word) may stand for, itself included."""
    return _groups().get(name, frozenset((name,)))


def _like(a: str, b: str) -> bool:
    if a == b or b in nicknames(a):
        return True
    if len(a) == 1 or len(b) == 1:
        return a[0] == b[0]
    return jaro_winkler(a, b) >= 0.9  # Winkler's own cut for given names


def _all_words(text: str) -> set[str]:
    return {word for form in forms(text) for word in form}


@lru_cache(maxsize=1)
def _groups() -> dict[str, frozenset[str]]:
    # Everyday short forms, one group an entry; a name may stand in several. Small: what it misses goes to a person.
    groups: dict[str, frozenset[str]] = {}
    for group in json.loads(_NICKNAMES.read_text(encoding="utf-8")):
        for name in group:
            groups[name] = groups.get(name, frozenset()).union(group)
    return groups


@lru_cache(maxsize=1 << 18)
def jaro_winkler(a: str, b: str) -> float:
    """Likeness from 0 to 1 (Winkler 1990), prefix scale 0.1 over at most four letters."""
    if a == b:
        return 1.0
    if not a or not b:
        return 0.0
    jaro = _jaro(a, b)
    prefix = 0
    for x, y in zip(a[:4], b[:4], strict=False):
        if x != y:
            break
        prefix += 1
    return jaro + prefix * 0.1 * (1 - jaro)


def _jaro(a: str, b: str) -> float:
    reach = max(max(len(a), len(b)) // 2 - 1, 0)
    taken = [False] * len(b)
    hits: list[str] = []
    for i, letter in enumerate(a):
        for j in range(max(0, i - reach), min(len(b), i + reach + 1)):
            if not taken[j] and b[j] == letter:
                taken[j] = True
                hits.append(letter)
                break
    if not hits:
        return 0.0
    others = (b[j] for j in range(len(b)) if taken[j])
    swapped = sum(x != y for x, y in zip(hits, others, strict=True)) / 2
    count = len(hits)
    return (count / len(a) + count / len(b) + (count - swapped) / count) / 3


def one_slip(a: str, b: str) -> bool:
    """Equal but for one slip of the pen: a letter more, less or other, or two neighbours exchanged."""
    if abs(len(a) - len(b)) > 1:
        return False
    start = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        start += 1
    a, b = a[start:], b[start:]
    return a == b or a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])
