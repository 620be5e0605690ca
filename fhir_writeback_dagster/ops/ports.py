"""Ports on loopback: a taken one is refused by name and number before anything is started on it."""

from __future__ import annotations

import socket

from fhir_writeback_dagster.errors import ServiceError

HOST = "127.0.0.1"


def claim(name: str, port: int, variable: str) -> int:
    """``port`` if nothing listens there; any free one for 0.

    The check connects, it does not only bind: a second ``dagster api grpc`` binds the same port without an error and
    answers with stale definitions (SO_REUSEPORT).

    :raises ServiceError: something listens there already, or this user may not use it; ``variable`` sets another.
    """
    if port and answers(port):
        raise ServiceError(
            "port_taken",
            f"port {port} for {name} is in use",
            where=f"{HOST}:{port}",
            fix=f"stop what listens there, or set {variable}",
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServiceError(
                "port_unusable", f"port {port} for {name}: {error.strerror}", where=f"{HOST}:{port}", fix=f"set {variable}"
            ) from None
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether something accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0
