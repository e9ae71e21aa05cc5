"""Recipes: the same from Python and the command line, for every method and kind of env."""

import itertools
from dataclasses import replace
from typing import get_args

import pytest
from toys.trainers import what_differs

from diffsurrogate import SHAC, LearnedDiffWrapper, make, recommended
from diffsurrogate.__main__ import main
from diffsurrogate.cli.arguments import read_train
from diffsurrogate.errors import UsageError
from diffsurrogate.presets.recipe import SB3_METHODS, Method
from diffsurrogate.training.checkpoint import load_checkpoint

ENVS = [
    "paper/dispersion",
    "vmas/navigation",
    "gymnasium/CartPole-v1",
    "gymnasium/Hopper-v5",
    "pettingzoo/mpe.simple_spread_v3",
    "mpe2/simple_spread_v3",
    "mujoco/HalfCheetah-v5",
    "mamujoco/HalfCheetah-6x1",
    "jaxmarl/MPE_simple_spread_v3",
    "mjx/hopper",
    "games/climbing",
    "diffsurrogate/cartpole-swingup",
]
METHODS = get_args(Method)


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("method", METHODS)
def test_python_and_the_command_line_take_the_same_settings(method, env):
    recipe = recommended(method, env)
    assert read_train([method, env]).recipe == recipe
    assert (recipe.surrogates is not None) == (method in ("shac+", "shac++"))
    assert recipe.agents == (1 if env.startswith("paper/") else None)


@pytest.mark.parametrize("env", ["paper/dispersion", "vmas/navigation"])
@pytest.mark.parametrize(
    ("method", "network"),
    [
        *itertools.product(["shac", "shac++", "ppo", "mappo"], ["transformer", "hyper-mlp"]),
        *itertools.product(["ippo", *SB3_METHODS], ["shared"]),
    ],
)
def test_networks_and_numbers_of_agents_decide_the_same_in_both(method, network, env):
    words = [method, env, "--agents", "5", "--network", network]
    recipe = recommended(method, env, 5, network)
    assert read_train(words).recipe == recipe
    assert read_train([*words[:2], *words[4:], *words[2:4]]).recipe == recipe


@pytest.mark.parametrize(
    ("method", "env", "agents"),
    [
        ("shac", "diffsurrogate/cartpole-swingup", None),
        ("shac+", "paper/dispersion", 2),
        ("shac++", "paper/dispersion", 2),
        ("shac++", "games/climbing", None),
        ("mappo", "vmas/navigation", 2),
        ("happo", "games/climbing", None),
        ("sb3-ppo", "paper/dispersion", 2),
        ("sb3-sac", "paper/dispersion", 2),
        ("sb3-td3", "paper/dispersion", 2),
    ],
)
def test_python_and_the_command_line_train_the_same_weights(method, env, agents, tmp_path):
    recipe = recommended(method, env, agents)
    recipe = replace(recipe, run=replace(recipe.run, num_envs=5))
    agent, _ = recipe.make(seed=3)
    agent.learn(steps := agent.steps_per_iteration)
    given = () if agents is None else ("--agents", str(agents))
    sizes = ("--num-envs", "5", "--total-steps", str(steps), "--seed", "3", "--eval-envs", "3")
    quiet = ("--eval-steps", "2", "--film-steps", "0", "--no-progress", "--stop-at", "None")
    command = ["train", method, env, *given, *sizes, *quiet, "--out", str(tmp_path / "run")]
    assert main(command) == 0
    trained = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["agent"]
    weights = "sb3" if method in SB3_METHODS else "parts"
    assert not what_differs(agent.state_dict()[weights], trained[weights])


def test_the_papers_preset_is_the_same_in_both():
    words = ["shac+", "paper/transport", "--agents", "3", "--preset", "paper"]
    assert read_train(words).recipe == recommended("shac+", "paper/transport", 3, preset="paper")


@pytest.mark.parametrize("preset", ["shac", "ahac", "sapo"])
@pytest.mark.parametrize(
    ("method", "env"), [("shac", "mjx/hopper"), ("shac++", "gymnasium/Hopper-v5")]
)
def test_published_presets_are_the_same_in_both(preset, method, env):
    recipe = recommended(method, env, preset=preset)
    assert read_train([method, env, "--preset", preset]).recipe == recipe
    assert (recipe.surrogates is not None) == (method == "shac++")


def test_published_presets_are_the_papers_numbers():
    row = recommended("shac", "mjx/hopper", preset="shac")
    assert (row.run.num_envs, row.run.total_steps) == (256, 2000 * 256 * 32)
    assert (row.config.update.lr, row.config.value.lr) == (2e-3, 2e-4)
    assert row.config.value.batch_size == 256 * 32 // 4
    elsewhere = recommended("shac", "vmas/navigation", preset="shac")
    assert (elsewhere.run.num_envs, elsewhere.config.value.lr) == (64, 2e-3)

    adaptive = recommended("shac", "mjx/hopper", preset="ahac").config
    assert (adaptive.update.gradient.max_growth, adaptive.critic.ensemble) == (10, 2)
    soft = recommended("shac", "mjx/hopper", preset="sapo").config
    assert soft.actor.state_dependent_std and soft.actor.net.activation == "silu"
    assert (soft.critic.ensemble, soft.critic.target_decay) == (2, 0)
    assert (soft.entropy.temperature, soft.entropy.target) == (1, -0.5)
    assert row.config.entropy.temperature == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("ppo", "mjx/hopper", None, "mlp", "sapo"), "the method is ppo"),
        (("shac", "mjx/hopper", None, "dico", "ahac"), "--network is dico"),
    ],
)
def test_published_presets_refuse_what_they_have_not(arguments, reason):
    with pytest.raises(UsageError, match=reason):
        recommended(*arguments)


@pytest.mark.parametrize(
    "env", ["gymnasium/Pendulum-v1", "mpe2/simple_spread_v3", "vmas/navigation"]
)
def test_a_bare_constructor_is_the_recipe_where_a_task_has_none_of_its_own(env):
    recipe = recommended("shac++", env)
    learned = LearnedDiffWrapper(make(env, num_envs=recipe.run.num_envs))
    assert (SHAC(learned).config, learned.config) == (recipe.config, recipe.surrogates)


@pytest.mark.parametrize("agents", [5, 20, 50])
@pytest.mark.parametrize("network", ["mlp", "shared", "transformer"])
def test_many_agents_do_not_make_minibatches_and_buffers_larger(agents, network):
    few, many = (recommended("shac++", "paper/dispersion", n, network) for n in (3, agents))
    for old, new in (
        (few.config.value, many.config.value),
        (few.surrogates.fit, many.surrogates.fit),
    ):
        for size in ("batch_size", "capacity"):
            rows, before = getattr(new, size) * agents, getattr(old, size) * 3
            assert before - agents < rows <= before


@pytest.mark.parametrize("env", ["mujoco/Hopper-v5", "gymnasium/HalfCheetah-v5"])
def test_ppo_on_robots_is_tuned_as_the_ppo_steps_of_shac(env):
    ppo, shac = (recommended(method, env).config for method in ("ppo", "shac++"))
    clip = replace(shac.update.ppo, ratio=ppo.clip.ratio)  # of one agent the same
    assert ppo.clip == clip
    assert (ppo.horizon, ppo.actor, ppo.ema_decay) == (shac.horizon, shac.actor, shac.ema_decay)
    assert ppo.gamma is shac.gamma is None
    assert recommended("ppo", "mjx/hopper").config.gamma == 0.99  # measured worse there
    assert ppo.critic_lr == shac.value.lr
