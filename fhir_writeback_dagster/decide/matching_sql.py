"""The lookups of matching. Each names tenant and target wherever it reads; row-level security is only the net under it."""

from __future__ import annotations

from typing import Final

PATIENT_HITS: Final = """
SELECT i.identifier, i.patient_id
FROM mirror.patient_identifier i
WHERE i.tenant = %(tenant)s AND i.target = %(target)s AND i.identifier = ANY(%(digests)s)
"""

# UNION, not UNION ALL: a cycle of merges brings nothing new and so ends. `body` comes only for who must be compared, which
# spares the reading of a resource (kilobytes, out of line) for the many rows that name their patient by a number alone.
PATIENTS: Final = """
WITH RECURSIVE chain AS (
  SELECT p.patient_id, p.replaced_by, p.replaced_by IS NOT NULL OR p.patient_id = ANY(%(compared)s) AS compared
  FROM mirror.patient p
  WHERE p.tenant = %(tenant)s AND p.target = %(target)s AND p.patient_id = ANY(%(patients)s)
  UNION
  SELECT p.patient_id, p.replaced_by, true
  FROM chain c JOIN mirror.patient p ON p.patient_id = c.replaced_by
  WHERE p.tenant = %(tenant)s AND p.target = %(target)s
), needed AS (
  SELECT c.patient_id, bool_or(c.compared) AS compared FROM chain c GROUP BY c.patient_id
)
SELECT p.patient_id, p.active, p.deceased, p.replaced_by, CASE WHEN n.compared THEN p.body END
FROM needed n JOIN mirror.patient p ON p.patient_id = n.patient_id
WHERE p.tenant = %(tenant)s AND p.target = %(target)s
"""

# `patients` is the encounter's patient and everyone whom merges replaced that patient by.
ENCOUNTERS: Final = """
WITH RECURSIVE hit AS (
  SELECT i.identifier, e.encounter_id, e.patient_id, e.status, e.starts_at, e.ends_at
  FROM mirror.encounter_identifier i
  JOIN mirror.encounter e ON e.tenant = i.tenant AND e.target = i.target AND e.encounter_id = i.encounter_id
  WHERE i.tenant = %(tenant)s AND i.target = %(target)s AND i.identifier = ANY(%(digests)s)
), chain AS (
  SELECT h.patient_id AS origin, h.patient_id AS reached FROM hit h WHERE h.patient_id IS NOT NULL
  UNION
  SELECT c.origin, p.replaced_by
  FROM chain c JOIN mirror.patient p ON p.patient_id = c.reached
  WHERE p.tenant = %(tenant)s AND p.target = %(target)s AND p.replaced_by IS NOT NULL
)
SELECT h.identifier, h.encounter_id, h.status, h.starts_at, h.ends_at,
       ARRAY(SELECT c.reached FROM chain c WHERE c.origin = h.patient_id)
FROM hit h
"""
