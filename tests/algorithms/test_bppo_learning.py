"""Whole trainings: who finds the best joint action of the climbing game."""

from dataclasses import replace

from diffsurrogate.algorithms.bppo import ARMAPPO
from diffsurrogate.envs.registry import make
from diffsurrogate.presets.recommend import recommended
from diffsurrogate.training.evaluate import evaluate


def payoff(method: str, iterations: int) -> float:
    """What the most probable actions earn each agent after windows of 1,500 plays."""
    recipe = recommended(method, "games/climbing")
    agent = recipe.make_agent(make(recipe.env, num_envs=300)).learn(iterations * 1500)
    return evaluate(agent.predict, make(recipe.env, num_envs=1)).mean_return / 2


def test_bppo_finds_the_best_joint_action_where_independent_agents_do_not():
    """11 is next to -30, which teaches agents that act at once to settle for 7 or less."""
    assert payoff("bppo", 20) == 11
    assert payoff("mappo", 20) <= 7


def test_what_it_takes_is_that_agents_see_actions_well():
    """Without feedback as good; with actions as they are, not in this time."""
    config = recommended("armappo", "games/climbing").config
    raw = replace(config, actor=replace(config.actor, conditioning="raw"))
    found = []
    for chosen in (config, raw):
        agent = ARMAPPO(make("games/climbing", num_envs=300), chosen).learn(20 * 1500)
        found.append(evaluate(agent.predict, make("games/climbing", num_envs=1)).mean_return / 2)
    assert found[0] == 11
    assert found[1] <= 7
