"""Simulators that are batched tensors already, by the conventions of several libraries."""

import contextlib
import io
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor
from toys.reach import config, learned

from diffsurrogate.algorithms.ppo import PPO
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.errors import UsageError

ENVS, LIMIT = 5, 3
ACTION = torch.full((ENVS, 1, 2), 0.5)


class Batch(gymnasium.Env[Any, Any]):
    """Counts its steps, sees (number of the env, steps), writes into one buffer; as Isaac Lab."""

    num_envs, device, auto_reset = ENVS, "cpu", True
    single_observation_space = spaces.Dict(
        {"policy": spaces.Box(-np.inf, np.inf, (2,)), "critic": spaces.Box(-9, 9, (3,))}
    )
    single_action_space = spaces.Box(-1, 1, (2,))

    def __init__(self) -> None:
        self.seen = torch.zeros(ENVS, 2)
        self.episode_length_buf = torch.zeros(ENVS, dtype=torch.long)

    def reset(
        self, *, seed: int | None = None, env_ids: Any = None, options: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        self.episode_length_buf[slice(None) if env_ids is None else env_ids] = 0
        return self.observe(), {}

    def step(self, action: Tensor) -> Any:
        assert action.shape == (ENVS, *self.single_action_space.shape)
        action += 1  # a simulator may do this
        self.episode_length_buf += 1
        late = self.episode_length_buf >= LIMIT
        reward, infos = self.episode_length_buf.double(), self.last(late)
        if self.auto_reset:
            self.episode_length_buf[late] = 0
        return self.observe(), reward, torch.zeros(ENVS, dtype=torch.bool), late, infos

    def last(self, late: Tensor) -> dict[str, Any]:
        return {}

    def observe(self) -> Any:
        self.seen[:, 0] = torch.arange(ENVS)
        self.seen[:, 1] = self.episode_length_buf
        return {"policy": self.seen, "critic": self.seen[:, [1, 1, 0]]}


class WithLast(Batch):
    def last(self, late: Tensor) -> dict[str, Any]:
        last = {key: part.clone() for key, part in self.observe().items()}
        return {"final_observation": last, "_final_observation": late}


class ResetFromOutside(Batch):
    auto_reset = False


class OfManiSkill(ResetFromOutside):
    """Restarts envs by an option, and has nested observations without groups."""

    auto_reset = None  # type: ignore[assignment]
    single_observation_space = spaces.Dict(
        {"agent": spaces.Dict({"q": spaces.Box(-9, 9, (2,))}), "extra": spaces.Box(-9, 9, (3,))}
    )

    @property
    def elapsed_steps(self) -> Tensor:
        return self.episode_length_buf

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:  # type: ignore[override]
        return super().reset(env_ids=(options or {}).get("env_idx"))

    def observe(self) -> Any:
        seen = super().observe()
        return {"agent": {"q": seen["policy"]}, "extra": seen["critic"]}


class RslRl:
    """No spaces, four values, time-outs in extras."""

    num_envs, num_actions, device = ENVS, 2, torch.device("cpu")

    def __init__(self) -> None:
        self.env = WithLast()

    def get_observations(self) -> Any:
        return self.env.observe()

    def reset(self) -> Any:
        return self.env.reset()

    def step(self, action: Tensor) -> Any:
        obs, reward, terminated, truncated, infos = self.env.step(action)
        ended = (terminated | truncated).long()
        return obs, reward.unsqueeze(1), ended, infos | {"time_outs": truncated.float()}


class TorchVector(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """A vector env of tensors, reset by masks."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012
    num_envs, device = ENVS, torch.device("cpu")
    single_observation_space = Batch.single_observation_space
    single_action_space = Batch.single_action_space

    def __init__(self) -> None:
        self.env = ResetFromOutside()

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return self.env.reset(env_ids=None if options is None else options["reset_mask"])

    def step(self, action: Any) -> Any:
        return self.env.step(action)


class Leftover(RslRl):
    """Tells of time-outs only in steps in which copies are reset, as legged_gym."""

    def __init__(self) -> None:
        super().__init__()
        self.extras: dict[str, Any] = {}

    def step(self, action: Tensor) -> Any:
        *rest, ended, infos = super().step(action)
        if bool(ended.any()):
            self.extras = infos
        return *rest, ended, self.extras


ROW = torch.tensor([[[float(env), LIMIT, LIMIT, LIMIT, env]] for env in range(ENVS)])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Batch, {}),
        (WithLast, {}),
        (ResetFromOutside, {}),
        (OfManiSkill, {}),
        (RslRl, {"action_bound": 1.0}),
        (TorchVector, {}),
    ],
)
def test_copies_groups_and_ends_of_each_convention(kind, options, monkeypatch):
    monkeypatch.setattr(Tensor, "numpy", None)  # nor __array__: tensors stay tensors
    monkeypatch.setattr(Tensor, "__array__", None)
    env = as_multi_agent(kind(), num_envs=ENVS, **options)
    assert (env.num_envs, env.obs_dim, env.act_dim) == (ENVS, 5, 2)
    assert env.global_state_slice == (None if kind is OfManiSkill else slice(2, 5))
    env.reset(seed=0)
    told = (
        pytest.warns(UserWarning, match="stands in") if kind is Batch else warnings.catch_warnings()
    )
    with told:
        for count in range(1, 2 * LIMIT + 1):
            obs, reward, terminated, truncated, info = env.step(ACTION)
            phase = (count - 1) % LIMIT + 1
            assert (reward == phase).all() and reward.dtype == torch.float32
            assert bool(truncated.all()) == (phase == LIMIT) and not terminated.any()
            if truncated.all():
                shift = torch.tensor([0.0, 1, 1, 1, 0]) if kind is Batch else 0
                assert torch.equal(info["final_obs"], ROW - shift)
                assert (obs[..., 1] == 0).all()
    if env.resets_itself:
        with pytest.raises(UsageError, match="only when its episode ends"):
            env.reset(options={"reset_mask": torch.ones(ENVS, dtype=torch.bool)})
    else:
        env.step(ACTION)
        obs, _ = env.reset(options={"reset_mask": torch.tensor([True] + [False] * (ENVS - 1))})
        assert obs[:, 0, 1].tolist() == [0, 1, 1, 1, 1]


class Choices(WithLast):
    single_action_space = spaces.MultiDiscrete([3, 2])  # type: ignore[assignment]

    def step(self, action: Tensor) -> Any:
        assert action.tolist() == [[2, 1]] * ENVS
        return super().step(action)


def test_choices_arrive_as_whole_numbers():
    env = as_multi_agent(Choices())
    env.reset()
    _, reward, *_ = env.step(torch.tensor([[0.0, 0, 1], [0, 1, 0]]).expand(ENVS, 2, 3))
    assert (reward.sum(1) == 1).all()


class NoNumbers(Batch):
    def observe(self) -> Any:
        return {key: part.numpy() for key, part in super().observe().items()}


class OtherGroups(Batch):
    single_observation_space = spaces.Dict(
        {"policy": spaces.Box(-9, 9, (2,)), "camera": spaces.Box(-9, 9, (2,))}
    )


class Unbounded(Batch):
    single_action_space = spaces.Box(-np.inf, np.inf, (2,))


class Agents(Batch):
    possible_agents = ("a", "b")


class NotReset(Batch):
    def step(self, action: Tensor) -> Any:
        result = super().step(action)
        self.episode_length_buf += LIMIT
        return result


class OldTuple(Batch):
    def step(self, action: Tensor) -> Any:
        obs, reward, _, late, infos = super().step(action)
        return obs, None, reward, late, infos


class Unbatched(Batch):
    single_action_space = None  # type: ignore[assignment]
    action_space = spaces.Box(-1, 1, (2,))


class NoWayToReset(RslRl):
    auto_reset = False


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        (NoNumbers, {}, "'policy'.* is a ndarray; a torch.Tensor is needed"),
        (OtherGroups, {}, "group camera .*policy_groups="),
        (Unbounded, {}, "single_action_space has no finite bounds.*action_bound=1.0"),
        (RslRl, {}, "num_actions has no finite bounds"),
        (Agents, {}, "possible_agents"),
        (NotReset, {}, "episode_length_buf goes on"),
        (OldTuple, {}, "returned reward"),
        (Unbatched, {}, "num_envs is 5, but it has no single_action_space"),
        (NoWayToReset, {"action_bound": 1.0}, "takes no env_ids"),
        (Batch, {"max_steps": 2}, "max_episode_length"),
        (Batch, {"num_envs": 2}, "num_envs is 2, but this vector env has 5"),
        (Batch, {"policy_groups": ["actor"]}, "no group actor of observations; it has"),
        (Batch, {"device": "meta"}, "device is meta"),
        (Batch, {"action_bound": 2.0}, "action_bound is 2.0"),
    ],
)
def test_what_is_not_understood_is_refused_by_its_name(kind, options, why):
    with pytest.raises(UsageError, match=why):
        env = as_multi_agent(kind(), **options)
        env.reset(seed=0)
        for _ in range(LIMIT):
            env.step(ACTION)


def test_one_env_that_counts_itself_is_one_env():
    raw = gymnasium.make("Pendulum-v1")
    raw.unwrapped.num_envs = 1  # type: ignore[attr-defined]
    assert as_multi_agent(raw).num_envs == 1


def test_shac_learns_the_models_of_a_batched_env():
    env = learned(as_multi_agent(WithLast()))
    SHAC(env, config(), seed=0).learn(100)


@pytest.mark.slow
def test_mjlab_itself():
    """Its CPU kernels take half a minute to compile the first time."""
    pytest.importorskip("mjlab")
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mjlab.tasks  # noqa: F401
        from mjlab.envs import ManagerBasedRlEnv
        from mjlab.tasks.registry import load_env_cfg

        settings = load_env_cfg("Mjlab-Cartpole-Balance")
        settings.scene.num_envs, settings.auto_reset = ENVS, False
        settings.episode_length_s = 0.2  # 4 steps
        env = as_multi_agent(ManagerBasedRlEnv(settings, device="cpu"), action_bound=1.0)
        assert (env.obs_dim, env.act_dim, env.global_state_slice) == (10, 1, slice(5, 10))
        env.reset(seed=0)
        for step in range(1, 10):
            obs, _, _, truncated, info = env.step(torch.ones(ENVS, 1, 1))
            assert bool(truncated.all()) == (step % 4 == 0)
            assert torch.equal(info["final_obs"], obs) == (step % 4 != 0)
        PPO(env, seed=0).learn(500)


def test_time_outs_of_an_earlier_step_end_nothing():
    raw = Leftover()
    env = as_multi_agent(raw, num_envs=ENVS, action_bound=1.0)
    env.reset(seed=0)
    raw.env.episode_length_buf += torch.tensor([0, 1, 1, 0, 1])
    found = [env.step(ACTION)[3].int().tolist() for _ in range(5)]
    nobody, some, others = [0, 0, 0, 0, 0], [0, 1, 1, 0, 1], [1, 0, 0, 1, 0]
    assert found == [nobody, some, others, nobody, some]
