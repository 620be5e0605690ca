-- Who is the same as these persons, by one alias or several.
WITH RECURSIVE same (person, other) AS (
  SELECT person_id, same_as FROM decision.person_alias WHERE tenant = %(tenant)s AND person_id = ANY (%(persons)s)
  UNION
  SELECT s.person, a.same_as FROM same s
  JOIN decision.person_alias a ON a.tenant = %(tenant)s AND a.person_id = s.other
)
SELECT person, other FROM same WHERE other <> person
