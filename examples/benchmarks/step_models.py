"""How good is the learned gradient along a window, and what makes it so?

Takes the policies of finished runs of SHAC++, lets each model learn the same windows of theirs, and
compares its policy gradient with the simulator's own (its dynamics, and its reward where that has a
gradient) on segments of different lengths.

    diffsurrogate train shac++ paper/transport --agents 3 --stop-at 0.8 --out runs/transport
    python examples/benchmarks/step_models.py runs/transport
"""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from diffsurrogate import LearnedDiffWrapper, SurrogateConfig, recommended
from diffsurrogate.actor_critic.actor import NoisyPolicy
from diffsurrogate.algorithms.pathwise import PathwiseConfig, PathwiseGradient
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.cli.options import LearnedOptions, TrainOptions
from diffsurrogate.envs.window import Window
from diffsurrogate.nets.config import JointNetConfig
from diffsurrogate.surrogates.dynamics import LearnedDynamics
from diffsurrogate.surrogates.held_out import fvu
from diffsurrogate.surrogates.step_model import StepModelConfig
from diffsurrogate.training.run_folder import RunFolder, write_text

JOINT = JointNetConfig(hidden=(128, 128), activation="silu")


@dataclass
class Options:
    """What to compare."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs of SHAC++, whose envs have gradients of their own."""
    windows: int = 32
    """The models learn from."""
    rounds: int = 200
    """Of training, of as many minibatches each as an update has."""
    lengths: tuple[int, ...] = (1, 4, 8, 32)
    """Of the segments compared."""
    segments: int = 6
    """Compared of each length."""
    seed: int = 0
    out: Path | None = None
    """Also write the page there."""


def variants(preset: SurrogateConfig) -> dict[str, SurrogateConfig]:
    """Return the preset of a task, and each of its parts left out."""
    step = preset.dynamics
    assert isinstance(step, StepModelConfig)
    plain = replace(step, net=JOINT, num_frequencies=0)
    of_state = replace(preset.reward, inputs="s,a")
    return {
        "preset": preset,
        "no gradient attenuation": replace(preset, dynamics=replace(step, attenuate=False)),
        "no Fourier features": replace(preset, dynamics=replace(step, num_frequencies=0)),
        "one network for all agents": replace(preset, dynamics=replace(step, net=JOINT)),
        "neither": replace(preset, dynamics=plain),
        "neither, no attenuation": replace(preset, dynamics=replace(plain, attenuate=False)),
        "neither, no attenuation, reward from (s, a)": replace(
            preset, dynamics=replace(plain, attenuate=False), reward=of_state
        ),
    }


def agent_of(run: Path, config: SurrogateConfig | None = None) -> SHAC:
    """Return the trainer of a run with its policy and critic, beside models that know nothing."""
    folder = RunFolder.open(run)
    options = TrainOptions.from_json(folder.config)
    assert isinstance(options, LearnedOptions)
    update = options.shac.update
    assert isinstance(update.gradient, PathwiseConfig)
    whole = replace(update.gradient, segment_length=None, minibatches=1)
    shac = replace(options.shac, update=replace(update, gradient=whole))
    surrogates = options.surrogates if config is None else config
    options = replace(options, shac=shac, surrogates=surrogates)
    agent, _ = options.make()
    assert isinstance(agent, SHAC)
    state = folder.load("cpu")["agent"]
    agent.actor.load_state_dict(state["parts"]["actor"])
    agent.critic.load_state_dict(state["parts"]["critic"])
    return agent


def policy(agent: SHAC, steps: int) -> NoisyPolicy:
    """Return the policy with new noise."""
    return NoisyPolicy(agent.actor, agent.noise.draw(steps))


def measure(
    run: Path, config: SurrogateConfig, windows: list[Window], options: Options
) -> list[float]:
    """Return a model's errors on windows it has not seen, and cosines for each length."""
    agent = agent_of(run, config)
    env = agent.env
    assert isinstance(env, LearnedDiffWrapper)
    env.reset(seed=options.seed + 2)
    for window in windows[2:]:
        env.surrogates.store(window)
    for _ in range(options.rounds):
        env.surrogates.train_models(config.fit.minibatches)
    models = env.surrogates
    assert isinstance(models.dynamics, LearnedDynamics)
    errors: list[list[float]] = []
    for window in windows[:2]:
        action = models.action_space.normalise(models.action_space.executed(window.action))
        with torch.no_grad():
            models.dynamics.evaluate(window, models.dynamics.predict(window, action))
            reward = models.predict_reward(window.obs, window.action, window.next_obs)
        share = fvu(reward, window.reward)
        errors.append([share, models.held_out_errors(window)["dynamics_error"]])
    gradient, weights = agent.policy_update.gradient, list(agent.actor.net.parameters())
    assert isinstance(gradient, PathwiseGradient)
    cosines = []
    for length in options.lengths:
        found = []
        for _ in range(options.segments):
            noise = agent.noise.draw(length)

            def again(noise: torch.Tensor = noise) -> NoisyPolicy:
                return NoisyPolicy(agent.actor, noise)

            env.detach()
            found.append(env.compare_gradients(again, length, gradient.return_loss, weights))
            env.collect(policy(agent, 16), 16)  # on to other states
        cosines.append(statistics.median(row["gradient_cosine"] for row in found))
    return [statistics.mean(column) for column in zip(*errors, strict=True)] + cosines


def table(run: Path, options: Options) -> str:
    """Return the rows of one run."""
    agent = agent_of(run)
    agent.env.reset(seed=options.seed + 1)
    horizon = agent.config.horizon
    windows = [
        agent.env.collect(policy(agent, horizon), horizon) for _ in range(options.windows + 2)
    ]
    summary = RunFolder.open(run).summary() or {}
    lines = [
        f"\n## {summary.get('env', run.name)}, {agent.env.num_agents} agents\n",
        "| | reward error | dynamics error | "
        + " | ".join(f"cosine, {length} steps" for length in options.lengths)
        + " |",
        "|---" * (3 + len(options.lengths)) + "|",
    ]
    had = TrainOptions.from_json(RunFolder.open(run).config)
    preset = recommended(had.method, had.env, had.agents, had.network, had.preset).surrogates
    assert preset is not None
    preset = replace(preset, adjoint_clip=None)  # gradients as they are
    for name, config in variants(preset).items():
        row = measure(run, config, windows, options)
        lines.append(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in row) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main(options: Options) -> None:
    """Compare, print a table, write it."""
    torch.set_num_threads(1)
    made_by = (
        "Made by `python examples/benchmarks/step_models.py RUN … "
        f"--windows {options.windows} --rounds {options.rounds}`."
    )
    page = "\n".join([HEAD, made_by, *(table(run, options) for run in options.runs)]) + "\n"
    print(page)
    if options.out is not None:
        write_text(options.out, page)


HEAD = """# What makes the learned gradient good

Cosine of the learned policy gradient with the simulator's own, median over segments of so many
steps, for the policy that a run of SHAC++ ended with. All models learn the same windows of that
policy. Errors are mean squared errors over the variance of what is predicted (dynamics: over the
mean squared change, mean over entries), on windows not learned from. There is no adjoint clipping.
Discovery's reward has no gradient: there the learned one serves both.
"""

if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
