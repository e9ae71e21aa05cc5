"""The one place that says which settings a method takes on an env, unless told otherwise."""

from dataclasses import replace

from diffsurrogate.presets.papers import paper_recipe
from diffsurrogate.presets.ppo import recommended_ppo, recommended_sb3
from diffsurrogate.presets.published import published_recipe
from diffsurrogate.presets.recipe import (
    SB3_METHODS,
    SEQUENTIAL_METHODS,
    AlgorithmConfig,
    Choice,
    Method,
    Network,
    Preset,
    Recipe,
    RunConfig,
)
from diffsurrogate.presets.sequential import recommended_bppo
from diffsurrogate.presets.shac import recommended_shac, recommended_surrogates


def recommended(
    method: Method,
    env: str,
    agents: int | None = None,
    network: Network = "mlp",
    preset: Preset = "default",
) -> Recipe:
    """Return the settings that suit a method and an env; the command line starts from the same.

    Args:
        method: such as "shac++" or "ppo".
        env: id, such as "paper/dispersion".
        agents: how many, where the env lets one choose; None for the env's own number.
        network: of the policy.
        preset: "default" for what measured best; others as of `Choice`.

    Raises:
        UsageError: the method, the network or the preset is not known, or they do not go together.
    """
    agents = usual_agents(env, agents)
    choice = Choice(method=method, env=env, agents=agents, network=network, preset=preset)
    if preset == "paper":
        return paper_recipe(choice)
    if preset != "default":
        return published_recipe(choice)
    run = _run(choice)
    return Recipe(
        **vars(choice),
        run=run,
        config=_config(choice, run.num_envs),
        surrogates=recommended_surrogates(choice) if method in ("shac+", "shac++") else None,
    )


def usual_agents(env: str, agents: int | None) -> int | None:
    """Return the number of agents, 1 on the paper's tasks and the env's own where none is given."""
    return 1 if agents is None and env.startswith("paper/") else agents


def _config(choice: Choice, num_envs: int) -> AlgorithmConfig:
    if choice.method in ("shac", "shac+", "shac++"):
        return recommended_shac(choice, num_envs)
    if choice.method in SB3_METHODS:
        return recommended_sb3(choice)
    return (
        recommended_bppo(choice) if choice.method in SEQUENTIAL_METHODS else recommended_ppo(choice)
    )


def _run(choice: Choice) -> RunConfig:
    """Return as many envs, steps and evaluations as the env is good for."""
    method, library = choice.method, choice.library
    without_gradients = method not in ("shac", "shac+", "shac++")
    if library == "paper":
        return RunConfig(total_steps=20_000_000, max_steps=512, eval_every=25)
    if library == "mjx":  # one number of copies: each other one is compiled for
        return RunConfig(num_envs=64, total_steps=2000 * 64 * 32, eval_every=50, eval_envs=64)
    if library == "games" and without_gradients and method not in SB3_METHODS:
        return RunConfig(num_envs=2000, total_steps=1_000_000, eval_every=5, eval_envs=8)
    run = RunConfig(eval_envs=64) if choice.external else RunConfig()
    if method in SEQUENTIAL_METHODS:
        robots = replace(run, num_envs=40, total_steps=10_000_000, eval_every=25)
        return robots if library == "mamujoco" else run
    slow = choice.external if method == "shac++" else choice.robot or library == "gymnasium"
    if slow and (without_gradients or method == "shac++"):
        return replace(run, num_envs=16, total_steps=500_000, eval_every=10)
    return run
