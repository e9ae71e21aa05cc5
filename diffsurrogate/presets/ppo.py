"""Starting points of the methods that need no gradients: ppo, its relatives and sb3-ppo."""

from dataclasses import replace

import gymnasium

from diffsurrogate.algorithms.ppo import IPPOConfig, MAPPOConfig, PPOConfig
from diffsurrogate.cli.options import SEQUENTIAL_METHODS, Network, TrainOptions
from diffsurrogate.config import as_plain
from diffsurrogate.nets.config import NetConfig
from diffsurrogate.presets.sequential import chained, in_games
from diffsurrogate.wrappers.sb3.config import SB3Config

_TRANSFORMER = NetConfig(
    architecture="transformer", hidden=(64,), embed=(64,), activation="tanh", layer_norm=False
)
_OWN = NetConfig(hidden=(64, 64), activation="tanh", layer_norm=False)
_SHARED = replace(_OWN, architecture="shared", pool_others=False)
_NETS: dict[Network, NetConfig] = {
    "shared": _SHARED,
    "shared-id": replace(_SHARED, agent_id=True),
    "transformer": _TRANSFORMER,
    "transformer-id": replace(_TRANSFORMER, agent_id=True),
    "hyper-linear": replace(_OWN, architecture="hyper-linear"),
    "hyper-mlp": replace(_OWN, architecture="hyper-mlp"),
    "dico": replace(_OWN, architecture="dico"),
}
"""Of the policy, but for mlp; that of ppo's one controller hears all (context)."""
_ROBOTS = ("mujoco/", "mamujoco/")


def baseline(options: TrainOptions) -> TrainOptions:
    """Return the defaults that suit a baseline, its env, network and number of agents."""
    if options.method == "sb3-ppo":
        options = replace(options, sb3=SB3Config(joint=options.network == "mlp"))
    elif options.method in SEQUENTIAL_METHODS:
        options = chained(options)
    else:
        options = replace(options, ppo=_with_network(_own_defaults(options), options))
    if options.env.startswith("games/") and options.method != "sb3-ppo":
        return in_games(options)
    if options.method in SEQUENTIAL_METHODS:
        return options
    agents = options.agents or 1
    if options.env.startswith("paper/") and agents > 2 and options.network == "mlp":
        return _wider(options, 32 * agents)
    if options.env.startswith(("gymnasium/", *_ROBOTS)):
        return _gymnasium(options)
    return options


def _own_defaults(options: TrainOptions) -> PPOConfig:
    """Return the method's own defaults."""
    kinds = {"ppo": PPOConfig, "ippo": IPPOConfig, "mappo": MAPPOConfig}
    return as_plain(PPOConfig, kinds[options.method]())


def _with_network(ppo: PPOConfig, options: TrainOptions) -> PPOConfig:
    """Return `ppo` with the network asked for, and a critic to match."""
    if options.network == "mlp":
        return ppo
    actor = _NETS[options.network]
    if options.method == "ppo" and actor.architecture == "shared":
        actor = replace(actor, pool_others=True)
    critic = _critic(options, actor, ppo.critic.net)
    return replace(ppo, actor=replace(ppo.actor, net=actor), critic=replace(ppo.critic, net=critic))


def _critic(options: TrainOptions, actor: NetConfig, own: NetConfig) -> NetConfig:
    """Return the network of a critic that goes with the actor's; `own` is the method's own."""
    generated = actor.architecture in ("hyper-linear", "hyper-mlp")
    if options.method == "mappo" and generated:
        return replace(actor, centralised=True)
    if options.method == "ippo":
        return _NETS["shared-id"] if actor.architecture == "dico" else actor
    same = actor.architecture == "transformer"
    same |= actor.architecture == "shared" and options.method == "ppo"
    return actor if same else own


def _wider(options: TrainOptions, width: int) -> TrainOptions:
    """Return joint networks of that width; separate ones stay as they are."""
    hidden, ppo = (width, width), options.ppo
    if options.method == "sb3-ppo":
        return replace(options, sb3=replace(options.sb3, hidden=hidden))
    if ppo.actor.net.architecture == "joint":
        net = replace(ppo.actor.net, hidden=hidden)
        ppo = replace(ppo, actor=replace(ppo.actor, net=net))
    if ppo.critic.net.architecture == "joint":
        net = replace(ppo.critic.net, hidden=hidden)
        ppo = replace(ppo, critic=replace(ppo.critic, net=net))
    return replace(options, ppo=ppo)


def _gymnasium(options: TrainOptions) -> TrainOptions:
    """Return few envs, long windows and more passes over them: its steps are slow ones."""
    ppo, sb3 = options.ppo, options.sb3
    robot = _is_robot(options.env)
    lr = 5e-4 if robot else 1e-3
    if options.method == "sb3-ppo":
        sb3 = replace(sb3, horizon=128, epochs=10, batch_size=256, lr=lr)
        sb3 = replace(sb3, std=0.5) if robot else sb3
    else:
        clip = replace(ppo.clip, epochs=10, batch_size=256, lr=lr)
        ppo = replace(ppo, horizon=128, clip=clip)
        ppo = replace(ppo, actor=replace(ppo.actor, std=0.5)) if robot else ppo
    return replace(
        options,
        ppo=ppo,
        sb3=sb3,
        num_envs=16,
        total_steps=500_000,
        eval_every=10,
    )


def _is_robot(env: str) -> bool:
    """Return whether an env is one of MuJoCo's, which fall over where noise is large."""
    known = gymnasium.registry.get(env.removeprefix("gymnasium/"))
    return env.startswith(_ROBOTS) or "envs.mujoco" in str(known and known.entry_point)
