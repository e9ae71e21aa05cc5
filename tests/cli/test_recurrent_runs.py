"""Whole trainings with memory: a task that needs one, saving, the command line."""

import importlib.util
import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys.masked import MaskedReach, closed_choices
from toys.reach import ENVS, learned_reach
from toys.recall import Recall
from toys.recurrent import HORIZON, PLAIN, cartpole, dispersion, settings

from diffsurrogate.__main__ import main
from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.ppo import IPPO, MAPPO, PPO
from diffsurrogate.config import changed_to
from diffsurrogate.envs.registry import make
from diffsurrogate.nets.config import (
    HyperLinearConfig,
    HyperMLPConfig,
    JointNetConfig,
    SeparateNetConfig,
    SharedNetConfig,
)
from diffsurrogate.training.evaluate import evaluate

# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [JointNetConfig, SeparateNetConfig, SharedNetConfig, HyperLinearConfig, HyperMLPConfig]
)
@pytest.mark.parametrize("make_env", [learned_reach, dispersion, MaskedReach])
def test_every_update_trains_the_recurrent_weights(make_env, kind):
    net = changed_to(kind, PLAIN, gru_size=5)
    start = settings()
    clip = replace(start.clip, entropy_weight=0.01)
    config = replace(
        start, actor=replace(start.actor, net=net), critic=replace(start.critic, net=net), clip=clip
    )
    agent = PPO(make_env(), config)
    nets = (agent.actor.net, agent.critic.net)
    before = [net.memory.carry.weight.detach().clone() for net in nets]
    for report in agent.iterations(3):
        assert all(torch.isfinite(torch.tensor(value)) for value in report.values())
    for net, weight in zip(nets, before, strict=True):
        assert not torch.equal(net.memory.carry.weight, weight)
    assert agent.skipped == 0


@pytest.mark.parametrize("kind", [SeparateNetConfig, HyperMLPConfig])
def test_only_a_recurrent_policy_solves_recall(kind):
    """Of three agents, all are right; by chance, half. Episodes begin and end inside windows."""

    def trained(memory: int) -> float:
        net = changed_to(kind, PLAIN, hidden=(16,), gru_size=memory)
        start = settings(IPPO, horizon=12, critic_lr=5e-3)
        clip = ClipConfig(batch_size=256, lr=5e-3)
        config = replace(
            start,
            actor=ActorConfig(net=net, head_gain=0.01),
            critic=replace(start.critic, net=net),
            clip=clip,
        )
        agent = IPPO(Recall(num_envs=64), config, seed=1).learn(12 * 12 * 64)
        evaluate_actions = Recall(num_envs=501)
        share = evaluate(agent.policy(evaluate_actions), evaluate_actions, seed=1).normalised_return
        assert share is not None
        return share

    assert trained(16) >= 0.95
    assert trained(0) <= 0.6


# --- saving --------------------------------------------------------------------------------------


def test_an_env_that_saves_no_state_resumes_with_an_empty_hidden_state(tmp_path):
    agent = PPO(cartpole(), settings()).learn(2 * HORIZON * ENVS)
    agent.save(tmp_path / "agent.pt")
    loaded = PPO.load(tmp_path / "agent.pt", cartpole())
    loaded._collect(loaded.noise.draw(HORIZON))
    assert loaded.past["actor"].episode_start[0].all()
    assert loaded.learn(3 * HORIZON * ENVS).iteration == 3


@pytest.mark.skipif(importlib.util.find_spec("jaxmarl") is None, reason="needs the extra jaxmarl")
def test_masked_actions_are_never_taken_on_smax(monkeypatch):
    env = make("jaxmarl/HeuristicEnemySMAX-2s3z", num_envs=ENVS, state=True)
    original, closed = type(env).apply_action_mask, []

    def apply_action_mask(action: Tensor) -> Tensor:
        closed.append(closed_choices(env, env.current_obs, action))
        return original(env, action)

    monkeypatch.setattr(env, "apply_action_mask", apply_action_mask)
    agent = MAPPO(env, settings(MAPPO), seed=0).learn(5 * HORIZON * ENVS)
    assert len(closed) == 5 * HORIZON and not any(closed)
    assert agent.skipped == 0


# --- the command line ----------------------------------------------------------------------------


def command(method: str, env: str, *more: str, iterations: int = 3) -> list[str]:
    return [
        *("train", method, env, "--num-envs", "5", "--ppo.horizon", "4", "--eval-envs", "3"),
        *("--eval-steps", "5", "--total-steps", str(iterations * 20), "--checkpoint-every", "1"),
        *("--no-progress", "--film-steps", "3", "--ppo.actor.net.gru_size", "16", *more),
    ]


@pytest.mark.parametrize(
    ("method", "env", "more"),
    [
        ("mappo", "mpe2/simple_spread_v3", ["--network", "hyper-mlp"]),
        ("ppo", "vmas/navigation", ["--agents", "2", "--ppo.critic.net.gru_size", "8"]),
    ],
)
def test_runs_train_evaluate_and_render_a_recurrent_policy(tmp_path, method, env, more):
    out = tmp_path / "run"
    assert main([*command(method, env, *more), "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["method"], summary["updates"]) == (method, 3)
    assert main(["evaluate", str(out), "--num-envs", "3", "--steps", "5"]) == 0
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["mean_return"] == summary["mean_return"]  # the same weights, from nothing
    (out / "rollout.gif").unlink()
    assert main(["render", str(out), "--num-envs", "2", "--steps", "3"]) == 0
    assert (out / "rollout.gif").stat().st_size > 0
