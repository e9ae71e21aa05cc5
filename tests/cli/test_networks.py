"""`--network`: what each name stands for, that every method trains with it, and what is refused."""

import itertools
import json
import math

import pytest

from diffsurrogate.cli.arguments import read_train
from diffsurrogate.cli.build import evaluation_env
from diffsurrogate.cli.options import TrainOptions, what_differs
from diffsurrogate.nets.config import NetConfig
from diffsurrogate.presets.recipe import SB3_METHODS
from diffsurrogate.training.evaluate import evaluate

NEW = ["shared-id", "transformer-id", "hyper-linear", "hyper-mlp", "dico"]
ENVS, AGENTS, HORIZON = 5, 3, 4


def preset(method: str, network: str, env: str = "paper/dispersion") -> TrainOptions:
    return TrainOptions.recommended(method, env, AGENTS, network)


def kind(net: NetConfig) -> str:
    """What a network is, in short."""
    extras = [name for name in ("agent_id", "centralised") if getattr(net, name, False)]
    if net.architecture == "shared" and net.pool_others:
        extras.append("pool_others")
    return " ".join([net.architecture, *extras])


@pytest.mark.parametrize(
    ("method", "network", "actor", "critic"),
    [
        ("ppo", "mlp", "joint", "joint"),
        ("ppo", "shared", "shared pool_others", "shared pool_others"),
        ("ppo", "transformer", "transformer", "transformer"),
        ("ippo", "mlp", "separate", "separate"),
        ("ippo", "shared", "shared", "shared"),
        ("mappo", "mlp", "separate", "joint"),
        ("mappo", "shared", "shared", "joint"),
        ("mappo", "transformer", "transformer", "transformer"),
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
    options = preset(method, network)
    assert options.folder.name == f"{method}-paper-dispersion-3-{network}-0"
    ppo = options.ppo
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
    """The critic sees the mean of all, and tells agents apart as the policy does, unless tuned."""
    shac = preset(method, network, env).shac
    tuned = env.startswith("paper/")
    told = "" if tuned or network in ("shared", "transformer") else "agent_id "
    assert (kind(shac.actor.net), kind(shac.critic.net)) == (actor, f"shared {told}pool_others")


FEW = ["mlp", "shared"]
SECTIONS = {"shac++": {"shac", "surrogates"}}
SECTIONS |= {method: {"sb3"} for method in SB3_METHODS}
SECTIONS |= {method: {"bppo"} for method in ("bppo", "armappo", "happo")}


@pytest.mark.parametrize(
    ("env", "method", "network"),
    [
        *itertools.product(["paper/dispersion"], ["shac++", "ppo", "mappo"], [*FEW, *NEW]),
        *itertools.product(["paper/dispersion"], ["ippo"], [*FEW, "hyper-mlp", "dico"]),
        *itertools.product(["gymnasium/CartPole-v1", "vmas/balance"], ["ppo", "shac++"], FEW),
        *itertools.product(["paper/dispersion", "gymnasium/CartPole-v1"], SB3_METHODS, FEW),
        *itertools.product(["games/penalty"], ["bppo", "armappo", "happo"], ["mlp"]),
    ],
)
def test_options_survive_json_and_do_not_differ_from_themselves(env, method, network):
    agents = AGENTS if env.startswith("paper/") else None
    options = TrainOptions.recommended(method, env, agents, network)
    content = json.loads(json.dumps(options.to_json()))
    assert TrainOptions.from_json(content) == options
    assert what_differs(content) == ()
    sections = {"shac", "surrogates", "ppo", "bppo", "sb3"} & content.keys()
    assert sections == SECTIONS.get(method, {"ppo"})


def train(method: str, env: str, network: str) -> list[str]:
    section = "shac" if method.startswith("shac") else "ppo"
    few = ["--shac.value.minibatches", "2"] if section == "shac" else ["--ppo.clip.epochs", "2"]
    few += ["--surrogates.fit.minibatches", "2"] if method in ("shac+", "shac++") else []
    few += [] if method == "shac" else ["--max-steps", "5"]
    sizes = ["--num-envs", str(ENVS), f"--{section}.horizon", str(HORIZON)]
    return [method, env, "--agents", str(AGENTS), "--network", network, *sizes, *few]


def test_learned_gradients_are_limited_where_one_network_acts_for_all_agents():
    def limit(network, env="paper/discovery"):
        return read_train(["shac++", env, "--network", network]).surrogates.adjoint_clip

    assert limit("mlp") == 3.0
    assert limit("transformer") is limit("shared") is limit("mlp", "vmas/discovery") is None


def test_every_method_trains_with_every_network():
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
        options = read_train(train(method, env, network))
        agent, _ = options.make()
        for metrics in agent.iterations(2):
            assert all(math.isfinite(value) for value in metrics.values())
        assert (options.network, agent.iteration, agent.skipped) == (network, 2, 0)
        test_env = evaluation_env(options, 3)
        result = evaluate(agent.policy(test_env), test_env, steps=5, seed=1)
        assert math.isfinite(result.summary()["mean_return"])
