"""A process with keys dumps no core and shows nothing of itself to another of the same user; its forks neither."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROBE = """
import ctypes, json, multiprocessing, os, resource, sys
import fhir_writeback_dagster.ops.privacy

def told():
    return [ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE)]  # 3: PR_GET_DUMPABLE

reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, json.dumps(told()).encode())
    os._exit(0)
os.wait()
print(json.dumps([told(), json.loads(os.read(reader, 1000))]), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what is asked is Linux's")
def test_a_process_with_secrets_is_closed_to_others_and_so_are_its_forks() -> None:
    process = subprocess.Popen([sys.executable, "-c", PROBE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout
        assert json.loads(process.stdout.readline()) == [[0, [0, 0]], [0, [0, 0]]]
        if os.geteuid() != 0:  # root reads everything
            with pytest.raises(PermissionError), open(f"/proc/{process.pid}/environ", "rb") as file:  # noqa: PTH123
                file.read()
