"""Addresses of MLflow's pages, and what a folder of runs is called there."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from orchestrator.config import Tracking

PLAIN = "?workflowType=machine_learning"
"""Without it MLflow 3.17 opens its pages for traces of agents, which are empty here."""


def run_page(server: str, experiment_id: str, run: str) -> str:
    """The page of a run's curves; `run` is MLflow's id of it."""
    return f"{_runs(server, experiment_id)}/{quote(run, safe='')}/model-metrics{PLAIN}"


def experiment_page(server: str, experiment_id: str) -> str:
    """The page that lists an experiment's runs, where they can be compared."""
    return f"{_runs(server, experiment_id)}{PLAIN}"


def _runs(server: str, experiment_id: str) -> str:
    return f"{server.rstrip('/')}/#/experiments/{quote(experiment_id, safe='')}/runs"


def project_of(tracking: Tracking, run_dir: Path) -> str:
    """The project that a run is told in to stores that have no experiments."""
    return tracking.experiment or project(run_dir)


def project(run_dir: Path) -> str:
    """The name of the project that a run belongs to, by the folders that it is in: of /home/me/maths/runs/irpo it is
    "maths", and of /data/maths/irpo, too."""
    folder = run_dir.absolute().parent
    if folder.name == "runs" and folder.parent.name:
        folder = folder.parent
    return folder.name or "ratchet"
