"""A saved configuration comes back as the variants it had."""

import itertools
import json
from dataclasses import asdict, replace

import pytest

from diffsurrogate.algorithms.policy_updates import (
    AllActionConfig,
    GradientUpdateConfig,
    HybridUpdateConfig,
    PathwiseConfig,
)
from diffsurrogate.algorithms.shac import SHACConfig
from diffsurrogate.config import config_from_dict
from diffsurrogate.surrogates.action_world_model import ActionWorldModelConfig
from diffsurrogate.surrogates.config import SurrogateConfig
from diffsurrogate.surrogates.step_model import StepModelConfig

GRADIENTS = [PathwiseConfig(), PathwiseConfig(minibatches=2), AllActionConfig(minibatches=2)]
UPDATES = [GradientUpdateConfig(lr=1e-4), HybridUpdateConfig(weight=0.7)]


@pytest.mark.parametrize(("update", "gradient"), list(itertools.product(UPDATES, GRADIENTS)))
def test_every_update_survives_json(update, gradient):
    config = SHACConfig(update=replace(update, gradient=gradient))
    assert config_from_dict(SHACConfig, json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize("dynamics", [StepModelConfig(), ActionWorldModelConfig()])
def test_every_model_of_the_dynamics_survives_json(dynamics):
    config = SurrogateConfig(dynamics=dynamics)
    assert config_from_dict(SurrogateConfig, json.loads(json.dumps(asdict(config)))) == config
