"""Whether a service answers: the question that its own clients ask, not only whether its port is open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx

from fhir_writeback_dagster.ops.sockets import answers

_TIMEOUT_S = 5.0


def code_location(socket: Path) -> bool:
    """A ``dagster api grpc`` server is serving: it has loaded its definitions, or holds the error of loading them."""
    if not answers(socket):
        return False
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    # A pool of its own: the shared one remembers refusals of earlier probes and waits up to two minutes before it tries again.
    with grpc.insecure_channel(f"unix:{socket}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="DagsterApi"), timeout=_TIMEOUT_S
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def webserver(url: str, headers: Mapping[str, str]) -> bool:
    """Dagster's webserver answers whom it knows."""
    try:
        return httpx.get(f"{url}/server_info", headers=headers, timeout=_TIMEOUT_S, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
