"""A policy without its training: acts on observations of the user's own env, or on one of ours."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diffsurrogate.actor_critic.actor import Actor, ActorConfig
from diffsurrogate.actor_critic.autoregressive import build_actor
from diffsurrogate.actor_critic.recurrent import RecurrentActor, RecurrentPolicy
from diffsurrogate.config import config_from_dict, require_choice
from diffsurrogate.envs.env import MultiAgentVectorEnv, Policy
from diffsurrogate.envs.observation_slices import available_actions
from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.errors import UsageError
from diffsurrogate.presets.recipe import Recipe, sb3_trainer
from diffsurrogate.seeding import derive_seed
from diffsurrogate.training.checkpoint import check_finite, load_checkpoint
from diffsurrogate.training.run_folder import RunFolder
from diffsurrogate.training.trainer import Trainer
from diffsurrogate.wrappers.sb3.config import SB3Config, SB3OffPolicyConfig


def load_policy(
    run: str | Path,
    env: Any = None,
    *,
    which: Literal["best", "last"] = "best",
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> "TrainedPolicy":
    """Return a policy, to act in the env it was trained on, wherever that is stepped.

    Args:
        run: the run folder, or a file that a trainer's `save` wrote.
        env: of the kind it was trained on, for its spaces: one of ours, or what `as_multi_agent`
            takes, such as the class of your env. A file needs it; that of a run folder is known.
        which: the best checkpoint by evaluation, as `evaluate --best` takes it, or the last; of a
            run folder.
        device: where to compute.
        seed: of samples.

    Raises:
        UsageError: there is no run or no checkpoint, or it cannot be read, or is of another kind of
            env; a file was given without an env, or is of Stable-Baselines3's methods; or the env
            of a run, of which one copy is made to know its spaces and closed again, cannot be made.

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
    path = Path(run)
    if path.is_file():
        return _of_file(path, env, device, seed)
    folder = RunFolder.open(path)
    options = TrainOptions.from_json(folder.config)
    state = folder.load(device, best=which == "best")
    if env is not None:
        return TrainedPolicy.of_recipe(options.recipe, state, as_multi_agent(env), seed=seed)
    with closing(evaluation_env(replace(options, device=str(device)), 1)) as made:
        return TrainedPolicy.of_recipe(options.recipe, state, made, seed=seed)


def _of_file(path: Path, env: Any, device: torch.device | str, seed: int) -> "TrainedPolicy":
    """Return the policy of a file that a trainer's `save` wrote, or a run's checkpoint."""
    state = load_checkpoint(path, device)
    state = state.get("agent", state)
    if env is None:
        raise UsageError(
            f"{path} holds a trainer, but not what its env observes and takes; give an env of that "
            f"kind: load_policy({str(path)!r}, YourEnv)"
        )
    if "actor" not in state.get("config", {}):
        raise UsageError(
            f"{path} is of one of Stable-Baselines3's methods or of no trainer; load the former by "
            "the class that wrote it, such as SB3PPO.load(path, env), and use its predict or model"
        )
    spaces = as_multi_agent(env)
    shape = (spaces.num_agents, spaces.obs_dim, spaces.act_dim)
    if tuple(state["shape"]) != shape:
        raise UsageError(
            f"{path} is of an env with (agents, obs_dim, act_dim) = {tuple(state['shape'])}, the "
            f"one given has {shape}; give the kind it was trained on"
        )
    config = config_from_dict(ActorConfig, state["config"]["actor"])
    with _told_if_unfit():
        actor = _actor(config, state, spaces)
    method = state.get("trainer", "a trainer")  # 0.2.0 did not tell
    return TrainedPolicy(actor, spaces, method=method, env_name=str(spaces), seed=seed)


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
        self,
        actor: Actor | Trainer,
        env: MultiAgentVectorEnv,
        *,
        method: str,
        env_name: str,
        seed: int = 0,
    ) -> None:
        """Let an actor act.

        Args:
            actor: see the class.
            env: of the kind it was trained on, for its spaces.
            method: that trained it.
            env_name: id or description of the env.
            seed: of samples.
        """
        self.actor, self.env, self._form = actor, env, env.raw_form
        self.method, self.env_name = method, env_name
        self._hidden: Tensor | None = None
        own = derive_seed(seed, "samples")
        self._generator = torch.Generator(env.device).manual_seed(own)

    @classmethod
    def of_recipe(
        cls, recipe: Recipe, state: dict[str, Any], env: MultiAgentVectorEnv, *, seed: int = 0
    ) -> "TrainedPolicy":
        """Return the policy of a run's checkpoint.

        Args:
            recipe: of the run.
            state: its checkpoint.
            env: of the kind it was trained on, for its spaces.
            seed: of samples.

        Raises:
            UsageError: the checkpoint is not of a training run on such an env, or its weights are
                not finite.
        """
        actor: Actor | Trainer
        with _told_if_unfit():
            if isinstance(recipe.config, SB3Config | SB3OffPolicyConfig):
                actor = sb3_trainer(recipe.method, env, recipe.config, seed=seed)
                actor.load_policy(state["agent"])
            else:
                actor = _actor(recipe.config.actor, state["agent"], env)
        return cls(actor, env, method=recipe.method, env_name=recipe.env, seed=seed)

    def __repr__(self) -> str:
        """Return what was trained on what, on one line."""
        return f"<policy of {self.method} on {self.env_name}>"

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
        return actor.action_space.executed(action)


def _actor(config: ActorConfig, state: dict[str, Any], env: MultiAgentVectorEnv) -> Actor:
    """Return the actor of a trainer's state, with its weights."""
    actor = build_actor(config, env).to(env.device)
    check_finite(state["predictor"], "predictor", actor)
    actor.load_state_dict(state["predictor"])
    return actor


@contextmanager
def _told_if_unfit() -> Iterator[None]:
    """Turn what goes wrong with a state of another configuration into one clear error."""
    try:
        yield
    except UsageError:
        raise
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"the checkpoint does not fit its configuration ({error}); restore either"
        ) from error
