"""The job file as frozen, typed data. Loading it from YAML, and the errors a user sees, are in load.py.

Every field carries its meaning as a docstring, which is what the documentation is made of. Models
are frozen and refuse unknown keys. No section reads a file or knows a library heavier than pydantic.
"""

from orchestrator.config.base import CountOrZero, Settings, at_round
from orchestrator.config.data import Curriculum, Data, Example, Source
from orchestrator.config.job import OWN_REFERENCES, Cluster, Job, Keep, Method, Tracking, is_executing, only_executes
from orchestrator.config.learning import Loss, Pairs, Promotion, RoundLoss, Rule, Train
from orchestrator.config.lora import Lora
from orchestrator.config.reward import ProcessModel, Reward, RewardModel
from orchestrator.config.sampling import (
    ANSWER_RULES,
    GRADERS,
    THOUGHTS,
    AdaptTemperature,
    Evaluate,
    Generate,
    Grade,
    Grader,
    Harness,
    Judge,
    Regrade,
)
from orchestrator.config.sources import SelfRewarding, SourceSettings, Stages, Steps

__all__ = [
    "ANSWER_RULES",
    "GRADERS",
    "OWN_REFERENCES",
    "THOUGHTS",
    "AdaptTemperature",
    "Cluster",
    "CountOrZero",
    "Curriculum",
    "Data",
    "Evaluate",
    "Example",
    "Generate",
    "Grade",
    "Grader",
    "Harness",
    "Job",
    "Judge",
    "Keep",
    "Lora",
    "Loss",
    "Method",
    "Pairs",
    "ProcessModel",
    "Promotion",
    "Regrade",
    "Reward",
    "RewardModel",
    "RoundLoss",
    "Rule",
    "SelfRewarding",
    "Settings",
    "Source",
    "SourceSettings",
    "Stages",
    "Steps",
    "Tracking",
    "Train",
    "at_round",
    "is_executing",
    "only_executes",
]
