"""Where Ray's workers look for modules. Ray puts the driver's current folder first, which may be a stranger's run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.config.places import in_ray_package
from orchestrator.files.named import real

_ROOT = real(Path(__file__)).parents[2]
_INSTALLED = ("site-packages", "dist-packages")


def job_config(kind: Any) -> Any:
    """A job of Ray's (`kind` is its JobConfig) whose workers get the folder of this project, and not the current one;
    nothing at all where the project is installed, or came with the job, since they find it by themselves then."""

    class WithoutCurrentFolder(kind):  # type: ignore[misc]  # Ray has no types here
        """Ray asks a job this before it adds the current folder."""

        def _runtime_env_has_working_dir(self) -> bool:
            return True

    found = _ROOT.name in _INSTALLED or in_ray_package(_ROOT)
    return WithoutCurrentFolder(_py_driver_sys_path=[] if found else [str(_ROOT)])
