"""Every VMAS scenario can be differentiated in windows, reset in part, saved and restored."""

import io

import pytest
import torch
from toys.by_hand import actions

from diffsurrogate.wrappers.vmas import adapter as vmas
from diffsurrogate.wrappers.vmas import paper_tasks as paper
from diffsurrogate.wrappers.vmas.catalogue import NO_GRADIENT, scenario_names
from diffsurrogate.wrappers.vmas.random_stream import Stream
from diffsurrogate.wrappers.vmas.tensor_tree import Snapshot

pytestmark = pytest.mark.filterwarnings("ignore:Force limits not specified:UserWarning")  # VMAS's

ENVS = 7
SMALL = {
    "pollock": {"n_agents": 3, "n_lines": 2, "n_boxes": 2},
    "sampling": {"grid_spacing": 0.5},
    "road_traffic": {"n_agents": 3},
    "waterfall": {"n_agents": 3},
    "passage": {"n_passages": 2},
}
SHARED_DRAWS = {
    "ball_passage": "which passages are open",
    "het_mass": "masses",
    "joint_passage": "which passages are open",
    "road_traffic": "where in its ring buffers it writes",
    "simple_adversary": "goal",
    "simple_push": "goal",
    "simple_reference": "goals",
    "simple_speaker_listener": "goals",
    "football": "how many numbers the scripted players draw depends on every env",
}
"""What these scenarios draw once for all envs, so that a partial reset cannot."""
OURS = ["paper/discovery", "paper/sampling"]
RESET = torch.tensor([False, True, False, False, True, False, False])


def make(name, **options):
    if name.startswith("paper/"):
        return paper.make(name.removeprefix("paper/"), num_envs=ENVS, n_agents=3, **options)
    return vmas.make(name, num_envs=ENVS, **SMALL.get(name, {}), **options)


def answers(env, given):
    """Obs, reward and termination after each action, without any reset: NaN is equal to NaN."""
    return [[part.float().nan_to_num() for part in env._advance(action)] for action in given]


def assert_same(first, second, where=slice(None)):
    for left, right in zip(first, second, strict=True):
        for one, two in zip(left, right, strict=True):
            assert torch.equal(one[where], two[where])


@pytest.mark.parametrize("name", sorted(set(scenario_names()) - set(NO_GRADIENT)) + OURS)
def test_windows_are_cut_for_good(name):
    env = make(name, differentiable=True, max_steps=5)
    env.reset(seed=3)
    for window in actions(env, 8).split(4):
        window.requires_grad_()
        rows = [env.step(action) for action in window]
        obs = sum(row[4]["final_obs"].sum() for row in rows)
        (grad,) = torch.autograd.grad(obs, window, retain_graph=True)
        assert torch.isfinite(grad).all() and grad.any()
        reward = sum(row[1].sum() for row in rows)
        if "reward" in env.gradients and reward.requires_grad:
            assert torch.isfinite(torch.autograd.grad(reward, window, allow_unused=True)[0]).all()
        env.detach()
        assert not env.current_obs.requires_grad
        assert not any(x.requires_grad for x in Snapshot(env._roots).tensors().values())
    env.reset()


@pytest.mark.parametrize("name", [*scenario_names(), *OURS])
def test_a_partial_reset_is_a_reset_of_some_and_nothing_to_others(name):
    env = make(name)
    env.reset(seed=5)
    answers(env, actions(env, 3))
    begun, next_obs = env.state(), env._next_obs
    obs, maxima, later = {}, {}, {}
    for kind, mask in {"none": RESET & False, "some": RESET, "all": RESET | True}.items():
        env.set_state(begun)
        env._next_obs = next_obs
        obs[kind] = env._reset_where(mask) if mask.any() else next_obs
        env._stream = Stream(9, "cpu")
        after = Snapshot(env._roots).tensors()
        for path, tensor in begun["simulator"]["tree"]["tensors"].items():
            kept = ~mask if tensor.shape[:1] == mask.shape else slice(None)
            assert (
                kind == "all"  # which may draw anew what is shared
                or tensor.ndim == 0
                or torch.equal(after[path][kept].nan_to_num(), tensor[kept].nan_to_num())
            )
        maxima[kind], later[kind] = env.max_return(), answers(env, actions(env, 3))
    assert torch.equal(obs["some"][~RESET], obs["none"][~RESET])
    if maxima["none"] is not None:
        expected = torch.where(RESET, maxima["all"], maxima["none"])
        assert torch.equal(maxima["some"], expected)
    if name not in SHARED_DRAWS:
        assert torch.equal(obs["some"][RESET], obs["all"][RESET])
        assert_same(later["some"], later["none"], ~RESET)
        assert_same(later["some"], later["all"], RESET)


@pytest.mark.parametrize("name", [*scenario_names(), *OURS])
def test_a_saved_state_goes_on_the_same_in_this_env_and_in_a_new_one(name):
    env = make(name, max_steps=4)
    env.reset(seed=5)
    given = actions(env, 5)
    for action in given[:3]:
        env.step(action)
    file = io.BytesIO()
    torch.save(env.state(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    expected = [[x.float().nan_to_num() for x in env.step(action)[:4]] for action in given[3:]]
    for other in (env, make(name, max_steps=4, seed=1)):
        other.set_state(state)
        got = [[x.float().nan_to_num() for x in other.step(action)[:4]] for action in given[3:]]
        assert_same(expected, got)
