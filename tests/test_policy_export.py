"""An exported policy acts as the loaded one, by onnxruntime and as a program of torch.export."""

import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import jaxtyping
import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from toys.masked import MaskedReach
from toys.reach import Reach

from diffsurrogate import (
    PPO,
    Recipe,
    TrainedPolicy,
    TransformerConfig,
    UsageError,
    export_policy,
    load_policy,
    make,
    recommended,
)
from diffsurrogate.__main__ import main
from diffsurrogate.actor_critic.autoregressive import build_actor
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import as_multi_agent

ROOT = Path(__file__).parent.parent
BATCHES = (1, 5)
RUN = "train ppo gymnasium/Pendulum-v1 --num-envs 4 --eval-envs 2 --film-steps 0 --total-steps 64"
RUN += " --ppo.horizon 8 --ppo.ema-decay 0.5"
pytestmark = pytest.mark.usefixtures("_unchecked_shapes")
Outputs = list[np.ndarray[Any, Any]]
Run = Callable[..., Outputs]


@pytest.fixture
def _unchecked_shapes(monkeypatch):
    """Tracing is done as users do it, and much faster: shapes are symbolic."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


class Squares(gymnasium.Env[Any, Any]):
    """Pictures are seen, choices are made that do not begin with 0."""

    observation_space = spaces.Box(-1, 1, (2, 3))
    action_space = spaces.MultiDiscrete([2, 4], start=[1, 5])


class Parts(gymnasium.Env[Any, Any]):
    """Observations are no box, actions are one of several axes and of unequal bounds."""

    observation_space = spaces.Dict({"x": spaces.Box(-1, 1, (2, 2)), "k": spaces.Discrete(3)})
    action_space = spaces.Box(np.float32([[-1, -2, -3]]), np.float32([[5, 7, 9]]))


def having(recipe: Recipe, **settings: Any) -> Recipe:
    config = replace(recipe.config, actor=replace(recipe.config.actor, **settings))
    return replace(recipe, config=config)


def robots() -> tuple[Recipe, MultiAgentVectorEnv]:
    recipe = recommended("shac", "vmas/navigation", agents=3, preset="sapo")
    assert recipe.config.actor.squash and recipe.config.actor.state_dependent_std
    env = make("vmas/navigation", num_envs=1, n_agents=3)
    return having(recipe, net=TransformerConfig()), env


def masked_memory() -> tuple[Recipe, MultiAgentVectorEnv]:
    recipe = recommended("mappo", "games/climbing")
    return having(recipe, net=replace(recipe.config.actor.net, gru_size=7)), MaskedReach()


def in_turn() -> tuple[Recipe, MultiAgentVectorEnv]:
    """Continuous actions, in an order that is neither the env's nor its opposite."""
    return having(recommended("bppo", "games/climbing"), order="random"), Reach()


def choices() -> tuple[Recipe, MultiAgentVectorEnv]:
    return recommended("ppo", "gymnasium/CartPole-v1"), as_multi_agent(Squares)


def parts() -> tuple[Recipe, MultiAgentVectorEnv]:
    return recommended("ppo", "gymnasium/Pendulum-v1"), as_multi_agent(Parts)


def observed(env: MultiAgentVectorEnv, count: int, seed: int) -> torch.Tensor:
    """Draw rows (count, agent, obs_dim); where some are masked, the last agent is dead in half."""
    generator = torch.Generator().manual_seed(seed)
    rows = 5 + 2 * torch.randn(count, env.num_agents, env.obs_dim, generator=generator)
    if env.action_mask_slice is not None:
        rows[..., env.action_mask_slice] = (rows[..., env.action_mask_slice] > 5).float()
        rows[seed % 2 :: 2, -1] = 0.0
    return rows


def untrained(recipe: Recipe, env: MultiAgentVectorEnv) -> TrainedPolicy:
    """Return a policy of random weights, which has seen observations of all sizes."""
    torch.manual_seed(3)
    actor = build_actor(recipe.config.actor, env)
    with torch.no_grad():
        for weight in actor.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    rows = observed(env, 200, 1) * torch.linspace(0.5, 3, env.obs_dim)
    actor.update_normaliser(rows, rows.any(-1))
    actor.freeze_normaliser(torch.Generator().manual_seed(1))
    return TrainedPolicy.of_recipe(recipe, {"agent": {"predictor": actor.state_dict()}}, env)


def asked(policy: TrainedPolicy, count: int, seed: int) -> tuple[Any, Any]:
    """Return observations (count, ...) as they are exported for, and the policy's answers."""
    space = getattr(policy.env, "_observations", None)
    if isinstance(space, spaces.Dict):
        space.seed(seed)
        seen = [space.sample() for _ in range(count)]
        flat = np.stack([spaces.flatten(space, one) for one in seen])
        return flat.astype(np.float32), np.stack([policy(one) for one in seen])
    rows = observed(policy.env, count, seed).numpy()
    obs = rows if space is None else rows[:, 0].reshape(count, *space.shape)
    return obs, policy(obs)


def by_onnx(path: Path) -> Run:
    session = onnxruntime.InferenceSession(path)
    names = [part.name for part in session.get_inputs()]
    assert names in (["obs"], ["obs", "hidden"])
    assert [part.name for part in session.get_outputs()] == ["action", "next_hidden"][: len(names)]
    assert {part.shape[0] for part in [*session.get_inputs(), *session.get_outputs()]} == {"batch"}
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def by_torch(path: Path) -> Run:
    program = torch.export.load(path).module()

    def run(*inputs: Any) -> Outputs:
        found = program(*map(torch.from_numpy, inputs))
        return [part.numpy() for part in (found if isinstance(found, tuple) else [found])]

    return run


READERS = {".onnx": by_onnx, ".pt2": by_torch}


@pytest.mark.parametrize(
    ("case", "ending"),
    [(case, ".pt2") for case in (robots, masked_memory, in_turn, parts)]
    + [(case, ".onnx") for case in (robots, masked_memory, in_turn, choices)],
)
def test_it_acts_as_the_policy_on_any_number_of_copies(case, ending, tmp_path):
    policy, path = untrained(*case()), tmp_path / f"policy{ending}"
    facts = export_policy(policy, path)
    run, memory_of = READERS[ending](path), policy.actor.config.net.gru_size
    low, high = (np.array(json.loads(facts[name])) for name in ("action_low", "action_high"))
    for count in BATCHES:
        policy.reset()
        memory = [np.zeros((count, 3, memory_of), np.float32)] if memory_of else []
        for step in range(3):
            obs, expected = asked(policy, count, seed=10 * count + step)
            action, *memory = run(obs, *memory)
            assert action.shape == expected.shape and action == pytest.approx(expected, abs=1e-5)
            assert (action >= low).all() and (action <= high).all()
    assert (action != action[:1]).any(0).all()  # all of it depends on what is seen


def test_padded_actions_are_the_middle_of_their_bounds(tmp_path):
    recipe, env = in_turn()
    env.valid_action_dims[1, 1] = False  # as of an agent with one number less
    policy, path = untrained(recipe, env), tmp_path / "policy.pt2"
    export_policy(policy, path)
    obs, expected = asked(policy, 5, seed=1)
    (action,) = by_torch(path)(obs)
    middle = float(env.action_low[1, 1] + env.action_high[1, 1]) / 2
    assert action[:, 1, 1].tolist() == expected[:, 1, 1].tolist() == [middle] * 5
    assert (action[:, 2, 1] != middle).all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "pendulum"
    assert main([*RUN.split(), "--out", str(folder)]) == 0
    return folder


def test_the_example_earns_by_a_run_s_file_what_its_policy_earns(trained, tmp_path, capfd):
    path = tmp_path / "new" / "policy.onnx"
    assert main(["export", str(trained), "--out", str(path), "--which", "last"]) == 0
    told = capfd.readouterr()
    assert told.err == "" and f"{path}\n" in told.out and "action float32 (batch, 1)\n" in told.out
    found = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert found == {
        "diffsurrogate": version("diffsurrogate"),
        "env": "gymnasium/Pendulum-v1",
        "method": "ppo",
        "agents": '["agent"]',
        "action_low": "[-2.0]",
        "action_high": "[2.0]",
        "obs": "float32 (batch, 3)",
        "action": "float32 (batch, 1)",
    }
    example = ROOT / "examples" / "act_with_onnx.py"
    earned = runpy.run_path(str(example))["main"](str(path), seed=5)
    policy, env = load_policy(trained, which="last"), gymnasium.make("Pendulum-v1")
    obs, _ = env.reset(seed=5)
    expected, truncated = 0.0, False
    while not truncated:
        obs, reward, _, truncated, _ = env.step(policy(obs))
        expected += float(reward)
    assert earned == pytest.approx(expected, rel=1e-4)


def test_a_pt2_needs_no_extra_and_says_what_it_is_of(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    facts, inside = export_policy(trained, tmp_path / "policy.pt2"), {"metadata.json": ""}
    torch.export.load(tmp_path / "policy.pt2", extra_files=inside)
    assert json.loads(inside["metadata.json"]) == facts
    with pytest.raises(UsageError, match=r'install "diffsurrogate\[export\]"; a \.pt2 does'):
        export_policy(trained, tmp_path / "policy.onnx")


def test_what_cannot_be_exported_is_refused(trained, tmp_path, capsys):
    assert main(["export", str(trained), "--out", str(tmp_path / "policy.tflite")]) == 2
    assert "let it end in .onnx or .pt2" in capsys.readouterr().err
    recipe, env = recommended("sb3-ppo", "games/climbing"), make("games/climbing")
    state = {"agent": recipe.make_agent(env).state_dict()}
    policy = TrainedPolicy.of_recipe(recipe, state, env)
    with pytest.raises(UsageError, match=r"policy of sb3-ppo .*guide/export\.html.*actor\.model"):
        export_policy(policy, tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_of_a_trainer_is_exported_by_its_policy(tmp_path):
    PPO(Reach(num_envs=2)).save(tmp_path / "agent.pt")
    with pytest.raises(UsageError, match=r"export_policy\(load_policy\('.*agent.pt', YourEnv\)"):
        export_policy(tmp_path / "agent.pt", tmp_path / "policy.pt2")
