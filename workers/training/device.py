"""Does a rank compute on what Ray has given it? Knows nothing of torch but what it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class NoDevice(RuntimeError):
    """Ray gave a rank an accelerator that it cannot compute on; the message says why and what to do."""


def require_device(granted: Sequence[object], environment: Mapping[str, str], sees: bool, torch: str) -> None:
    """Raise NoDevice where a rank would silently train on a processor. `granted` are the accelerators that Ray gave it,
    `sees` is whether torch finds any, and `torch` that library's version."""
    if not granted:
        return
    what = f"Ray gave this rank accelerator {', '.join(map(str, granted))}, but "
    if environment.get("DS_ACCELERATOR", "cuda") != "cuda":
        raise NoDevice(
            f"{what}DS_ACCELERATOR is {environment['DS_ACCELERATOR']!r} in its environment, so that it would train "
            "elsewhere: unset it there, or set cluster.accelerators: none"
        )
    if not sees:
        visible = environment.get("CUDA_VISIBLE_DEVICES", "not set")
        raise NoDevice(
            f"{what}torch {torch} sees none (CUDA_VISIBLE_DEVICES: {visible}), and it would train on processors. Look "
            "whether `nvidia-smi` works on the node, whether its driver is new enough for the CUDA of this torch, and "
            "whether this torch is not built for processors alone (`+cpu`): install the wheel that fits the driver; or "
            "set cluster.accelerators: none"
        )
