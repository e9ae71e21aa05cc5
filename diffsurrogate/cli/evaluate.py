"""`diffsurrogate evaluate`, `render`, `export` and `check-gradients`: using what there is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from diffsurrogate.cli.build import evaluation_env, evaluation_steps, filmed_env
from diffsurrogate.cli.options import FINAL_SEED, MadeOptions, TrainOptions
from diffsurrogate.envs.waiting import USUAL, warn_of_hanging_envs
from diffsurrogate.errors import UsageError
from diffsurrogate.gradients.finite_differences import check_gradients
from diffsurrogate.policy_export import export_policy
from diffsurrogate.trained_policy import TrainedPolicy
from diffsurrogate.training.evaluate import evaluate
from diffsurrogate.training.run_folder import RunFolder, write_json


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Evaluate a run's policy: deterministic, whole first episodes, fixed seed."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    num_envs: int = 512
    """Episodes."""
    steps: int | None = None
    """Longest episode; None for what the run was evaluated with."""
    seed: int = FINAL_SEED
    """Of the reset; with as many --num-envs as the run's --eval-envs, the default repeats the
    evaluation at its end."""
    best: bool = False
    """Take the best checkpoint by evaluation instead of the last."""
    warn_after: float | None = USUAL
    """Seconds without an answer from the env until a warning names it; None for never."""


@dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """Film a run's policy as a GIF or MP4; needs no display."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    out: Path | None = None
    """A name that ends in .gif, or in .mp4 (extra `video`); None for rollout.gif in the run
    folder."""
    num_envs: int = 4
    """Episodes side by side."""
    steps: int = 200
    """Longest film."""
    seed: int = 0
    """Of the reset."""
    best: bool = False
    """Take the best checkpoint by evaluation instead of the last."""
    untrained: bool = False
    """Show the same episodes by the policy as it was before training, in a row above."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a run's policy as one ONNX or .pt2 file, which acts without diffsurrogate."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    out: Path | None = None
    """A name that ends in .onnx (extra `export`), or in .pt2 for torch.export; None for policy.onnx
    in the run folder."""
    which: Literal["best", "last"] = "best"
    """The best checkpoint by evaluation, as `load_policy` takes it, or the last."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions(MadeOptions):
    """Compare an env's own gradients with finite differences; status 1 if they disagree."""

    horizon: int | None = None
    """Steps of the window; None for 8, or 1 if the env knows its contacts."""
    warmup: int | None = None
    """Steps with random actions before the window; None for 0, or 30 if bodies have joints."""
    tolerance: float = 0.05
    """Largest relative error of an env that passes."""


def evaluate_run(options: EvaluateOptions) -> int:
    """Evaluate, print the figures and write `evaluation.json` into the run folder."""
    warn_of_hanging_envs(options.warn_after)
    folder = RunFolder.open(options.run)
    trained = TrainOptions.from_json(folder.config)
    env = evaluation_env(trained, options.num_envs)
    state = folder.load(env.device, best=options.best)
    policy = TrainedPolicy.of_recipe(trained.recipe, state, env).on(env)
    steps = evaluation_steps(trained, env) if options.steps is None else options.steps
    result = evaluate(policy, env, steps=steps, seed=options.seed).summary()
    asked = {"num_envs": options.num_envs, "steps": steps or env.max_steps, "seed": options.seed}
    write_json(options.run / "evaluation.json", {**result, **asked, "best": options.best})
    for name, value in result.items():
        print(f"{name:>20} {'unknown' if value is None else format(value, '.4g')}")
    return 0


def render_run(options: RenderOptions) -> int:
    """Write the film."""
    from diffsurrogate.cli.figures import Take, film  # the import takes seconds

    folder = RunFolder.open(options.run)
    trained = TrainOptions.from_json(folder.config)
    if options.num_envs < 1 or options.steps < 1:
        raise UsageError(
            f"num_envs is {options.num_envs} and steps {options.steps}; both must be at least 1"
        )
    env = filmed_env(trained, options.num_envs)
    state = folder.load(env.device, best=options.best)
    policy = TrainedPolicy.of_recipe(trained.recipe, state, env).on(env)
    takes = [Take(policy, env, "trained" if options.untrained else "")]
    if options.untrained:
        beginner, same = trained.make()[0], filmed_env(trained, options.num_envs)
        takes.insert(0, Take(beginner.policy(same), same, "before training"))
    out = options.out or options.run / "rollout.gif"
    frames = film(takes, out, steps=options.steps, seed=options.seed)
    print(f"{out}: {frames} frames")
    return 0


def export_run(options: ExportOptions) -> int:
    """Write the file, and print what it says of itself."""
    out = options.out or options.run / "policy.onnx"
    facts = export_policy(options.run, out, which=options.which)
    print(out)
    for name, value in facts.items():
        print(f"{name:>20} {value}")
    return 0


def check_env(options: CheckOptions) -> int:
    """Print the report of `check_gradients`."""
    torch.set_num_threads(1)
    env = options.make(differentiable=True)
    report = check_gradients(
        env,
        horizon=options.horizon,
        tolerance=options.tolerance,
        warmup=options.warmup,
        seed=options.seed,
    )
    print(f"{options.env}\n{report}")
    return 0 if report.passed else 1
