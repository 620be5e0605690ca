"""How a name sounds, roughly: a key for blocking, under which misspellings of one name mostly fall together."""

from __future__ import annotations

from functools import lru_cache

_CLASSES = {c: str(n) for n, group in enumerate(("bfpv", "cgjkqsxz", "dt", "l", "mn", "r"), 1) for c in group}
_STARTS = (("ph", "f"), ("kn", "n"), ("wr", "r"), ("ck", "k"), ("c", "k"), ("q", "k"), ("z", "s"), ("v", "f"), ("y", "i"))


@lru_cache(maxsize=1 << 16)
def sound(word: str) -> str:
    """Soundex (Russell 1918) with the usual spellings of one first sound made equal; other scripts keep their letters.

    >>> sound("philips") == sound("fillips"), sound("catherine") == sound("katharina")
    (True, False)
    """
    for spelled, same in _STARTS:
        if word.startswith(spelled):
            word = same + word[len(spelled) :]
            break
    if not word or not word.isascii():
        return word[:4]
    code, last = word[0], _CLASSES.get(word[0], "")
    for letter in word[1:]:
        group = _CLASSES.get(letter, "")
        if group and group != last:
            code += group
        if letter not in "hw":
            last = group
    return (code + "000")[:4]
