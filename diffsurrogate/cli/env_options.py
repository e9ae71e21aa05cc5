"""What envs are made with besides what every env takes, from the command line."""

from diffsurrogate.errors import UsageError

EnvOptions = dict[str, bool | int | float | str]
"""Keywords of `make` by name, such as continuous_actions of vmas/ ids."""
_HAVE_THEIR_OWN = {
    "num_envs": "give --num-envs instead",
    "n_agents": "give --agents instead",
    "seed": "give --seed instead",
    "device": "give --device instead",
    "render_mode": "pictures are made at the end of a training and by render",
    "differentiable": "train shac and check-gradients ask for it by themselves",
}


def check_env_options(options: EnvOptions, *, max_steps: bool = False) -> None:
    """Refuse what is said in another way.

    Args:
        options: names and values.
        max_steps: whether the command has an option of that name.

    Raises:
        UsageError: a name has an option of its own.
    """
    own = _HAVE_THEIR_OWN | ({"max_steps": "give --max-steps instead"} if max_steps else {})
    for name in options:
        if name in own:
            raise UsageError(f"{name} cannot be given by --env-options; {own[name]}")


def usual_agents(env: str, agents: int | None) -> int | None:
    """Return the number of agents, 1 on the paper's tasks and the env's own where none is given."""
    return 1 if agents is None and env.startswith("paper/") else agents


def made_with(agents: int | None, options: EnvOptions) -> EnvOptions:
    """Return what `make` is told: the number of agents, if it was given, and the rest."""
    return options | ({} if agents is None else {"n_agents": agents})
