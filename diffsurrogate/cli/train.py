"""`diffsurrogate train`."""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import profile, schedule
from tqdm import tqdm

from diffsurrogate.actor_critic.diversity import (
    policy_diversity,
    seen_alive,
    why_not_comparable,
)
from diffsurrogate.cli.build import evaluation_env, evaluation_steps, filmed_env
from diffsurrogate.cli.interruption import Interruption
from diffsurrogate.cli.options import FINAL_SEED, TrainOptions
from diffsurrogate.cli.parsing import started_as
from diffsurrogate.distributed import (
    check_world_size,
    objects_of_ranks,
    process_group,
    rank,
    world_size,
)
from diffsurrogate.envs.waiting import warn_of_hanging_envs
from diffsurrogate.errors import UsageError
from diffsurrogate.presets.recipe import SB3_METHODS
from diffsurrogate.trained_policy import TrainedPolicy
from diffsurrogate.training.callbacks import Logger
from diffsurrogate.training.evaluate import EVALUATION_SEED, evaluate
from diffsurrogate.training.loggers import loggers
from diffsurrogate.training.run_folder import RunFolder
from diffsurrogate.training.trainer import Trainer, ranks_of

PRUNED = "pruned"
_INTERRUPTED, _STEPS = "interrupted", "all steps taken"
_TIME, _CPU = "time limit", "CPU limit"
"""Why a training stopped."""
_LOAD, _SAVE, _ITERATE = "load", "save", "iterate"
"""What rank 0 tells the other ranks to do; a number is the exit status to end with."""
_PROGRESS = ("history", "cpu_seconds", "evaluation_cpu_seconds", "wall_seconds")
"""What a session saves of itself."""
Worthwhile = Callable[[dict[str, Any]], bool]
"""Is given an evaluation with its `env_steps`, and says whether to go on."""
_WATCHED = 8
"""Envs of the last evaluation whose observations the policy's diversity is measured on."""
_KEPT = 256
"""States among these that are kept, for the policies of other runs."""


def train(options: TrainOptions, worthwhile: Worthwhile | None = None) -> int:
    """Train, evaluate and leave the results in the run folder; return the exit status.

    Of several processes (torchrun), rank 0 does all but the training, and decides for all.

    Args:
        options: what to train, and where to.
        worthwhile: asked after each evaluation whether to go on; None to go on always.
    """
    torch.set_num_threads(options.threads)
    warn_of_hanging_envs(options.warn_after)
    with Interruption() as interruption, ExitStack() as at_end:
        try:
            at_end.enter_context(process_group(options.device))
            if rank() > 0:
                return _follow(options, interruption, at_end)
            status = _train(options, interruption, at_end, worthwhile)
            objects_of_ranks(status)
            return status
        except (KeyboardInterrupt, UsageError) as error:
            # which Ctrl-C may have caused, as it reaches processes of the env as well
            if not interruption.asked:
                raise
            interruption.ignore()
            why = f" ({' '.join(str(error).split())})" if isinstance(error, UsageError) else ""
            if rank() == 0:
                print(f"stopped at once{why}; {_again(options)}")
            return 130


def _train(
    options: TrainOptions,
    interruption: Interruption,
    at_end: ExitStack,
    worthwhile: Worthwhile | None,
) -> int:
    if options.resume:
        folder = RunFolder.open(options.folder)
        at_end.callback(folder.close)
        folder.lock()
    agent, env = options.make()
    at_end.callback(env.close)
    session = _Session(options, agent, interruption, worthwhile)
    at_end.callback(session.env.close)
    if options.resume:
        session.folder = folder
        if folder.checkpoint_path.is_file():
            session.load(folder.load(env.device))
        elif folder.best_path.is_file() or folder.summary() is not None:
            raise UsageError(
                f"the run in {folder.path} has lost its checkpoints/last.pt; restore it, or copy "
                "best.pt there to go on from it, or start another run with another --out"
            )
        else:
            print("there is no checkpoint yet; the run starts from the beginning")
        lost = folder.rewind(agent.iteration if session.history else -1)
        if lost:
            print(
                f"warning: {folder.path / 'metrics.csv'} and its copy in checkpoints/ have lost "
                f"the rows of updates {_ranges(lost)}; TensorBoard's events may have them",
                file=sys.stderr,
            )
        if session.done() and folder.summary() is not None:
            print(f"{folder.path} is finished ({session.stopped}); raise {session.limit} to go on")
            return 0
        config = replace(options, resume=False).to_json()
        folder.reopen(config, finished=session.done())
    else:
        session.folder = RunFolder.create(options.folder, options.to_json())
        at_end.callback(session.folder.close)
    interruption.training = True
    session.run()
    if session.stopped == _INTERRUPTED:
        print(f"stopped; {_again(options)}")
        return 130
    return 0


def _follow(options: TrainOptions, interruption: Interruption, at_end: ExitStack) -> int:
    """Train along on another rank than 0."""
    agent, env = options.make()
    at_end.callback(env.close)
    iterations = agent.iterations(last_iteration(options, agent))
    interruption.training = True
    while True:
        command = objects_of_ranks(interruption.asked)[0]
        if command == _LOAD:
            agent.load_state_dict(RunFolder(options.folder).load(env.device)["agent"])
        elif command == _SAVE:
            agent.state_dict()
        elif command == _ITERATE:
            next(iterations)
        else:
            return int(command)


def last_iteration(options: TrainOptions, agent: Trainer) -> int:
    """Return the number of updates in which all steps are taken."""
    return -(-options.total_steps // agent.steps_per_iteration)


def _again(options: TrainOptions) -> str:
    """Return how to go on after Ctrl-C."""
    if not (options.folder / "config.json").is_file():
        return "the run had not begun"
    return f"continue with: {started_as()} train --resume --out {shlex.quote(str(options.folder))}"


def _ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as text, such as 0, 3 to 5."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True))


class _Session:
    """One training run: the trainer, its folder, its clocks and its evaluations."""

    def __init__(
        self,
        options: TrainOptions,
        agent: Trainer,
        interruption: Interruption,
        worthwhile: Worthwhile | None,
    ) -> None:
        self.worthwhile = worthwhile
        self.options = options
        self.agent = agent
        self.interruption = interruption
        self.folder = RunFolder(options.folder)
        self.loggers: list[Logger] = []
        self.env = evaluation_env(options, options.eval_envs)
        self.evaluation_steps = evaluation_steps(options, self.env)
        if self.env.max_steps is None and self.evaluation_steps is None:
            raise UsageError(
                f"{options.env} tells no time limit, so an evaluation might never end; give "
                "--max-steps, or --eval-steps if its episodes end by themselves"
            )
        self.last = last_iteration(options, agent)
        self.history: list[dict[str, Any]] = []
        self.cpu_seconds = 0.0
        self.evaluation_cpu_seconds = 0.0
        self.wall_seconds = 0.0
        self.stopped = ""

    def run(self) -> None:
        """Train until done, then evaluate, draw and sum up."""
        options, agent = self.options, self.agent
        bar = tqdm(
            total=options.total_steps,
            initial=min(agent.env_steps, options.total_steps),
            unit="step",
            unit_scale=True,
            disable=None if options.progress else True,  # None: only on a terminal
        )
        before = time.monotonic() - self.wall_seconds
        with bar, ExitStack() as at_end:
            updated = self._profiler(at_end)
            self.loggers = loggers(options.log_to, options.folder, options.to_json())
            for logger in self.loggers:
                at_end.callback(logger.close)
            iterations = agent.iterations(self.last)
            if not self.history:
                start = {"env_steps": 0.0, "cpu_seconds": 0.0, **self._evaluate(bar)}
                self._log(start)
                self._keep_best()
            while not self.done():
                self._tell(_ITERATE)
                metrics = next(iterations)
                updated()
                self.cpu_seconds += metrics["update_cpu_seconds"]
                metrics["cpu_seconds"] = self.cpu_seconds
                self.wall_seconds = time.monotonic() - before
                last = agent.iteration == self.last  # Ctrl-C in it changes nothing
                ends = self.done() and (last or self.stopped != _INTERRUPTED)
                if agent.iteration % options.eval_every == 0 or ends:
                    metrics |= self._evaluate(bar)
                self._log(metrics)
                bar.update(min(agent.env_steps, options.total_steps) - bar.n)
                self.wall_seconds = time.monotonic() - before
                if not self._keep_best() and agent.iteration % options.checkpoint_every == 0:
                    self.save()
        self.save()
        if self.stopped != _INTERRUPTED:
            self._finish()

    def _profiler(self, at_end: ExitStack) -> Callable[[], None]:
        """Profile the updates asked for; return what to call after each."""
        if self.options.profile == 0:
            return lambda: None
        profiler = profile(
            schedule=schedule(wait=0, warmup=2, active=self.options.profile, repeat=1),
            on_trace_ready=lambda p: p.export_chrome_trace(str(self.folder.path / "trace.json.gz")),
        )
        at_end.enter_context(profiler)
        return profiler.step

    def _log(self, metrics: dict[str, float]) -> None:
        """Log an update's metrics."""
        for logger in (self.folder, *self.loggers):
            logger.log(self.agent.iteration, metrics)

    def save(self) -> None:
        """Write the checkpoint."""
        self.folder.save(self._state())

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        if "agent" not in state or "progress" not in state:
            raise UsageError("the checkpoint is not of a training run; resume from another one")
        check_world_size(ranks_of(state["agent"]))
        self._tell(_LOAD)
        self.agent.load_state_dict(state["agent"])
        for name in _PROGRESS:
            setattr(self, name, state["progress"][name])
        if self.history and self._best["update"] == self.agent.iteration:
            self.folder.save_best(state)  # a kill may have come just before
            return
        try:
            self.folder.load("cpu", best=True)  # rather than to find it lost at the end
        except UsageError as error:
            raise UsageError(
                f"{error} (or copy last.pt to best.pt, to go on with its policy as the best so far)"
            ) from error

    def _tell(self, command: str) -> None:
        """Let the other ranks do something along, and hear whether Ctrl-C has reached one."""
        if any(objects_of_ranks(command)[1:]):
            self.interruption.asked = True

    def _state(self) -> dict[str, Any]:
        self._tell(_SAVE)
        return {
            "agent": self.agent.state_dict(),
            "progress": {name: getattr(self, name) for name in _PROGRESS},
        }

    def _keep_best(self) -> bool:
        """Write `best.pt` if this update was evaluated as best; return whether it was.

        And `last.pt` before, so that a resumed run finds no best that it has not seen.
        """
        if self._best["update"] != self.agent.iteration:
            return False
        state = self._state()
        self.folder.save(state)
        self.folder.save_best(state)
        return True

    @property
    def limit(self) -> str:
        """The option at whose value the training stopped."""
        limits = {_TIME: "--time-limit", _CPU: "--cpu-limit", _STEPS: "--total-steps"}
        return limits.get(self.stopped, "--stop-at")

    def done(self) -> bool:
        """Return whether there is nothing left to train; `stopped` says why."""
        limit, cpu_limit = self.options.time_limit, self.options.cpu_limit
        goal = self.options.stop_at
        reached = self.history[-1]["normalised_return"] if self.history else None
        if self.stopped:
            return True
        if self.interruption.asked:
            self.stopped = _INTERRUPTED
        elif self.agent.iteration >= self.last:
            self.stopped = _STEPS
        elif goal is not None and reached is not None and reached >= goal:
            self.stopped = f"normalised return {goal} reached"
        elif limit is not None and self.wall_seconds >= limit:
            self.stopped = _TIME
        elif cpu_limit is not None and self.cpu_seconds >= cpu_limit:
            self.stopped = _CPU
        return bool(self.stopped)

    def _evaluate(self, bar: "tqdm[Any]") -> dict[str, float]:
        """Evaluate, remember it and return metrics."""
        result = self._timed_evaluation(self.agent.policy(self.env), EVALUATION_SEED)
        row: dict[str, Any] = {
            "update": self.agent.iteration,
            "env_steps": self.agent.env_steps,
            "cpu_seconds": self.cpu_seconds,
            **result,
        }
        self.history.append(row)
        if self.worthwhile is not None and not self.worthwhile(row):
            self.stopped = PRUNED
        text = _text(row)
        bar.set_postfix_str(text)
        if bar.disable and self.options.progress:
            steps, cpu = self.agent.env_steps, self.cpu_seconds
            print(f"{steps:>12,} steps {cpu:8.1f} CPU-s  {text}", flush=True)
        return {f"evaluation_{name}": value for name, value in result.items() if value is not None}

    def _timed_evaluation(
        self, predict: Callable[[Tensor], Tensor], seed: int
    ) -> dict[str, float | None]:
        began = time.process_time()
        result = evaluate(predict, self.env, steps=self.evaluation_steps, seed=seed)
        self.evaluation_cpu_seconds += time.process_time() - began
        return result.summary()

    def _finish(self) -> None:
        """Evaluate on other seeds than before, draw the curve and the GIF, write the summary."""
        options, path = self.options, self.folder.path
        if options.progress:
            filmed = ", and filming it" if options.film_steps > 0 else ""
            print(f"evaluating the trained policy on new episodes{filmed}", flush=True)
        final, diversity = self._last_evaluation()
        kept = self._kept(final)
        title = f"{options.method} on {options.env}, seed {options.seed}"
        from diffsurrogate.cli.figures import draw_curve  # the import takes seconds

        draw_curve(self.history, title, path / "curve.png")
        written = [f"{path / name}" for name in ("summary.json", "curve.png")]
        if options.film_steps > 0:
            written.append(self._film(path / "rollout.gif"))
        # last, as it says that the run is finished
        self.folder.write_summary(self._summary(final, kept) | {"diversity": diversity})
        if kept["update"] != self.agent.iteration:
            written.append(f"{self.folder.best_path}: {_text(kept)}, of update {kept['update']}")
        print(f"{title}: {_text(final)}, {self.cpu_seconds:.1f} CPU-s of training ({self.stopped})")
        print("\n".join(f"  {line}" for line in written))

    @property
    def _best(self) -> dict[str, Any]:
        """The best evaluation on the way, whose policy is in `best.pt`."""
        return max(self.history, key=lambda row: row["mean_return"])

    def _kept(self, final: dict[str, float | None]) -> dict[str, Any]:
        """Return what the policy in `best.pt` comes to in the same new episodes as the last."""
        if self._best["update"] == self.agent.iteration:
            names = ("update", "env_steps", "cpu_seconds")
            return {name: self._best[name] for name in names} | final
        checkpoint = self.folder.load(self.env.device, best=True)
        policy = TrainedPolicy.of_recipe(self.options.recipe, checkpoint, self.env).on(self.env)
        update = checkpoint["agent"]["iteration"]
        where = {
            "update": update,
            "env_steps": update * self.agent.steps_per_iteration,
            "cpu_seconds": checkpoint["progress"]["cpu_seconds"],
        }
        return where | self._timed_evaluation(policy, FINAL_SEED)

    def _last_evaluation(self) -> tuple[dict[str, float | None], float | None]:
        """Return it, and how differently agents act on one observation, where that can be said."""
        policy = self.agent.policy(self.env)
        alone = self.options.method in SB3_METHODS or self.agent.env.num_agents == 1
        if alone or why_not_comparable(self.agent.predictor):
            return self._timed_evaluation(policy, FINAL_SEED), None
        seen: list[Tensor] = []

        def watched(obs: Tensor) -> Tensor:
            seen.append(seen_alive(self.env)[:_WATCHED].clone())
            return policy(obs)

        final = self._timed_evaluation(watched, FINAL_SEED)
        states = torch.stack(seen).flatten(0, 1)
        some = torch.linspace(0, len(states) - 1, min(_KEPT, len(states))).long()
        self.folder.write_seen(states[some])
        return final, policy_diversity(self.agent.predictor, states)

    def _film(self, file: Path) -> str:
        """Film the policy; return the file, or why there is none: a run never fails for that."""
        from diffsurrogate.cli.figures import Take, film

        try:
            env = filmed_env(self.options, 4)
            policy, steps = self.agent.policy(env), self.options.film_steps
            film([Take(policy, env)], file, steps=steps, seed=FINAL_SEED)
        except UsageError as error:
            return f"no {file.name}: {' '.join(str(error).split())}"
        return f"{file}"

    def _summary(self, final: dict[str, float | None], kept: dict[str, Any]) -> dict[str, Any]:
        options = self.options
        reached = [row for row in self.history if (row["normalised_return"] or 0.0) >= 0.9]
        return {
            "method": options.method,
            "env": options.env,
            "agents": self.agent.env.num_agents,
            "network": options.network,
            "seed": options.seed,
            "num_envs": options.num_envs,
            **final,
            "best_evaluation": self._best,
            "best_policy": kept,
            "reached_0.9": reached[0] if reached else None,
            "env_steps": self.agent.env_steps,
            "updates": self.agent.iteration,
            "processes": world_size(),
            "skipped_updates": self.agent.skipped,
            "wall_seconds": self.wall_seconds,
            "cpu_seconds": self.cpu_seconds,
            "evaluation_cpu_seconds": self.evaluation_cpu_seconds,
            "stopped": self.stopped,
        }


def _text(row: dict[str, Any]) -> str:
    if row["normalised_return"] is not None:
        return f"normalised return {row['normalised_return']:.3f}"
    success = row.get("info/is_success")
    told = "" if success is None else f", success {success:.0%}"
    return f"return {row['mean_return']:.1f}{told}"
