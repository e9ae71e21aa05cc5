"""A run's policy without the run: acts on observations of the user's own env, or on one of ours."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diffsurrogate.actor_critic.actor import Actor
from diffsurrogate.actor_critic.autoregressive import build_actor
from diffsurrogate.actor_critic.recurrent import RecurrentActor, RecurrentPolicy
from diffsurrogate.config import require_choice
from diffsurrogate.envs.action_space import clamp_to_box
from diffsurrogate.envs.env import MultiAgentVectorEnv, Policy
from diffsurrogate.envs.observation_slices import available_actions
from diffsurrogate.errors import UsageError
from diffsurrogate.presets.recipe import Recipe, sb3_trainer
from diffsurrogate.seeding import derive_seed
from diffsurrogate.training.checkpoint import check_finite
from diffsurrogate.training.run_folder import RunFolder
from diffsurrogate.training.trainer import Trainer
from diffsurrogate.wrappers.sb3.config import SB3Config, SB3OffPolicyConfig


def load_policy(
    run: str | Path,
    *,
    which: Literal["best", "last"] = "best",
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> "TrainedPolicy":
    """Return the policy of a run, to act in the env it was trained on, wherever that is stepped.

    Args:
        run: the run folder.
        which: the best checkpoint by evaluation, as `evaluate --best` takes it, or the last.
        device: where to compute.
        seed: of samples.

    Raises:
        UsageError: there is no run or no checkpoint, or it cannot be read; or the env, of which one
            copy is made to know its spaces and closed again, cannot be made.

    Example:
        >>> import gymnasium
        >>> from diffsurrogate import load_policy
        >>> policy = load_policy("runs/ppo-mujoco-HalfCheetah-v5-mlp-0")  # doctest: +SKIP
        >>> env = gymnasium.make("HalfCheetah-v5")  # doctest: +SKIP
        >>> obs, _ = env.reset()  # doctest: +SKIP
        >>> obs, reward, terminated, truncated, _ = env.step(policy(obs))  # doctest: +SKIP
    """
    from diffsurrogate.cli.build import evaluation_env  # with tyro, which takes long to import
    from diffsurrogate.cli.options import TrainOptions

    require_choice("which", which, ("best", "last"))
    folder = RunFolder.open(Path(run))
    options = TrainOptions.from_json(folder.config)
    state = folder.load(device, best=which == "best")
    env = evaluation_env(replace(options, device=str(device)), 1)
    try:
        return TrainedPolicy(options.recipe, state, env, seed=seed)
    finally:
        env.close()


class TrainedPolicy:
    """The policy of a checkpoint: call it on observations, get actions.

    Both are in the form of the env that a user steps: `(obs_dim,)` and actions of a Gymnasium env's
    `action_space`, or a batch of these; dicts of a PettingZoo env's agents; otherwise
    `(agent, obs_dim)` or `(env, agent, obs_dim)`, and actions of the same leading shape, within the
    env's bounds. Discrete actions are numbers. What is given as NumPy or torch is answered so.

    A recurrent policy remembers what it has seen: `reset` it when an episode starts.
    """

    actor: Actor | Trainer
    """The network with its weights; of Stable-Baselines3's methods the trainer of its `model`."""

    def __init__(
        self, recipe: Recipe, state: dict[str, Any], env: MultiAgentVectorEnv, *, seed: int = 0
    ) -> None:
        """Build the policy.

        Args:
            recipe: of the run.
            state: its checkpoint.
            env: of the kind it was trained on, for its spaces.
            seed: of samples.

        Raises:
            UsageError: the checkpoint is not of a training run on such an env, or its weights are
                not finite.
        """
        self.recipe, self.env, self._form = recipe, env, env.raw_form
        self._hidden: Tensor | None = None
        own = derive_seed(seed, "samples")
        self._generator = torch.Generator(env.device).manual_seed(own)
        try:
            self.actor = _actor(recipe, state["agent"], env, seed)
        except UsageError:
            raise
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise UsageError(
                f"the checkpoint does not fit the run's configuration ({error}); restore either"
            ) from error

    def __repr__(self) -> str:
        """Return what was trained on what, on one line."""
        return f"<policy of {self.recipe.method} on {self.recipe.env}>"

    def __call__(self, obs: Any, deterministic: bool = True) -> Any:
        """Return the action, or actions, for what was observed.

        Args:
            obs: see the class.
            deterministic: the mean or most probable action instead of a sample.

        Raises:
            UsageError: `obs` is of another shape or of other agents, or of another number of copies
                than a recurrent policy remembers.
        """
        rows, answer = self._form.read(obs)
        action, columns = self._act(rows, deterministic), self.env.action_mask_slice
        if columns is not None:  # which Stable-Baselines3's policies do not know
            action = action.masked_fill(~available_actions(rows, columns), -1.0)
        return answer(action)

    def reset(self, mask: Any = None) -> None:
        """Forget what was observed, as episodes start; a policy without memory has nothing to.

        Args:
            mask: (env,) bool, the copies whose episodes start; None for all, which may then be
                another number of them.

        Raises:
            UsageError: the mask is not of the copies that the policy remembers.
        """
        if mask is None or self._hidden is None:
            self._hidden = None
            return
        starts = torch.as_tensor(np.asarray(mask) if not isinstance(mask, Tensor) else mask)
        if starts.dtype != torch.bool or starts.shape != self._hidden.shape[:1]:
            raise UsageError(
                f"mask is {starts.dtype} of shape {tuple(starts.shape)}; torch.bool of (env,) = "
                f"({len(self._hidden)},) is needed"
            )
        self._hidden[starts.to(self._hidden.device)] = 0.0

    def on(self, env: MultiAgentVectorEnv) -> Policy:
        """Return the deterministic policy for one of our envs, as `Trainer.policy`.

        Args:
            env: of the kind it was trained on; hidden states are reset at its episode starts.
        """
        if isinstance(self.actor, RecurrentActor):
            return RecurrentPolicy(self.actor, env)
        return self._act

    @torch.no_grad()
    def _act(self, obs: Tensor, deterministic: bool = True) -> Tensor:
        """Return actions (env, agent, act_dim) for rows (env, agent, obs_dim)."""
        actor, env = self.actor, self.env
        if not isinstance(actor, Actor):
            return actor.predict(obs, deterministic)
        noise = None
        if not deterministic:
            shape = (*obs.shape[:-1], env.act_dim)
            noise = torch.randn(shape, generator=self._generator, device=obs.device)
        if not isinstance(actor, RecurrentActor):
            action = actor.act(obs, noise)
        else:
            hidden = actor.nothing(len(obs)) if self._hidden is None else self._hidden
            if len(hidden) != len(obs):
                raise UsageError(
                    f"obs is of {len(obs)} copies of the env, but the policy remembers "
                    f"{len(hidden)}; call reset() before another number of them"
                )
            going_on = torch.zeros(len(obs), dtype=torch.bool, device=obs.device)
            action, self._hidden = actor.act_next(obs, noise, hidden, going_on)
        return clamp_to_box(action, env.action_low, env.action_high)


def _actor(
    recipe: Recipe, state: dict[str, Any], env: MultiAgentVectorEnv, seed: int
) -> Actor | Trainer:
    """Return the actor with its weights; of Stable-Baselines3's methods, the trainer."""
    if isinstance(recipe.config, SB3Config | SB3OffPolicyConfig):
        trainer = sb3_trainer(recipe.method, env, recipe.config, seed=seed)
        trainer.load_policy(state)
        return trainer
    actor = build_actor(recipe.config.actor, env).to(env.device)
    check_finite(state["predictor"], "predictor", actor)
    actor.load_state_dict(state["predictor"])
    return actor
