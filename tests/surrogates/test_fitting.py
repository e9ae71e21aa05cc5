"""The learned models: what they start from, what they learn, and what they leave out."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from diffsurrogate.config import changed_to
from diffsurrogate.envs.action_space import ActionSpace
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import JointNetConfig, SharedNetConfig, TransformerConfig
from diffsurrogate.surrogates.action_world_model import ActionWorldModelConfig
from diffsurrogate.surrogates.config import FitConfig, SurrogateConfig
from diffsurrogate.surrogates.fitting import Surrogates
from diffsurrogate.surrogates.heads import RewardConfig, RewardModel, TerminationModel
from diffsurrogate.surrogates.held_out import fvu_by_feature
from diffsurrogate.surrogates.step_model import StepModel, StepModelConfig

ENVS, AGENTS, OBS, ACT, HORIZON = 7, 3, 5, 2, 11
NET = SharedNetConfig(hidden=(8,), activation="silu")
LOW, HIGH = torch.full((AGENTS, ACT), -2.0), torch.full((AGENTS, ACT), 4.0)  # middle 1, half 3


STEP = StepModelConfig(net=NET)
WORLD = ActionWorldModelConfig(width=8, layers=2, feedforward=8, max_horizon=HORIZON, batch_size=8)
EITHER_DYNAMICS = pytest.mark.parametrize("dynamics", [STEP, WORLD], ids=["step", "awm"])


class TrueStep(nn.Module):
    """The first two entries are pushed, the last never moves."""

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return torch.cat([obs[..., :2] + 0.1 * action, 0.9 * obs[..., 2:4], obs[..., 4:]], dim=-1)


class TrueReward(nn.Module):
    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return obs[..., 0] * action[..., 1]


def window(seed: int, horizon: int = HORIZON, envs: int = ENVS) -> Window:
    """Single steps from anywhere in [-1, 1], actions from anywhere in the box."""
    generator = torch.Generator().manual_seed(seed)
    obs = 2 * torch.rand(horizon, envs, AGENTS, OBS, generator=generator) - 1
    action = LOW + (HIGH - LOW) * torch.rand(horizon, envs, AGENTS, ACT, generator=generator)
    next_obs = TrueStep()(obs, action)
    return Window(
        obs=obs,
        action=action,
        reward=TrueReward()(obs, action, next_obs),
        next_obs=next_obs,
        terminated=(obs[..., 0] > 0.6).any(-1),
        truncated=torch.zeros(horizon, envs, dtype=torch.bool),
    )


SHORT = FitConfig(minibatches=3, batch_size=32)


def small(fit: FitConfig = SHORT, **kwargs: object) -> SurrogateConfig:
    models = {"reward": RewardConfig(net=NET), "dynamics": STEP}
    return SurrogateConfig(fit=fit, **(models | kwargs))


def surrogates(config: SurrogateConfig, **kwargs: object) -> Surrogates:
    return Surrogates(config, obs_dim=OBS, action_space=ActionSpace(LOW, HIGH), **kwargs)


# --- where the models start ------------------------------------------------------------------


@pytest.mark.parametrize("kind", [JointNetConfig, SharedNetConfig, TransformerConfig])
def test_a_new_step_model_means_nothing_moves(kind):
    config = StepModelConfig(net=changed_to(kind, NET))
    model, data = StepModel(config, AGENTS, OBS, ACT), window(0)
    for _ in range(2):  # whatever the statistics
        assert torch.equal(model(data.obs, data.action), data.obs)
        model.change_statistics.update(data.next_obs - data.obs)
        model.change_statistics.snapshot()


def items(data: Window, reward: Tensor) -> dict[str, Tensor]:
    """A minibatch of all steps."""
    names = ("obs", "action", "next_obs")
    return {name: getattr(data, name).flatten(0, 1) for name in names} | {
        "reward": reward.flatten(0, 1)
    }


def test_a_new_reward_model_answers_the_mean_reward():
    model, data = RewardModel(RewardConfig(net=NET), AGENTS, OBS, ACT), window(0)
    model.reward_statistics.update(data.reward)
    model.reward_statistics.snapshot()
    mean = data.reward.mean()
    torch.testing.assert_close(
        model(data.obs, data.action, data.next_obs), mean.expand_as(data.reward)
    )
    loss = model.loss(items(data, data.reward))
    assert loss.item() == pytest.approx(1.0, abs=1e-4)  # in units of its variance


@pytest.mark.parametrize(
    ("inputs", "reads"),
    [
        ("s,a", [True, True, False]),
        ("s,a,s'", [True] * 3),
        ("s'", [False, False, True]),
        ("s,a,change", [True] * 3),
    ],
)
def test_the_reward_model_reads_what_it_is_told_to(inputs, reads):
    model = RewardModel(RewardConfig(net=NET, inputs=inputs), AGENTS, OBS, ACT)
    nn.init.ones_(model.net.head.weight)
    data = window(0)
    model.update_normaliser(data.obs, data.next_obs, data.reward)
    given = [x.clone().requires_grad_() for x in (data.obs, data.action, data.next_obs)]
    grads = torch.autograd.grad(model(*given).sum(), given, allow_unused=True)
    assert [grad is not None and bool(grad.any()) for grad in grads] == reads


def test_a_reward_model_of_changes_does_not_read_flags_and_sees_changes_in_deviations():
    """Entry 3 is a flag; other changes are a hundredth of a deviation, so slopes are steeper."""
    data = window(0)
    obs = data.obs.clone()
    obs[..., 3] = 0.0
    next_obs = obs + 0.006 * torch.randn(obs.shape, generator=torch.Generator().manual_seed(1))
    next_obs[..., 3] = 1.0
    steepness = {}
    for inputs in ("s,a,change", "s,a,s'"):
        torch.manual_seed(0)
        model = RewardModel(RewardConfig(net=NET, inputs=inputs), AGENTS, OBS, ACT)
        nn.init.normal_(model.net.head.weight)
        model.update_normaliser(obs, next_obs, data.reward)
        given = next_obs.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(obs, data.action, given).sum(), given)
        assert bool(grad[..., 3].any()) == (inputs == "s,a,s'")
        steepness[inputs] = grad[..., :3].abs().mean()
    assert steepness["s,a,change"] > 10 * steepness["s,a,s'"]


def test_a_bounded_reward_model_starts_in_the_middle_of_its_range():
    """Rewards are in [-2, 6], so it says 2; a reward of 4 is at 3/4, its cross-entropy log 2."""
    model = RewardModel(RewardConfig(net=NET, range="bounded"), AGENTS, OBS, ACT)
    data = window(0)
    for rewards in ([[6.0, 1.0, 2.0], [-2.0, 0.5, 1.0]], [[5.0, 5.0, 5.0]]):
        model.update_normaliser(data.obs, data.next_obs, torch.tensor(rewards))
    reward = torch.full_like(data.reward, 4.0)
    predicted = model(data.obs, data.action, data.next_obs)
    torch.testing.assert_close(predicted, torch.full_like(reward, 2.0))
    loss = model.loss(items(data, reward))
    assert loss.item() == pytest.approx(0.6931, abs=1e-4)
    with torch.no_grad():
        model.net.head.bias.fill_(50.0)
    torch.testing.assert_close(model(data.obs, data.action, data.next_obs), 3 * predicted)


def test_a_new_termination_model_is_undecided():
    data = window(0)
    logit = TerminationModel(NET, AGENTS, OBS, ACT)(data.obs, data.action)
    assert logit.shape == (HORIZON, ENVS)
    assert not logit.any()


# --- what they learn -------------------------------------------------------------------------


def sparse_window(seed: int) -> Window:
    """A reward of 1 in the corner where both action features are above .9 of the box: 1 in 400."""
    data = window(seed, horizon=31, envs=61)
    scaled = (data.action - 1) / 3
    return replace(data, reward=(scaled > 0.9).all(-1).float())


def fitted_to_sparse_rewards(bins: int = 9, **changes: object) -> Surrogates:
    fit = FitConfig(minibatches=40, batch_size=128, reward_bins=bins)
    models = surrogates(small(fit, **changes), dynamics=False)
    for seed in range(5):
        models.fit(sparse_window(seed))
    return models


def test_a_balanced_cache_learns_a_sparse_reward_that_a_plain_one_misses():
    missed = {}
    test = sparse_window(1000)
    rewarded = test.reward == 1
    assert 5 < rewarded.sum() < 0.005 * rewarded.numel()
    for bins in (1, 9):
        models = fitted_to_sparse_rewards(bins)
        predicted = models.predict_reward(test.obs, test.action, test.next_obs)
        missed[bins] = float((1 - predicted[rewarded]).square().mean())
    assert missed[1] > 0.5
    assert missed[9] < 0.3 * missed[1]


def test_a_bounded_model_is_flat_where_a_sparse_reward_is_not_paid():
    """Far from the rewarded corner the truth is flat: any slope there is an error."""
    slope, test = {}, sparse_window(1000)
    far = (test.action < 2.5).any(-1, keepdim=True)  # .5 of the half box; the corner is above .9
    for kind in ("unbounded", "bounded"):
        models = fitted_to_sparse_rewards(reward=RewardConfig(net=NET, range=kind))
        action = test.action.clone().requires_grad_()
        predicted = models.predict_reward(test.obs, action, test.next_obs)
        (grad,) = torch.autograd.grad(predicted.sum(), action)
        slope[kind] = float((grad * far).abs().mean())
        paid = test.reward == 1
        assert float(predicted[paid].detach().mean()) > 0.5
    assert slope["bounded"] < 0.3 * slope["unbounded"]


@EITHER_DYNAMICS
def test_a_perfect_ready_model_has_no_error(dynamics):
    models = surrogates(small(dynamics=dynamics), reward=TrueReward(), dynamics=TrueStep())
    assert models.fit(window(0)) == {}  # nothing to learn, nothing measured yet
    report = models.fit(window(1))
    assert report["reward_error"] == pytest.approx(0.0, abs=1e-9)
    assert report["dynamics_error"] == pytest.approx(0.0, abs=1e-9)


class Negative(TrueReward):
    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return -super().forward(obs, action, next_obs)


class Still(nn.Module):
    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return obs + 0.0 * action.sum()


@pytest.mark.parametrize(
    "given", [{"reward": Negative()}, {"dynamics": Still()}], ids=["reward", "dynamics"]
)
def test_a_ready_model_that_the_env_contradicts_is_told_of_once(given):
    models = surrogates(small(), **given)
    for seed in range(3):  # the first window is not judged
        models.fit(window(seed))
    (name,) = given
    with pytest.warns(RuntimeWarning, match=f"the {name} module given contradicts"):
        models.fit(window(3))
    models.fit(window(4))  # warnings are errors here


def test_a_ready_model_of_the_wrong_shape_is_refused():
    class Column(TrueReward):
        def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
            return super().forward(obs, action, next_obs).unsqueeze(-1)

    models = surrogates(small(), reward=Column())
    with pytest.raises(UsageError, match=r"returned the shape .* 1\); \(\*batch, agent\)"):
        models.predict_reward(*(getattr(window(0), part) for part in ("obs", "action", "next_obs")))
    models = surrogates(small(), dynamics=nn.Bilinear(OBS, ACT, 1))
    with pytest.raises(UsageError, match=r"dynamics module .* \(\*batch, agent, obs_dim\)"):
        models.held_out_errors(window(0))


def test_a_ready_model_that_takes_something_else_is_refused():
    with pytest.raises(UsageError, match=r"reward module given takes .*\(obs, action, next_obs\)"):
        surrogates(small(), reward=TrueStep())
    with pytest.raises(UsageError, match=r"dynamics module given takes .*\(obs, action\)"):
        surrogates(small(), dynamics=TrueReward())


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_traced_module_is_taken():
    """It has no signature."""
    parts = [getattr(window(0), part) for part in ("obs", "action", "next_obs")]
    traced = torch.jit.trace(TrueReward(), tuple(parts))
    models = surrogates(small(), reward=traced)
    assert torch.equal(models.predict_reward(*parts), TrueReward()(*parts))


def test_models_beat_what_they_started_from_on_windows_not_seen():
    """Error 1 is the mean reward, and "nothing moves"."""
    models = surrogates(small(FitConfig(minibatches=40, batch_size=128)))
    reports = [models.fit(window(seed, envs=61)) for seed in range(6)]
    assert "reward_error" not in reports[0]  # nothing was held out yet
    assert reports[-1]["reward_error"] < 0.3
    assert reports[-1]["dynamics_error"] < 0.3


def test_an_entry_that_hardly_moves_in_a_window_is_left_out_of_the_error():
    """Entry 3 moves by a millionth, where it usually moves by a tenth."""
    data, features = window(0), torch.ones(AGENTS, OBS, dtype=torch.bool)
    data.obs[..., 3], data.next_obs[..., 3] = 0.0, 1e-6
    predicted = data.next_obs + 1e-3
    assert (fvu_by_feature(predicted, data, features)[:, 3] > 1e5).all()
    usual = fvu_by_feature(predicted, data, features, torch.full((AGENTS, OBS), 0.1))
    assert usual[:, 3].isnan().all() and (usual[:, :3] < 0.1).all()


def test_the_loss_is_averaged_over_the_entries_that_count():
    """A model that says nothing moves, where all that counts changes by 2: 4, for any mask."""
    model, obs = StepModel(StepModelConfig(net=NET), AGENTS, OBS, ACT), torch.rand(7, AGENTS, OBS)
    for mask in (torch.ones(AGENTS, OBS), torch.eye(AGENTS, OBS)):
        next_obs = obs + 2 + 100 * (1 - mask)
        loss = model.error(obs, torch.zeros(7, AGENTS, ACT), next_obs, mask)
        assert loss.item() == pytest.approx(4.0, rel=1e-5)


def test_gradient_attenuation_is_measured_on_unseen_windows():
    """The last entry is noise, the others are learned."""
    models = surrogates(small(FitConfig(minibatches=30, batch_size=32)))
    for seed in range(12):
        data = window(seed)
        noise = torch.randn(data.next_obs.shape[:-1], generator=torch.Generator().manual_seed(seed))
        next_obs = data.next_obs.clone()
        next_obs[..., 4] = noise
        models.fit(replace(data, next_obs=next_obs))
    explained = models.dynamics.attenuation.of_change
    assert explained[:, :3].min() > 0.6
    assert explained[:, 4].max() < 0.55  # noise - s: only what comes of s can be known


@EITHER_DYNAMICS
@pytest.mark.parametrize("field", ["obs", "next_obs", "action", "reward"])
def test_recorded_values_that_are_not_finite_leave_the_gradient_finite(dynamics, field):
    """In one env of a window, then in all of the next."""
    models, data = surrogates(small(dynamics=dynamics)), window(0)
    for broken in (slice(0, 0), slice(2, 3), slice(None), slice(0, 0)):
        values = getattr(data, field).clone()
        values[1, broken] = torch.nan
        report = models.fit(replace(data, **{field: values}))
    assert math.isfinite(report["dynamics_error"])
    action = data.action.clone().requires_grad_()
    predicted = models.dynamics.predict(data, models.action_space.normalise(action))
    predicted.sum().backward()
    assert predicted.isfinite().all() and action.grad.isfinite().all()


def test_discrete_entries_are_found_per_agent_and_stay_continuous_for_ever():
    models, data = surrogates(small()), window(0)
    next_obs = data.next_obs.clone()
    next_obs[..., 3] = 1.0
    next_obs[..., 1, 4] = torch.arange(7).float()
    models.fit(replace(data, next_obs=next_obs))
    expected = torch.ones(AGENTS, OBS, dtype=torch.bool)
    expected[:, 3] = expected[1, 4] = False
    assert torch.equal(models.continuous.mask, expected)
    models.fit(data)
    assert models.continuous.mask.all()
    models.fit(replace(data, next_obs=next_obs))
    assert models.continuous.mask.all()


def test_entries_said_to_be_continuous_are_not_looked_at():
    said = torch.tensor([True, True, False, True, True]).expand(AGENTS, OBS)
    models = surrogates(small(), continuous=said)
    models.fit(window(0))
    assert torch.equal(models.continuous.mask, said)


def test_actions_reach_the_models_clamped_and_in_half_boxes():
    models, data = surrogates(small()), window(0)
    models.store(replace(data, action=torch.full_like(data.action, 100.0)))
    assert (models.transition_buffer.sample(5, torch.Generator())["action"] == 1.0).all()
    assert (
        models.action_space.normalise(torch.tensor([-2.0, 2.5])).tolist() == [[-1.0, 0.5]] * AGENTS
    )


# --- budget ----------------------------------------------------------------------------------


def weights(models: Surrogates) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in models.parameters()]


def test_models_are_trained_every_so_many_windows():
    models, trained = surrogates(small(replace(SHORT, every=3))), []
    for seed in range(7):
        before = weights(models)
        report = models.fit(window(seed))
        moved = any(not torch.equal(a, b) for a, b in zip(before, weights(models), strict=True))
        trained.append(moved)
        assert ("reward_loss" in report) == moved
    assert trained == [False, False, True, False, False, True, False]


@EITHER_DYNAMICS
def test_weights_want_a_gradient_only_while_they_are_fitted(dynamics):
    models, during = surrogates(small(dynamics=dynamics, termination=True)), []
    loss = models._loss

    def spy(name: str) -> Tensor:
        during.append({n: p.requires_grad for n, p in models.named_parameters()})
        return loss(name)

    models._loss = spy
    assert not any(p.requires_grad for p in models.parameters())
    models.fit(window(0))
    assert not any(p.requires_grad for p in models.parameters())
    assert len(during) == 3 * 3  # reward, dynamics, termination
    for flags in during:
        assert len({name.split(".")[0] for name, flag in flags.items() if flag}) == 1


def test_weights_want_no_gradient_after_a_fit_that_failed():
    models = surrogates(small())

    def fail(name: str) -> Tensor:
        raise KeyboardInterrupt

    models._loss = fail
    with pytest.raises(KeyboardInterrupt):
        models.fit(window(0))
    assert not any(p.requires_grad for p in models.parameters())


@pytest.mark.parametrize("part", ["reward", "dynamics"])
def test_what_is_not_learned_is_not_kept_and_not_reported(part):
    models = surrogates(small(), **{part: False})
    models.fit(window(0))
    report = models.fit(window(1))
    assert f"{part}_loss" not in report
    assert f"{part}_error" not in report
    kept = models.transition_buffer if part == "reward" else models.dynamics_buffer
    assert len(kept) == 0


@EITHER_DYNAMICS
def test_saved_models_learn_on_as_if_unbroken(dynamics):
    config = small(replace(SHORT, every=2), dynamics=dynamics, termination=True)
    first, second = surrogates(config), surrogates(config, seed=5)
    for seed in range(3):
        first.fit(window(seed))
    second.load_state_dict(first.state_dict())
    second.load_training_state(first.training_state())
    for seed in range(3, 6):
        assert first.fit(window(seed)) == second.fit(window(seed))
    pairs = zip(weights(first), weights(second), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
