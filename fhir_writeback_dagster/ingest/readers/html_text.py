"""What people see of an HTML element, as text that says no more and no less.

Marks that change what a text says are kept or refused, never dropped: ``10<sup>9</sup>`` becomes ``10⁹`` and a footnote's
``4.1<sup>2</sup>`` becomes ``4.1²``, which is no number to anybody; ``<del>5</del><ins>8</ins>`` is 8.
"""

from __future__ import annotations

import re
from typing import Any

from lxml import etree

_BREAKS = frozenset(
    "address article blockquote br dd div dl dt fieldset figure footer form h1 h2 h3 h4 h5 h6 header hr img li main ol p pre"
    " section select table td textarea th tr ul".split()
)
#: Never shown, or shown as no longer true.
_SILENT = frozenset({"script", "style", "template", "noscript", "datalist", "del", "s", "strike", "title"})
#: Class names that the common style sheets use for what only a screen reader shall say.
_FOR_READERS = frozenset(
    {"sr-only", "visually-hidden", "visuallyhidden", "screen-reader-only", "screen-reader-text", "cdk-visually-hidden"}
)
_HIDDEN = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|text-decoration[a-z-]*\s*:[^;]*line-through"
    r"|(?:opacity|font-size)\s*:\s*0*\.?0*(?:px|em|rem|pt|%)?\s*(?:;|!|$)",
    re.IGNORECASE,
)
_SIGNS = "0123456789+-\u2212"
_SUPERSCRIPT = str.maketrans(_SIGNS, "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻")
_SUBSCRIPT = str.maketrans(_SIGNS, "₀₁₂₃₄₅₆₇₈₉₊₋₋")
_RAISED = {"sup": (_SUPERSCRIPT, "^"), "sub": (_SUBSCRIPT, "_")}
#: Places where a line may break, without a width: soft hyphen, zero-width space, word joiner, byte order mark.
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))


def text_of(element: Any) -> str:
    """The text, with runs of blanks as one; in linear time, whatever the depth."""
    if len(element) == 0:
        return _tidy(element.text or "")
    parts: list[list[str]] = [[]]  # what a raised element says is written anew at its end
    walk = etree.iterwalk(element, events=("start", "end"))
    for event, part in walk:
        if event == "start" and part is not element and _unseen(part):
            parts[-1].append(" ")  # or what stood on both sides of it would be glued: 5<i aria-hidden=true>.</i>4
            walk.skip_subtree()
            continue
        tag, own = part.tag, part is not element
        if event == "start":
            if tag in _RAISED and own:
                parts.append([])
            elif tag in _BREAKS:
                parts[-1].append(" ")
            parts[-1].append((part.get("alt") or "") if tag == "img" else part.text or "")
        else:
            if own and not _unseen(part):
                if tag in _RAISED:
                    raised = _raised(tag, "".join(parts.pop()))
                    parts[-1].append(raised)
                elif tag in _BREAKS:
                    parts[-1].append(" ")
            if own:
                parts[-1].append(part.tail or "")
    return _tidy("".join(parts[0]))


def _tidy(text: str) -> str:
    return " ".join(text.translate(_INVISIBLE).split())


def _unseen(element: Any) -> bool:
    if element.tag in _SILENT or element.get("hidden") is not None or element.get("aria-hidden") == "true":
        return True
    if element.tag == "option" and element.get("selected") is None:
        return True
    style, classes = element.get("style"), element.get("class")
    return bool((style and _HIDDEN.search(style)) or (classes and not _FOR_READERS.isdisjoint(classes.lower().split())))


def _raised(tag: str, text: str) -> str:
    """Digits and signs as the characters that look so; other text behind a mark, so that it is not glued to what it stands at."""
    digits, mark = _RAISED[tag]
    said = " ".join(text.split())
    if said and all(character in _SIGNS for character in said):
        return said.translate(digits)
    return f"{mark}{said}" if said else ""
