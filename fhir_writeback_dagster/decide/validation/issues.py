"""What validation finds: a layer, a code and a path, never a value of the payload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ValidationStage = Literal["syntactic", "semantic"]
IssueSeverity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Issue:
    """``code`` is an invariant's key (``obs-6``) or a word of ours (``required``); ``path`` is ``Observation.code.coding[0]``.

    Only ``error`` makes a payload invalid.
    """

    layer: ValidationStage
    code: str
    path: str
    severity: IssueSeverity = "error"

    def to_json(self) -> dict[str, str]:
        """As a verdict keeps it beside its reasons."""
        return {"layer": self.layer, "code": self.code, "path": self.path, "severity": self.severity}


def path_text(path: tuple[str | int, ...]) -> str:
    """``("Observation", "component", 0, "code")`` as ``Observation.component[0].code``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]
