"""All settings of a run: what there is, the presets and methods made of it, and its checks."""

from lsp.config.changes import changed, setting_names
from lsp.config.config import Config, named_code
from lsp.config.methods import METHODS, make_config
from lsp.config.planner_checks import with_refit
from lsp.config.planner_settings import ActionsConfig, PlannerConfig, RefitKind
from lsp.config.presets import PRESETS, default_runtime
from lsp.config.ranges import no_count, no_seed
from lsp.config.serialization import ADDED, differences, flattened, from_dict, to_dict
from lsp.config.settings import (
    BehaviorConfig,
    HiroConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyConfig,
    ReplayConfig,
    RuntimeConfig,
    ScheduleConfig,
    SkillsConfig,
    TransferConfig,
    ValueConfig,
)
from lsp.config.transfers import on_another_task
from lsp.config.validation import shortest_sequence, validated

__all__ = [
    "ADDED",
    "METHODS",
    "PRESETS",
    "ActionsConfig",
    "BehaviorConfig",
    "Config",
    "HiroConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PlannerConfig",
    "PolicyConfig",
    "RefitKind",
    "ReplayConfig",
    "RuntimeConfig",
    "ScheduleConfig",
    "SkillsConfig",
    "TransferConfig",
    "ValueConfig",
    "changed",
    "default_runtime",
    "differences",
    "flattened",
    "from_dict",
    "make_config",
    "named_code",
    "no_count",
    "no_seed",
    "on_another_task",
    "setting_names",
    "shortest_sequence",
    "to_dict",
    "validated",
    "with_refit",
]
