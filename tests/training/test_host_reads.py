"""What an update reads back from the device: nothing in a loop, as each read waits for a GPU."""

import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toys.reach import Reach

from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.policy_updates import HybridUpdateConfig
from diffsurrogate.algorithms.ppo import PPO, PPOConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.surrogates.config import FitConfig, SurrogateConfig
from diffsurrogate.training.trainer import Trainer
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2"}


class CountReads(TorchDispatchMode):
    """Counts operations whose result the processor has to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if (masks or name in READS) and not only_on_a_cpu():
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def only_on_a_cpu() -> bool:
    """Whether `RunningStatistics.forward` asks whether agents leave, which it does not on a GPU."""
    return any(
        (frame.f_code.co_name, Path(frame.f_code.co_filename).name) == ("forward", "normaliser.py")
        for frame, _ in traceback.walk_stack(None)
    )


def reads_of_an_update(agent: Trainer) -> Counter[str]:
    """Of the third update, when nothing is new."""
    updates = agent.iterations(3)
    next(updates), next(updates)
    with CountReads() as counted:
        next(updates)
    return counted.found


def shac(times: int) -> SHAC:
    clip = ClipConfig(epochs=times, batch_size=30, advantage="shared", target_kl=None)
    env = LearnedDiffWrapper(Reach(), config=SurrogateConfig(fit=FitConfig(minibatches=3 * times)))
    config = SHACConfig(
        horizon=4,
        update=HybridUpdateConfig(ppo=clip),
        value=ValueLearningConfig(minibatches=2 * times),
    )
    return SHAC(env, config, seed=0)


def ppo(times: int) -> PPO:
    clip = replace(PPOConfig().clip, epochs=times, batch_size=30, target_kl=None)
    return PPO(Reach(), PPOConfig(horizon=4, clip=clip), seed=0)


@pytest.mark.parametrize("make", [shac, ppo])
def test_more_minibatches_read_no_more_values(make):
    few, many = (reads_of_an_update(make(times)) for times in (1, 3))
    assert few == many
    assert few["_local_scalar_dense"] > 0  # metrics
