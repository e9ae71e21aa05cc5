"""Whole trainings with memory: a task that needs one, saving, the command line."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys.masked import MaskedReach, closed_choices
from toys.reach import ENVS, learned_reach, same, weights
from toys.recall import Recall
from toys.recurrent import HORIZON, KINDS, PLAIN, cartpole, dispersion, plain_reach, settings

from diffsurrogate.__main__ import main
from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.ppo import IPPO, MAPPO, PPO
from diffsurrogate.envs.registry import make
from diffsurrogate.training.evaluate import evaluate

# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "architecture", ["joint", "separate", "shared", "hyper-linear", "hyper-mlp"]
)
@pytest.mark.parametrize("make_env", [learned_reach, dispersion, MaskedReach])
def test_every_update_reports_finite_numbers_and_moves_the_memory(make_env, architecture):
    net = replace(PLAIN, architecture=architecture, gru_size=5)
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


@pytest.mark.parametrize("architecture", ["separate", "hyper-mlp"])
def test_only_a_policy_with_memory_repeats_what_it_heard(architecture):
    """Of three agents, all are right; by chance, half. Episodes begin and end inside windows."""

    def trained(memory: int) -> float:
        net = replace(
            PLAIN, architecture=architecture, hidden=(16,), pool_others=False, gru_size=memory
        )
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


@pytest.mark.parametrize("make_env", [plain_reach, learned_reach, dispersion])
@pytest.mark.parametrize("kind", list(KINDS.values()), ids=list(KINDS))
def test_a_loaded_trainer_ends_where_the_unbroken_one_does(tmp_path, make_env, kind):
    """Saved in the middle of episodes of 8 or 5 steps, after three windows of 6."""
    path, size = tmp_path / "agent.pt", HORIZON * ENVS
    config = settings(kind, schedule="linear", ema_decay=0.5)
    reports: list[list[dict[str, float]]] = [[], []]

    def noted(index: int, stop: int) -> Callable[[PPO, dict[str, float]], bool]:
        def callback(agent: PPO, metrics: dict[str, float]) -> bool:
            kept = {name: value for name, value in metrics.items() if "cpu" not in name}
            reports[index].append(kept)
            return agent.iteration < stop

        return callback

    unbroken, broken = (kind(make_env(), config, seed=3) for _ in range(2))
    unbroken.learn(6 * size, noted(0, 6))
    broken.learn(6 * size, noted(1, 3))
    assert not broken.env.episode_start.all()
    broken.save(path)
    env = make_env()
    env.reset(seed=11)
    loaded = kind.load(path, env)
    assert set(loaded.hidden) == {"actor", "critic"}
    loaded.learn(6 * size, noted(1, 6))
    assert same(weights(loaded), weights(unbroken))
    assert same(list(loaded.hidden.values()), list(unbroken.hidden.values()))
    assert not same(weights(loaded), weights(broken))
    assert reports[0] == reports[1]


def test_an_env_that_saves_no_state_starts_with_nothing_remembered(tmp_path):
    agent = PPO(cartpole(), settings()).learn(2 * HORIZON * ENVS)
    agent.save(tmp_path / "agent.pt")
    loaded = PPO.load(tmp_path / "agent.pt", cartpole())
    loaded._collect(loaded.noise.draw(HORIZON))
    assert loaded.past["actor"].episode_start[0].all()
    assert loaded.learn(3 * HORIZON * ENVS).iteration == 3


@pytest.mark.skipif(importlib.util.find_spec("jaxmarl") is None, reason="needs the extra jaxmarl")
def test_no_closed_choice_is_taken_on_smax(monkeypatch):
    env = make("jaxmarl/HeuristicEnemySMAX-2s3z", num_envs=ENVS, state=True)
    original, closed = type(env).apply_action_mask, []

    def apply_action_mask(action: Tensor) -> Tensor:
        closed.append(closed_choices(env, env.current_obs, action))
        return original(env, action)

    monkeypatch.setattr(env, "apply_action_mask", apply_action_mask)
    agent = MAPPO(env, settings(MAPPO), seed=0).learn(20 * HORIZON * ENVS)
    assert len(closed) == 20 * HORIZON and not any(closed)
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
        ("ippo", "paper/dispersion", ["--agents", "3", "--max-steps", "5"]),
        ("mappo", "vmas/navigation", ["--agents", "2", "--ppo.critic.net.gru_size", "8"]),
        ("mappo", "mpe2/simple_spread_v3", ["--network", "hyper-mlp"]),
        ("ppo", "diffsurrogate/cartpole-swingup", []),
    ],
)
def test_runs_train_evaluate_and_film_a_policy_with_memory(tmp_path, method, env, more):
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


def test_a_run_goes_on_in_the_middle_of_its_episodes(tmp_path):
    returns = []
    for name, parts in (("whole", [5]), ("parts", [2, 5])):
        out = tmp_path / name
        for iterations in parts:
            more = ["--resume"] if iterations != parts[0] else []
            start = command(
                "ippo", "paper/dispersion", "--max-steps", "7", *more, iterations=iterations
            )
            assert main([*start, "--out", str(out)]) == 0
        returns.append(json.loads((out / "summary.json").read_text())["mean_return"])
    assert returns[0] == returns[1]


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["ippo", "vmas/navigation", "--network", "dico", "--ppo.actor.net.gru_size", "5"], "dico"),
        (["shac++", "vmas/navigation", "--shac.actor.net.gru_size", "5"], "SHAC learns policies"),
        (["shac", "vmas/navigation", "--shac.critic.net.gru_size", "5"], "SHAC learns policies"),
        (["bppo", "games/climbing", "--bppo.actor.net.gru_size", "5"], "one after another"),
        (["happo", "games/climbing", "--bppo.critic.net.gru_size", "5"], "agents in turn"),
    ],
)
def test_memory_where_there_is_none_gets_advice(arguments, advice, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", *arguments, "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and advice in message
    assert not out.exists()
