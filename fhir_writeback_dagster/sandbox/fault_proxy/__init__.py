"""An HTTP proxy between the engine and any real FHIR server on which things go wrong, by a script.

::

    with FaultProxy(server.base_url) as proxy:
        proxy.script([Rule("lost", DropAnswer(), on=("create",), probability=0.2)], seed=7)
        ...                                  # the engine's `ehr.base_url` is proxy.base_url
        proxy.faults                         # {"lost": 17}

`exchange`      a request, what interaction it is, an answer
`faults`        what can go wrong with one exchange
`misleading`    answers that look like evidence and are none
`script`        rules: what goes wrong when, the same under the same seed
`personality`   what an EHR always does otherwise than R4 says
`server`        the proxy itself
"""
