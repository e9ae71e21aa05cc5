"""SHAC interrupted: saved, loaded, refused, and on every device."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from toys.reach import (
    AGENTS,
    ENVS,
    NET,
    Reach,
    config,
    learned,
    learned_reach,
    same,
    true_reach,
    weights,
)

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.envs.env import MultiAgentVectorEnv, State
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import NetConfig
from diffsurrogate.wrappers.vmas.paper_tasks import make as make_paper

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    ),
]


@pytest.mark.parametrize("make_env", [true_reach, learned_reach])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"schedule": "linear"},
        {"noise": NoiseConfig(kind="held", hold=3)},
        {"value_capacity": 0, "noise": NoiseConfig(kind="pink")},
        {"actor": ActorConfig(net=NET, std=0.3, squash=True, learn_std=True)},
    ],
    ids=["ou, linear", "held", "pink, no cache", "squash, learn_std"],
)
def test_a_loaded_trainer_ends_where_the_unbroken_one_does(tmp_path, make_env, kwargs):
    path, settings = tmp_path / "agent.pt", config(**kwargs)
    unbroken, broken = (SHAC(make_env(), settings, seed=3) for _ in range(2))
    unbroken.learn(5 * 28)

    def stop(agent: SHAC, metrics: dict[str, float]) -> bool:
        return agent.iteration < 3

    broken.learn(5 * 28, stop).save(path)
    env = make_env()
    env.reset(seed=11)
    loaded = SHAC.load(path, env, settings)
    assert (loaded.iteration, loaded.seed) == (3, 3)
    assert same(weights(loaded), weights(broken))
    loaded.learn(5 * 28)
    assert same(weights(loaded), weights(unbroken))
    assert torch.equal(loaded.env.current_obs, unbroken.env.current_obs)
    assert not same(weights(loaded), weights(broken))


class Forgetful(Reach):
    """Cannot save its state, and takes only seeds that NumPy's generators take."""

    def _save(self) -> State:
        raise NotImplementedError

    def _reset_all(self, seed: int | None) -> Tensor:
        np.random.RandomState(seed)
        return super()._reset_all(seed)


@pytest.mark.parametrize("randomise_episode_phase", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_an_env_that_saves_no_state_starts_anew(tmp_path, seed, randomise_episode_phase):
    settings = config(randomise_episode_phase=randomise_episode_phase)
    agent = SHAC(Forgetful(), settings, seed=seed).learn(2 * 28)
    agent.save(tmp_path / "agent.pt")
    loaded = SHAC.load(tmp_path / "agent.pt", Forgetful(), settings)
    assert (
        len(loaded.env._steps.unique()) > 1
    ) == randomise_episode_phase  # ages of episodes, all 0 or spread
    assert same(weights(loaded), weights(agent))
    assert loaded.learn(3 * 28).update == 3


def test_saving_before_the_first_update_saves_the_start(tmp_path):
    agent = SHAC(Reach(), config(), seed=3)
    agent.save(tmp_path / "new.pt")
    loaded = SHAC.load(tmp_path / "new.pt", Reach(), config())
    assert same(weights(loaded.learn(56)), weights(agent.learn(56)))


@pytest.mark.parametrize("steps", [0, -3])
def test_learning_for_no_time_is_refused(steps):
    with pytest.raises(UsageError, match=f"total_steps is {steps}"):
        SHAC(Reach(), config()).learn(steps)


OTHERS: dict[str, Callable[[], tuple[MultiAgentVectorEnv, SHACConfig]]] = {
    "agents": lambda: (Reach(agents=2), config()),
    "envs": lambda: (Reach(num_envs=11), config()),
    "no models were saved": lambda: (learned_reach(), config()),
    "network": lambda: (Reach(), config(actor=ActorConfig(net=NetConfig(hidden=(11,))))),
    "learn_std": lambda: (Reach(), config(actor=ActorConfig(net=NET, learn_std=True))),
    "bins": lambda: (Reach(), config(value_bins=2)),
    "a cache was saved, none is wanted": lambda: (Reach(), config(value_capacity=0)),
}


@pytest.mark.parametrize("other", list(OTHERS))
def test_a_checkpoint_of_another_kind_is_refused(tmp_path, other):
    path = tmp_path / "agent.pt"
    SHAC(Reach(), config()).learn(28).save(path)
    env, settings = OTHERS[other]()
    with pytest.raises(UsageError):
        SHAC.load(path, env, settings)


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content):
    path = tmp_path / "agent.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"agent\.pt"):
        SHAC.load(path, Reach(), config())


# --- devices ---------------------------------------------------------------------------------


def home_on(device: str) -> MultiAgentVectorEnv:
    return learned(Reach(differentiable=False, device=device))


def dispersion_on(device: str) -> MultiAgentVectorEnv:
    kwargs = {"num_envs": ENVS, "n_agents": AGENTS, "seed": 0, "max_steps": 5}
    return learned(make_paper("dispersion", device=device, **kwargs))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make_env", [home_on, dispersion_on])
@pytest.mark.parametrize("value_capacity", [0, 20])
def test_updates_saving_and_loading_work_on_every_device(
    tmp_path, device, make_env, value_capacity
):
    path, settings = tmp_path / "agent.pt", config(value_capacity=value_capacity)
    agent = SHAC(make_env(device), settings).learn(84)
    agent.save(path)
    loaded = SHAC.load(path, make_env(device), settings)
    obs = loaded.env.current_obs
    assert obs.device.type == device
    assert torch.equal(obs, agent.env.current_obs)
    assert torch.equal(loaded.predict(obs), agent.predict(obs))
    after = [weights(trainer.learn(168)) for trainer in (agent, loaded)]
    for a, b in zip(*after, strict=True):
        assert a.device.type == device
        assert torch.equal(a, b) if device == "cpu" else torch.allclose(a, b, atol=1e-4)
    assert loaded.predict(obs, deterministic=False).device.type == device
