"""Settings that cannot work are refused where they are made, in words; networks' in tests/nets."""

import math
from typing import Any

import jaxtyping
import pytest

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.all_action import AllActionConfig
from diffsurrogate.algorithms.bppo import BPPOConfig
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig, HybridUpdateConfig
from diffsurrogate.algorithms.ppo import PPOConfig
from diffsurrogate.algorithms.shac import SHACConfig
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import SeparateNetConfig
from diffsurrogate.surrogates.action_world_model import ActionWorldModelConfig
from diffsurrogate.surrogates.config import FitConfig, SurrogateConfig
from diffsurrogate.surrogates.step_model import StepModelConfig

OUT_OF_RANGE: list[tuple[type, str, list[Any]]] = [
    (ActorConfig, "std", [-1.0]),
    (CriticConfig, "head_gain", [-1.0]),
    (CriticConfig, "target_decay", [-0.1, 1.0]),
    (NoiseConfig, "correlation", [-0.1, 1.0]),
    *((kind, "ema_decay", [-0.1, 1.0, math.nan]) for kind in (SHACConfig, PPOConfig)),
    *((kind, "horizon", [0]) for kind in (SHACConfig, PPOConfig)),
    *((kind, "gamma", [1.1]) for kind in (SHACConfig, PPOConfig)),
    (SHACConfig, "betas", [(0.9, 1.0)]),
    (PPOConfig, "lam", [-0.1]),
    (PPOConfig, "critic_lr", [-1.0]),
    (ClipConfig, "epochs", [-1]),
    (ClipConfig, "batch_size", [0]),
    (ClipConfig, "clip_range", [0.0]),
    (ClipConfig, "entropy_weight", [-0.1]),
    (PathwiseConfig, "segment_length", [0]),
    (PathwiseConfig, "max_growth", [0.0]),
    (PathwiseConfig, "minibatches", [0]),
    (PathwiseConfig, "lam", [1.5]),
    (PathwiseConfig, "action_penalty_weight", [-1.0]),
    (AllActionConfig, "minibatches", [0]),
    (GradientUpdateConfig, "lr", [-1.0]),
    (GradientUpdateConfig, "max_grad_norm", [0.0]),
    (HybridUpdateConfig, "weight", [-0.1]),
    (HybridUpdateConfig, "weight_steps", [0]),
    (ValueLearningConfig, "minibatches", [0]),
    (ValueLearningConfig, "batch_size", [0]),
    (ValueLearningConfig, "lam", [-0.1]),
    (ValueLearningConfig, "expectile", [1.0]),
    (ValueLearningConfig, "expectile_one_signed", [1.0]),
    (FitConfig, "minibatches", [0]),
    (FitConfig, "batch_size", [0]),
    (FitConfig, "capacity", [0]),
    (FitConfig, "every", [0]),
    (FitConfig, "reward_bins", [0, -1]),
    (SurrogateConfig, "adjoint_clip", [0.0]),
    (ActionWorldModelConfig, "batch_size", [0]),
    (ActionWorldModelConfig, "trajectories", [0]),
    (ActionWorldModelConfig, "max_horizon", [0]),
    (StepModelConfig, "num_frequencies", [-1]),
]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [(kind, name, value) for kind, name, values in OUT_OF_RANGE for value in values],
)
def test_a_number_out_of_range_is_named(kind, name, value):
    with pytest.raises(UsageError, match=name):
        kind(**{name: value})


SEPARATE = SeparateNetConfig()
CENTRAL = SeparateNetConfig(centralised=True)
ALONE = ActorConfig(net=SEPARATE, order="listed", conditioning="none")
HYBRID, SQUASHED = HybridUpdateConfig(), ActorConfig(squash=True)
AT_ONCE = {"use_peer_gradient": False, "scheme": "simultaneous"}
TOO_LONG = GradientUpdateConfig(gradient=PathwiseConfig(segment_length=5))
REFUSED: list[tuple[type, dict[str, Any], str]] = [
    (SHACConfig, {"update": TOO_LONG}, "divides the horizon"),
    (SHACConfig, {"update": HYBRID, "actor": SQUASHED}, "leave actor.squash False"),
    (HybridUpdateConfig, {"ppo": ClipConfig(epochs=0)}, r"ppo\.epochs is 0"),
    (PPOConfig, {"clip": ClipConfig(epochs=0)}, "epochs"),
    (PPOConfig, {"actor": SQUASHED}, "leave actor.squash False"),
    (PPOConfig, {"critic": CriticConfig(ensemble=2)}, "leave it at 1"),
    (PathwiseConfig, {"segment_length": 4, "max_growth": 10.0}, "one of them at None"),
    (PPOConfig, {"lr_schedule": "lineal"}, "did you mean 'linear'"),
    (ClipConfig, {"ratio": "jiont"}, "did you mean 'joint'"),
    (ClipConfig, {"advantage": "mine"}, "'individual', 'shared'"),
    (ActorConfig, {"order": "listed"}, "use a SeparateNetConfig"),
    (ActorConfig, {"order": "listed", "net": CENTRAL}, "leave it False"),
    (ActorConfig, {"net": SEPARATE, "conditioning": "raw"}, 'leave it at "projection"'),
    (ActorConfig, {"net": SEPARATE, "conditioning": "none"}, "choose another order"),
    (BPPOConfig, {"actor": ActorConfig()}, "choose another order"),
    (BPPOConfig, {"clip": ClipConfig(ratio="joint")}, "leave it at 'per_agent'"),
    (BPPOConfig, {"update_order": "random"}, "update_order='backward'"),
    (BPPOConfig, {"update_order": "random", **AT_ONCE}, "scheme='sequential'"),
    (BPPOConfig, {"use_peer_ratio": False}, "use_peer_ratio=True"),
    (BPPOConfig, {"actor": ALONE}, "actor.conditioning is 'none'; set it to False"),
    (PPOConfig, {"horizon": 2.5}, "horizon is 2.5; it must be a whole number"),
    (HybridUpdateConfig, {"weight_steps": 1e6}, "weight_steps is 1000000.0; it must be a whole"),
    (ActionWorldModelConfig, {"heads": 3}, "heads = 3 must divide width = 64"),
    (ActionWorldModelConfig, {"predict": "velocity"}, "change.*absolute"),
]


@pytest.mark.parametrize(("kind", "settings", "advice"), REFUSED)
def test_settings_that_cannot_work_get_advice(kind, settings, advice, monkeypatch):
    """Where types are not checked, too."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match=advice):
        kind(**settings)


def test_a_usage_error_is_the_error_that_python_has_for_such_values():
    with pytest.raises(ValueError, match="std is -1"):
        ActorConfig(std=-1.0)
