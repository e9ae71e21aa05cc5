"""Windows cut at resets, and put together again."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffsurrogate.data.segments import Segments
from diffsurrogate.envs.window import Window

AGENTS, OBS = 3, 5


def window(terminated: Tensor, truncated: Tensor | None = None) -> Window:
    obs = torch.zeros(*terminated.shape, AGENTS, OBS)
    return Window(
        obs=obs,
        action=obs[..., :2],
        reward=obs[..., 0],
        next_obs=obs,
        terminated=terminated,
        truncated=torch.zeros_like(terminated) if truncated is None else truncated,
    )


def hand_example() -> tuple[Segments, Tensor]:
    """Four steps of three envs; env 0 ends after step 1, env 1 after 0, 1 and 3, env 2 never."""
    terminated = torch.zeros(4, 3, dtype=torch.bool)
    truncated = terminated.clone()
    terminated[1, 0] = terminated[0, 1] = True
    truncated[1, 1] = truncated[3, 1] = True
    values = torch.tensor([[0, 10, 20], [1, 11, 21], [2, 12, 22], [3, 13, 23]])
    return Segments.of(window(terminated, truncated)), values


def test_segments_by_hand():
    segments, values = hand_example()
    assert len(segments) == 6
    assert segments.env.tolist() == [0, 0, 1, 1, 1, 2]
    assert segments.start.tolist() == [0, 2, 0, 1, 2, 0]
    assert segments.valid.sum(1).tolist() == [2, 2, 1, 1, 2, 4]
    assert segments.number.T.tolist() == [[0, 0, 1, 1], [2, 3, 4, 4], [5, 5, 5, 5]]
    assert segments.first(values).tolist() == [0, 2, 10, 11, 12, 20]


def test_gather_by_hand():
    segments, values = hand_example()
    rows = [
        row[valid].tolist()
        for row, valid in zip(segments.gather(values), segments.valid, strict=True)
    ]
    assert rows == [[0, 1], [2, 3], [10], [11], [12, 13], [20, 21, 22, 23]]


@settings(max_examples=60, deadline=None)
@given(
    horizon=st.integers(1, 6),
    envs=st.integers(1, 5),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_scatter_is_the_inverse_of_gather(horizon, envs, share, seed):
    generator = torch.Generator().manual_seed(seed)
    ended = torch.rand(horizon, envs, generator=generator) < share
    segments = Segments.of(window(ended))
    values = torch.randn(horizon, envs, AGENTS, OBS, generator=generator)
    gathered = segments.gather(values)
    assert gathered.shape == (len(segments), horizon, AGENTS, OBS)
    assert torch.equal(segments.scatter(gathered), values)
    assert torch.equal(gathered[:, 0], segments.first(values))
    assert len(segments) == envs + int(ended[:-1].sum())
    assert int(segments.valid.sum()) == horizon * envs
    assert segments.valid[:, 0].all()


def test_the_gradient_of_a_step_reaches_its_own_segment_only():
    segments, _ = hand_example()
    values = torch.zeros(len(segments), 4, requires_grad=True)
    (grad,) = torch.autograd.grad(segments.scatter(values)[3, 1], values)
    assert grad.nonzero().tolist() == [[4, 1]]
