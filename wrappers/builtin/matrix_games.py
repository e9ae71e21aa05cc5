"""Games of one decision repeated, ids `games/<name>`: small tests of coordination.

Every agent sees the number 1 and picks one of its choices; what it earns depends on what all
picked. Climbing and penalty are the games of Claus & Boutilier (1998), on which BPPO is tested
(Li et al., AAAI 2024); specialisation and synchronisation those of HyperMARL (arXiv:2412.04233).
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.torch_env import TorchEnv, TorchState
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.ids import make_by_id

Payoff = Tensor | Sequence[Any]
"""What everybody earns, one axis per agent: `payoff[k][l]` if agent 0 picks k and agent 1 l."""
COMMON = ("num_envs", "steps", "seed", "device", "differentiable", "max_steps")
"""Options of all games."""
CLIMBING = ((11.0, -30.0, 0.0), (-30.0, 7.0, 0.0), (0.0, 6.0, 5.0))


class Game(TorchEnv):
    """A game of one decision, played `steps` times; then the episode terminates.

    Observations tell nothing, not even the time: they are 1.
    """

    true_gradients = frozenset()

    def __init__(
        self,
        *,
        num_agents: int,
        choices: int,
        num_envs: int = 64,
        steps: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
        differentiable: bool = False,
        max_steps: int | None = None,
    ) -> None:
        """Describe a game of `steps` repetitions, cut after `max_steps`; nothing in it is random.

        Raises:
            UsageError: a size is below 1, or gradients are asked for.
        """
        if min(num_agents, steps) < 1:
            raise UsageError(
                f"a game of {num_agents} agents and {steps} steps; at least 1 each is needed"
            )
        super().__init__(
            num_envs=num_envs,
            agents=[f"agent_{i}" for i in range(num_agents)],
            obs_dim=1,
            act_dim=choices,
            discrete_actions=True,
            seed=seed,
            device=device,
            differentiable=differentiable,
            max_steps=steps if max_steps is None else max_steps,
        )
        self.repetitions = steps

    @abstractmethod
    def payoff_of(self, choice: Tensor) -> Tensor:
        """Return what everybody earns, (*batch, agent) float32, for choices of that shape."""

    @abstractmethod
    def best_payoff(self) -> float:
        """Return the largest payoff there is, summed over agents."""

    def max_return(self) -> Tensor:
        """Return the best payoff in every repetition: (env,), summed over agents."""
        assert self.max_steps is not None
        steps = min(self.repetitions, self.max_steps)
        return torch.full((self.num_envs,), steps * self.best_payoff(), device=self.device)

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        """Start at repetition 0; `played` is (env,) int64."""
        return {"played": torch.zeros(count, dtype=torch.long, device=self.device)}

    def observe(self, state: TorchState) -> Tensor:
        """Return ones: (env, agent, 1)."""
        return torch.ones(len(state["played"]), self.num_agents, 1, device=self.device)

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        """Count the repetition."""
        return {"played": state["played"] + 1}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        """Return the payoff of the joint choice: (env, agent)."""
        return self.payoff_of(action.argmax(-1))

    def terminated(self, state: TorchState) -> Tensor:
        """Return whether all repetitions were played: (env,) bool."""
        return state["played"] >= self.repetitions


class MatrixGame(Game):
    """A game by its payoffs, the same for all agents.

    Example:
        >>> env = MatrixGame(payoff=[[1.0, 0.0], [0.0, 2.0]], num_envs=4)
        >>> env.max_return()[0].item()  # both earn 2
        4.0
    """

    def __init__(self, *, payoff: Payoff, **common: Any) -> None:
        """Describe the game.

        Args:
            payoff: one axis per agent, all as long as there are choices.
            common: num_envs, steps, seed, device and max_steps, as of `Game`.

        Raises:
            UsageError: the payoffs are no finite numbers in an array with equal axes.
        """
        try:
            table = torch.as_tensor(payoff, dtype=torch.float32)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"payoff is no array of numbers ({error}); give one axis per agent, such as "
                "[[1, 0], [0, 2]] for two agents with two choices"
            ) from error
        if table.dim() < 1 or len(set(table.shape)) != 1 or not bool(table.isfinite().all()):
            raise UsageError(
                f"payoff has the shape {tuple(table.shape)}; it needs one axis per agent, all of "
                "the same length, and finite numbers"
            )
        super().__init__(num_agents=table.dim(), choices=len(table), **common)
        self.payoff = table.to(self.device)

    def payoff_of(self, choice: Tensor) -> Tensor:
        """Look up the joint choice."""
        return self.payoff[choice.unbind(-1)].unsqueeze(-1).expand(choice.shape)

    def best_payoff(self) -> float:
        """Return the largest entry, which every agent earns."""
        return self.num_agents * float(self.payoff.max())


class Specialisation(Game):
    """As many choices as agents; an agent earns 1 / (number of agents that picked its choice)."""

    def payoff_of(self, choice: Tensor) -> Tensor:
        """Count the agents that picked the same."""
        same = choice.unsqueeze(-1) == choice.unsqueeze(-2)
        return 1 / same.sum(-1).float()

    def best_payoff(self) -> float:
        """Return 1 for each agent."""
        return float(self.num_agents)


class Synchronisation(Game):
    """As many choices as agents; every agent earns 1 if all pick the same, else 1 / agents."""

    def payoff_of(self, choice: Tensor) -> Tensor:
        """Compare all choices with the first agent's."""
        agree = (choice == choice[..., :1]).all(-1, keepdim=True)
        return torch.where(agree, 1.0, 1 / self.num_agents).expand(choice.shape)

    def best_payoff(self) -> float:
        """Return 1 for each agent."""
        return float(self.num_agents)


def climbing(**common: Any) -> MatrixGame:
    """Make `games/climbing`: 11 on the corner, but -30 for an agent that tries it alone."""
    return MatrixGame(payoff=CLIMBING, **common)


def penalty(*, k: float = -100.0, **common: Any) -> MatrixGame:
    """Make `games/penalty`: 10 on two corners, `k` on the others, 2 in the middle."""
    return MatrixGame(payoff=((k, 0.0, 10.0), (0.0, 2.0, 0.0), (10.0, 0.0, k)), **common)


def specialisation(*, n_agents: int = 2, **common: Any) -> Specialisation:
    """Make `games/specialisation`."""
    return Specialisation(num_agents=n_agents, choices=n_agents, **common)


def synchronisation(*, n_agents: int = 2, **common: Any) -> Synchronisation:
    """Make `games/synchronisation`."""
    return Synchronisation(num_agents=n_agents, choices=n_agents, **common)


GAMES: dict[str, Callable[..., Game]] = {
    "climbing": climbing,
    "penalty": penalty,
    "specialisation": specialisation,
    "synchronisation": synchronisation,
}


def ids() -> list[str]:
    """Return the names of the games; `matrix` makes one more, of payoffs given to it."""
    return list(GAMES)


def make(name: str, **options: Any) -> MultiAgentVectorEnv:
    """Make a game by name; `matrix` takes `payoff`, as `MatrixGame` does.

    Raises:
        UsageError: there is no such game, or it does not take an option.
    """
    if name == "matrix" and "payoff" not in options:
        raise UsageError("games/matrix needs payoff=...: one axis per agent, as long as choices")
    return make_by_id("games", GAMES | {"matrix": MatrixGame}, name, options, common=COMMON)
