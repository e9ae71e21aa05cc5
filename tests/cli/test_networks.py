"""`--network`: what each name stands for, that every method trains with it, and what is refused."""

import itertools
import json
from typing import Any

import pytest

from diffsurrogate.__main__ import main
from diffsurrogate.cli.arguments import read_train
from diffsurrogate.cli.options import TrainOptions, what_differs
from diffsurrogate.nets.config import NetConfig

NEW = ["shared-id", "transformer-id", "hyper-linear", "hyper-mlp", "dico"]
ENVS, AGENTS, HORIZON = 5, 3, 4


def preset(method: str, network: str, env: str = "paper/dispersion") -> TrainOptions:
    return TrainOptions.recommended(method, env, AGENTS, network)


def kind(net: NetConfig) -> str:
    """What a network is, in short."""
    extras = [name for name in ("agent_id", "centralised") if getattr(net, name)]
    if net.architecture == "shared" and net.pool_others:
        extras.append("pool_others")
    return " ".join([net.architecture, *extras])


@pytest.mark.parametrize(
    ("method", "network", "actor", "critic"),
    [
        ("ippo", "shared-id", "shared agent_id", "shared agent_id"),
        ("ippo", "hyper-linear", "hyper-linear", "hyper-linear"),
        ("ippo", "hyper-mlp", "hyper-mlp", "hyper-mlp"),
        ("ippo", "dico", "dico", "shared agent_id"),
        ("mappo", "shared-id", "shared agent_id", "joint"),
        ("mappo", "hyper-linear", "hyper-linear", "hyper-linear centralised"),
        ("mappo", "hyper-mlp", "hyper-mlp", "hyper-mlp centralised"),
        ("mappo", "dico", "dico", "joint"),
        ("mappo", "transformer-id", "transformer agent_id", "transformer agent_id"),
        ("ppo", "shared-id", "shared agent_id pool_others", "shared agent_id pool_others"),
        ("ppo", "hyper-linear", "hyper-linear", "joint"),
        ("ppo", "hyper-mlp", "hyper-mlp", "joint"),
        ("ppo", "dico", "dico", "joint"),
        ("ppo", "transformer-id", "transformer agent_id", "transformer agent_id"),
    ],
)
def test_actor_and_critic_of_ppo_are_what_the_name_says(method, network, actor, critic):
    ppo = preset(method, network).ppo
    assert (kind(ppo.actor.net), kind(ppo.critic.net)) == (actor, critic)


@pytest.mark.parametrize("env", ["paper/dispersion", "vmas/navigation"])
@pytest.mark.parametrize("method", ["shac", "shac+", "shac++"])
@pytest.mark.parametrize(
    ("network", "actor"),
    [
        ("shared-id", "shared agent_id pool_others"),
        ("transformer-id", "transformer agent_id"),
        ("hyper-linear", "hyper-linear"),
        ("hyper-mlp", "hyper-mlp"),
        ("dico", "dico"),
    ],
)
def test_the_policy_of_shac_is_what_the_name_says(method, network, actor, env):
    """The critic sees the mean of all, as that of a shared policy does."""
    shac = preset(method, network, env).shac
    assert (kind(shac.actor.net), kind(shac.critic.net)) == (actor, "shared pool_others")


@pytest.mark.parametrize(
    ("method", "network"),
    [
        *itertools.product(["shac++", "ppo", "mappo"], NEW),
        *itertools.product(["ippo"], [name for name in NEW if name != "transformer-id"]),
    ],
)
def test_options_survive_json(method, network):
    options = preset(method, network)
    content = json.loads(json.dumps(options.to_json()))
    assert TrainOptions.from_json(content) == options
    assert what_differs(content) == ""


def train(method: str, env: str, network: str, *more: str, iterations: int = 2) -> list[str]:
    section = "shac" if method.startswith("shac") else "ppo"
    sizes = ["--num-envs", str(ENVS), f"--{section}.horizon", str(HORIZON), "--eval-envs", "3"]
    steps = ["--eval-steps", "5", "--total-steps", str(iterations * ENVS * HORIZON)]
    run = ["--checkpoint-every", "1", "--film-steps", "0", "--no-progress"]
    agents = ["--agents", str(AGENTS)]
    return ["train", method, env, *agents, "--network", network, *sizes, *steps, *run, *more]


def test_learned_gradients_are_limited_where_one_network_acts_for_all_agents():
    def limit(network, env="paper/discovery"):
        return read_train(["shac++", env, "--network", network]).surrogates.adjoint_clip

    assert limit("mlp") == 3.0
    assert limit("transformer") is limit("shared") is limit("mlp", "vmas/discovery") is None


def test_every_method_trains_with_every_network(tmp_path):
    for method, env, network in (
        ("ippo", "paper/dispersion", "hyper-linear"),
        ("mappo", "vmas/navigation", "hyper-mlp"),
        ("mappo", "games/specialisation", "shared-id"),
        ("ppo", "paper/dispersion", "dico"),
        ("shac", "vmas/navigation", "hyper-linear"),
        ("shac+", "paper/dispersion", "hyper-mlp"),
        ("shac++", "paper/dispersion", "dico"),
        ("shac++", "paper/dispersion", "transformer-id"),
        ("shac++", "games/synchronisation", "hyper-mlp"),
    ):
        out = tmp_path / f"{method}-{network}-{env.replace('/', '-')}"
        steps = () if method == "shac" else ("--max-steps", "5")
        assert main([*train(method, env, network, *steps), "--out", str(out)]) == 0
        summary = json.loads((out / "summary.json").read_text())
        assert (summary["network"], summary["updates"]) == (network, 2)
        assert main(["evaluate", str(out), "--num-envs", "3", "--steps", "5"]) == 0
        evaluation = json.loads((out / "evaluation.json").read_text())
        assert evaluation["mean_return"] == summary["mean_return"]  # the same weights


def test_a_run_goes_on_with_the_measured_diversity(tmp_path):
    """Interrupted or not, DiCo ends with the same policy, its measurement included."""
    results: list[dict[str, Any]] = []
    for name, parts in (("whole", [4]), ("parts", [2, 4])):
        out = tmp_path / name
        for iterations in parts:
            more = () if iterations == parts[0] else ("--resume",)
            command = train("ippo", "paper/dispersion", "dico", *more, iterations=iterations)
            assert main([*command, "--out", str(out)]) == 0
        results.append(json.loads((out / "summary.json").read_text()))
    assert results[0]["mean_return"] == results[1]["mean_return"]


BAD = {
    "ids of sb3": (["sb3-ppo", "paper/dispersion", "--network", "shared-id"], "mlp or shared"),
    "numbered Transformer of ippo": (
        ["ippo", "paper/dispersion", "--network", "transformer-id"],
        "see only themselves",
    ),
    "hypernets of sb3": (["sb3-ppo", "paper/dispersion", "--network", "hyper-mlp"], "mlp or share"),
    "one agent": (["ippo", "paper/dispersion", "--network", "dico", "--agents", "1"], "there is 1"),
    "one agent unsaid": (["ippo", "gymnasium/Pendulum-v1", "--network", "dico"], "there is 1"),
    "choices": (["mappo", "games/specialisation", "--network", "dico"], "are choices"),
    "the paper's": (
        ["shac++", "paper/dispersion", "--network", "hyper-mlp", "--preset", "paper"],
        "no hyper-mlp network",
    ),
    "a model": (
        ["shac++", "paper/dispersion", "--surrogates.reward.net.architecture", "dico"],
        "values and models",
    ),
}


@pytest.mark.parametrize(("arguments", "advice"), list(BAD.values()), ids=list(BAD))
def test_what_makes_no_sense_gets_one_line_of_advice(arguments, advice, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", *arguments, "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert advice in message
    assert not out.exists()
