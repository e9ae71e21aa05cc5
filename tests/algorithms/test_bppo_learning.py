"""Whole trainings: who finds the best joint choice of the climbing game."""

from dataclasses import replace

from diffsurrogate.cli.build import trainer
from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.cli.presets import recommended
from diffsurrogate.envs.registry import make
from diffsurrogate.training.evaluate import evaluate


def payoff(method: str, iterations: int) -> float:
    """What the most probable choices earn each agent after windows of 1,500 plays."""
    options = recommended(TrainOptions(method=method, env="games/climbing"))
    agent = trainer(options, make(options.env, num_envs=300)).learn(iterations * 1500)
    return evaluate(agent.predict, make(options.env, num_envs=1)).mean_return / 2


def test_bppo_finds_the_best_joint_choice_where_independent_agents_do_not():
    """11 is next to -30, which teaches agents that choose at once to settle for 7 or less."""
    assert payoff("bppo", 20) == 11
    assert payoff("mappo", 20) <= 7


def test_what_it_takes_is_that_agents_see_actions_well():
    """Without feedback as good; with actions as they are, not in this time."""
    options = recommended(TrainOptions(method="armappo", env="games/climbing"))
    raw = replace(options.bppo, actor=replace(options.bppo.actor, conditioning="raw"))
    found = []
    for config in (options.bppo, raw):
        env = make(options.env, num_envs=300)
        agent = trainer(replace(options, bppo=config), env).learn(20 * 1500)
        found.append(evaluate(agent.predict, make(options.env, num_envs=1)).mean_return / 2)
    assert found[0] == 11
    assert found[1] <= 7
