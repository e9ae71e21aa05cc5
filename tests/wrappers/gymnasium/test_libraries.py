"""The lines of docs/envs/libraries.md make what it says; libraries not installed are skipped."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from diffsurrogate.envs.registry import make

PAGE = (Path(__file__).parents[3] / "docs" / "envs" / "libraries.md").read_text()
LINES = re.findall(r'make\("gymnasium/(\w+:[^/"]+)", max_steps=(\d+)\)` (\|.*)', PAGE)


def test_the_page_has_lines_to_try():
    assert len(LINES) == 6


@pytest.mark.parametrize(("env_id", "max_steps", "row"), LINES, ids=[line[0] for line in LINES])
def test_a_line_makes_what_its_row_says(env_id, max_steps, row):
    pytest.importorskip(env_id.partition(":")[0])
    _, agents, observation, action, *_ = (cell.strip() for cell in row.split("|"))
    env = make(f"gymnasium/{env_id}", num_envs=2, max_steps=int(max_steps))
    fewest, _, most = agents.partition("–")
    assert int(fewest) <= env.num_agents <= int(most or fewest)
    kind = "discrete" if env.discrete_actions else "continuous"
    assert (str(env.obs_dim), f"{env.act_dim}, {kind}") == (observation, action)
    env.reset(seed=0)
    env.step(torch.zeros(2, *env.single_action_space.shape))


@pytest.mark.parametrize(
    ("env_id", "limit"),
    [("rware:rware-tiny-2ag-v2", 500), ("lbforaging:Foraging-8x8-2p-2f-coop-v3", 50)],
)
def test_libraries_of_agents_keep_their_numbers_and_end_by_a_termination(env_id, limit):
    """So that `max_steps` must be one less than their own limit, as the page says."""
    pytest.importorskip(env_id.partition(":")[0])
    env, twin = (make(f"gymnasium/{env_id}", num_envs=2) for _ in range(2))
    env.reset(seed=3)
    twin.reset(seed=3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(limit):
        action = torch.rand(2, *env.single_action_space.shape, generator=generator)
        _, reward, terminated, truncated, info = env.step(action)
        for index, named in enumerate(twin.raws):
            obs, earned, *_ = named.raw.step(tuple(action[index].argmax(-1).tolist()))
            assert np.array_equal(info["final_obs"][index].numpy(), np.stack(obs))
            assert reward[index].tolist() == pytest.approx(earned)
    assert terminated.all() and not truncated.any()
