"""`LearnedDiffWrapper`, and envs of other libraries, a folder each."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffsurrogate.wrappers.learned import LearnedDiffWrapper
    from diffsurrogate.wrappers.split_agents import SplitAgents
    from diffsurrogate.wrappers.team_reward import TeamReward

__all__ = ["LearnedDiffWrapper", "SplitAgents", "TeamReward"]
_MODULES = {
    "LearnedDiffWrapper": "learned",
    "SplitAgents": "split_agents",
    "TeamReward": "team_reward",
}


def __getattr__(name: str) -> Any:
    """Import a wrapper where it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
