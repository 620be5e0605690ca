"""Drills: a named misfortune on a real server, and a count — by reading the EHR — of whether every promise held.

`catalogue`   the drills: small objects that say what happens
`ward`        what a drill acts on: a tenant with its extracts, its EHR, its commit workers, its clock
`stage`       what drills share: PostgreSQL, a FHIR server, the fault proxy between
`crew`        commit workers as processes of the operating system, to be killed and replaced
`finding`     what stands in the EHR, held against what was asked for and against the ledger
`play`        one drill from the first extract to its result
"""
