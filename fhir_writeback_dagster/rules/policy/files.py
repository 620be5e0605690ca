"""Cedar files read so that every complaint names file, line, column and what was expected.

cedarpy's parse errors carry no position, so it is found here: the first token after which the text can no longer be completed to
a policy. That costs a parse a token, and only once a file is known to be wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cedarpy

from fhir_writeback_dagster.errors import ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*")
_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*)|"(?:[^"\\\n]|\\.)*"|[A-Za-z_][A-Za-z0-9_]*|\d+|::|==|!=|<=|>=|&&|\|\||.""", re.DOTALL
)
# What may stand next, as it is tried and as it is told.
_EXPECTABLE = {"zz": "a word", '"zz"': "a text", "1": "a number"} | {
    sign: f"`{sign}`" for sign in ("(", ")", "{", "}", "[", "]", ",", ";", ":", "::", ".", "==", "&&", "||", "@")
}
_WRONG_TOKEN = ("unexpected token", "invalid token")
_FIX = 'each policy is `@id("…") permit|forbid (principal, action, resource) when { … };`'


@dataclass(frozen=True, slots=True)
class _Statement:
    """One policy of a file: its text and where it begins (offset of its first token in the file's text)."""

    path: Path
    source: str
    start: int
    text: str

    def where(self, offset: int = 0) -> str:
        before = self.source[: self.start + offset]
        return f"{self.path}:{before.count(chr(10)) + 1}:{len(before) - (before.rfind(chr(10)) + 1) + 1}"

    def where_of(self, complaint: str) -> str:
        """Where what a complaint names in backticks or at its end stands; else where the policy begins."""
        for name in [*re.findall(r"`([^`]+)`", complaint), complaint.rsplit(" ", 1)[-1]]:
            last = name.rsplit("::", 1)[-1]
            found = re.search(rf"(?<!\w){re.escape(last)}(?!\w)", self.text)
            if found:
                return self.where(found.start())
        return self.where()


def policy_path(folder: Path, name: str) -> Path:
    """:raises ConfigError: the name is none (it never leaves the folder), or there is no such file."""
    if not _NAME.fullmatch(name):
        raise ConfigError("bad_policy_name", "not a name of a policy file", where=str(folder), fix="letters, digits, - _ /")
    path = folder / f"{name}.cedar"
    if not path.is_file():
        known = ", ".join(sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.cedar")))
        raise ConfigError("unknown_policy", f"no policies {name}", where=str(path), fix=f"known: {known or 'none'}")
    return path


def compile_schema(path: Path) -> Any:
    """The prepared schema.

    :raises ConfigError: it is missing or not a Cedar schema.
    """
    try:
        return cedarpy.Schema.from_str(_read(path))
    except ValueError as error:
        raise ConfigError("bad_policy_schema", str(error), where=str(path), fix="fix the Cedar schema") from None


def compile_policies(paths: Sequence[Path], schema: Any) -> tuple[Any, list[str]]:
    """One prepared policy set of all files, keyed by ``@id``, and the ids in the order of the files.

    :raises ConfigError: as :func:`fhir_writeback_dagster.rules.policy.cedar.load_policies` says.
    """
    named: dict[str, tuple[_Statement, Any]] = {}
    for statement in (s for path in paths for s in _statements(path)):
        policy = _parse(statement)
        name = policy.get("annotations", {}).get("id") or ""
        if not name:
            raise ConfigError("policy_without_id", "a policy has no @id", where=statement.where(), fix=_FIX)
        if name in named:
            other = named[name][0].where()
            raise ConfigError(
                "policy_id_twice", f"the id {name} stands also at {other}", where=statement.where(), fix="rename one of them"
            )
        _validate(statement, schema)
        named[name] = (statement, policy)
    document = {"staticPolicies": {n: p for n, (_, p) in named.items()}, "templates": {}, "templateLinks": []}
    return cedarpy.PolicySet.from_json_str(json.dumps(document)), list(named)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("file_missing", "there is no such file", where=str(path), fix="create it or fix the name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("file_unreadable", type(error).__name__, where=str(path), fix="make it readable UTF-8") from None


def _statements(path: Path) -> Iterator[_Statement]:
    """The policies of a file: Cedar ends each with a semicolon, which stands nowhere else but in strings and comments."""
    source = _read(path)
    start: int | None = None
    for token in _TOKEN.finditer(source):
        if token["skip"] is not None:
            continue
        if start is None:
            start = token.start()
        if token[0] == ";":
            yield _Statement(path, source, start, source[start : token.end()])
            start = None
    if start is not None:
        yield _Statement(path, source, start, source[start:])


def _parse(statement: _Statement) -> dict[str, Any]:
    problem = _complaint(statement.text)
    if problem is not None:
        raise _bad_policy(statement, problem)
    document = json.loads(cedarpy.policies_to_json_str(statement.text))
    if document["templates"]:
        raise ConfigError(
            "policy_template",
            "a template with ?principal or ?resource never applies",
            where=statement.where(max(statement.text.find("?"), 0)),
            fix="name the principal and the resource",
        )
    (policy,) = document["staticPolicies"].values()
    return dict(policy)


def _complaint(text: str) -> str | None:
    try:
        cedarpy.policies_to_json_str(text)
    except ValueError as error:
        return str(error)
    return None


def _bad_policy(statement: _Statement, problem: str) -> ConfigError:
    text = statement.text
    offset = len(text.rstrip()) if problem.startswith("unexpected end") else _wrong_token(text)
    if offset is None:  # well-formed, but not a policy
        return ConfigError("bad_policy", problem, where=statement.where_of(problem), fix=_FIX)
    expected = [told for tried, told in _EXPECTABLE.items() if _may_follow(text[:offset], tried)]
    if expected:
        problem += f", expected {' or '.join(expected)}"
    return ConfigError("bad_policy", problem, where=statement.where(offset), fix=_FIX)


def _wrong_token(text: str) -> int | None:
    """Offset of the token that the parser stumbles over; it may recover and tell only some tokens later."""
    tokens: list[re.Match[str]] = []
    for token in _TOKEN.finditer(text):
        if token["skip"] is not None:
            continue
        tokens.append(token)
        complaint = _complaint(text[: token.end()]) or ""
        if complaint.startswith(_WRONG_TOKEN):
            return next((t.start() for t in reversed(tokens) if f"`{t[0]}`" in complaint), token.start())
    return None


def _may_follow(before: str, word: str) -> bool:
    """The parser takes ``word`` and stumbles, if at all, over the semicolon that we put behind it."""
    problem = _complaint(f"{before} {word} {'' if word == ';' else ';'}")
    return problem is None or not problem.startswith(_WRONG_TOKEN) or (word != ";" and "`;`" in problem)


def _validate(statement: _Statement, schema: Any) -> None:
    result = cedarpy.validate_policies(statement.text, schema)
    if result.validation_passed:
        return
    complaints = [re.sub(r"^for policy `policy\d+`, ", "", error.error) for error in result.errors]
    complaints.sort(key=lambda complaint: ("`" not in complaint, complaint))  # what names its culprit first; else no order
    raise ConfigError(
        "policy_not_in_schema",
        "; ".join(complaints[:3]) or "the schema refuses it",
        where=statement.where_of(complaints[0] if complaints else ""),
        fix="what policies can speak of stands in schema.cedarschema",
    )
