"""Changing a tenant's modes. The tenant's file holds them; every change of them, by command or by hand, is an audit event.

``decision.mode`` keeps the modes as they were last audited: the command writes both, and a run of decide that finds the file
otherwise tells of it. What ``off`` and ``shadow`` held back stays so until :func:`replay` is asked for.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml
from psycopg import Connection
from psycopg.types.json import Jsonb

from fhir_writeback_dagster.config.tenants import Mode, ModeSettings, load_tenant
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.modes import writes
from fhir_writeback_dagster.store.db import record_event


def set_mode(run: RunContext, mode: Mode, resource_type: str | None, by: str, reason: str) -> ModeSettings:
    """Write the tenant's file with ``mode`` for one resource type, or for all that have none of their own.

    :raises ConfigError: the file cannot be written; nothing changed.
    """
    before = run.tenant.modes
    change = {"default": mode} if resource_type is None else {"by_type": {**before.by_type, resource_type: mode}}
    after = before.model_copy(update=change)
    path = run.settings.tenants / f"{run.id}.yaml"
    with run.store.tenant(run.id) as connection:
        _tell(connection, run, before, after, {"by": by, "reason": reason})
        _replace(path, with_modes(path.read_text(encoding="utf-8"), after))
    return after


def note(connection: Connection[Any], run: RunContext) -> None:
    """Audit modes that were changed in the file by hand since they were last told of.

    The file is read under the row's lock: a command that changes both has done either nothing or both by then.
    """
    row = connection.execute("SELECT modes FROM decision.mode WHERE tenant = %s FOR UPDATE", (run.id,)).fetchone()
    before = ModeSettings.model_validate(row[0]) if row else ModeSettings()
    now = load_tenant(run.settings.tenants, run.id).modes
    if row is None or before != now:
        _tell(connection, run, before, now, {"by": "tenant_file"})


def _tell(connection: Connection[Any], run: RunContext, before: ModeSettings, after: ModeSettings, why: dict[str, str]) -> None:
    told = after.model_dump(mode="json")
    connection.execute(
        "INSERT INTO decision.mode (tenant, modes, changed_at) VALUES (%s, %s, %s) "
        "ON CONFLICT (tenant) DO UPDATE SET modes = excluded.modes, changed_at = excluded.changed_at",
        (run.id, Jsonb(told), run.now()),
    )
    record_event(connection, "mode.changed", [run.id], [{"from": before.model_dump(mode="json"), "to": told, **why}])


def replay(run: RunContext, resource_type: str | None, by: str, reason: str) -> int:
    """Let decide look again at what ``off`` or ``shadow`` held back, where the mode writes by now; returns how many.

    :raises ConfigError: no such type's mode writes.
    """
    with run.store.tenant(run.id) as connection:
        held = connection.execute(
            "SELECT candidate_id, record_id, resource_type FROM decision.candidate WHERE tenant = %s AND target = %s "
            "AND state = 'not_written' AND (%s::text IS NULL OR resource_type = %s)",
            (run.id, run.tenant.ehr.target, resource_type, resource_type),
        ).fetchall()
        again = [(candidate, record) for candidate, record, kind in held if writes(run.tenant.modes.of(kind))]
        if held and not again:
            raise ConfigError(
                "mode_writes_nothing",
                f"{len(held)} are held back, all by a mode that still writes nothing",
                where=f"tenants/{run.id}.yaml: modes",
                fix="set a mode that writes first",
            )
        connection.execute(
            "INSERT INTO canonical.outbox (tenant, record_id) SELECT %s, r FROM unnest(%s::uuid[]) AS r ON CONFLICT DO NOTHING",
            (run.id, [record for _, record in again]),
        )
        details = [{"by": by, "reason": reason}] * len(again)
        record_event(connection, "candidate.replayed", [str(candidate) for candidate, _ in again], details)
    return len(again)


def with_modes(text: str, modes: ModeSettings) -> str:
    """A tenant's file with other modes; everything else, comments too, stays as it is written."""
    shown = modes.model_dump(mode="json", exclude_defaults=True) | {"default": modes.default}
    written = yaml.safe_dump(shown, default_flow_style=True, sort_keys=True, width=10_000).strip()
    line = "modes: " + written.replace("'off'", "off")  # a word to our loader, so without quotes, as people write it
    root = yaml.compose(text, yaml.SafeLoader)
    found = next((pair for pair in root.value if pair[0].value == "modes"), None) if isinstance(root, yaml.MappingNode) else None
    if found is None:
        return f"{text.rstrip()}\n{line}\n"
    return text[: found[0].start_mark.index] + line + text[_end(found[1]) :]


def _end(node: yaml.Node) -> int:
    """Where the text of ``node`` ends; a block's own mark lies after the comments that follow it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return _end(node.value[-1][1])
    return int(node.end_mark.index)


def _replace(path: Path, text: str) -> None:
    """Whole or not at all: runs read this file while it is written."""
    try:
        mode = path.stat().st_mode & 0o777
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(mode)
        Path(name).replace(path)
    except OSError as error:
        raise ConfigError(
            "file_unwritable",
            f"the tenant's file cannot be changed ({type(error).__name__})",
            where=str(path),
            fix="change `modes` where the file comes from; the next run of decide audits it",
        ) from None
