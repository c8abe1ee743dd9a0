"""Whose memory a device's is: as the driver's own program tells it, for which a script stands in here."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.config import Generate
from workers.generation.engine import NoDeviceMemory
from workers.generation.vllm import telling_of_memory
from workers.supervision.devices import devices_short_of, taken

SAYS = """#!/bin/sh
case "$1" in
--query-gpu=index,uuid,memory.used) printf '0, GPU-aa, 559\\n1, GPU-bb, [N/A]\\n2, GPU-cc, 70000\\nNo more.\\n';;
--query-gpu=*)
    printf '0, GPU-aa, 81559, 81000\\n1, GPU-bb, 81559, 1000\\n'
    printf '2, GPU-cc, 81559, 70000\\n3, GPU-dd, [N/A], 5\\n';;
--query-compute-apps=*) printf 'GPU-bb, {pid}\\nGPU-bb, 4000000\\nGPU-aa, 5\\n';;
esac
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text(SAYS.format(pid=os.getpid()))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.usefixtures("driver")
def test_devices_that_are_short_of_memory_are_named_with_who_holds_it() -> None:
    one, two = devices_short_of(0.92, {})
    assert one.startswith("device 1 has 1000 of 81559 MiB free, and 92% are asked for; held by process ")
    assert f"process {os.getpid()} (" in one and "process 4000000 (gone, or of another container)" in one
    assert two.startswith("device 2 has 70000 of 81559 MiB free") and two.endswith("does not tell who holds the rest")
    assert devices_short_of(0.8, {"CUDA_VISIBLE_DEVICES": "0,2"}) == [], "those of this process alone, by this share"
    assert devices_short_of(0.92, {"CUDA_VISIBLE_DEVICES": "0, GPU-cc"}) == [two]


@pytest.mark.usefixtures("driver")
def test_what_is_taken_is_told_where_it_is_of_all_devices() -> None:
    assert taken({"CUDA_VISIBLE_DEVICES": "0,GPU-cc"}) == {"0": 559 * 2**20, "2": 70000 * 2**20}
    assert taken({"CUDA_VISIBLE_DEVICES": "0,1"}) is None and taken({}) is None
    assert taken({"CUDA_VISIBLE_DEVICES": "0,MIG-ff"}) is None, "of the second it tells nothing"


@pytest.mark.usefixtures("driver")
def test_a_start_that_fails_where_memory_was_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of a wider engine say no more than that they have failed."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    failed = RuntimeError("WorkerProc initialization failed due to an exception\n in a background process.")
    said = r"an exception in a background process\.; device 1 has 1000"
    with pytest.raises(NoDeviceMemory, match=said), telling_of_memory(Generate(), True):
        raise failed
    little = Generate(engine={"gpu_memory_utilization": 0.01})
    with pytest.raises(RuntimeError) as raised, telling_of_memory(little, True):
        raise failed
    assert raised.value is failed, "there was enough for this one: it failed by itself"
    with telling_of_memory(Generate(), True):
        pass  # it starts all the same


@pytest.mark.parametrize(
    "words",
    [
        "Free memory on device cuda:0 (9.1/79.1 GiB) on startup is less than desired GPU memory utilization (0.92)",
        "Available memory on node 0 (9.1/15.2 GiB) on startup is less than desired CPU memory utilization (0.92)",
    ],
)
def test_vllms_own_words_are_known(words: str) -> None:
    with pytest.raises(NoDeviceMemory, match="on startup is less than desired"), telling_of_memory(Generate(), False):
        raise ValueError(words)
    with pytest.raises(ValueError, match="unknown"), telling_of_memory(Generate(), False):
        raise ValueError("unknown architecture")


@pytest.mark.real
def test_vllms_own_words_are_its_own_still() -> None:
    """Of the version that is installed: this function looks whether an accelerator has as much memory free."""
    from vllm.v1.worker.utils import request_memory

    snapshot = SimpleNamespace(device_="cuda:0", free_memory=2**30, total_memory=2**36)
    with pytest.raises(NoDeviceMemory, match="on device cuda:0"), telling_of_memory(Generate(), False):
        request_memory(snapshot, SimpleNamespace(gpu_memory_utilization=0.92))
