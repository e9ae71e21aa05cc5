"""Every id that is known, made and looked at: what works on it, as the table of docs/envs.

    python examples/benchmarks/env_table.py                # all namespaces
    python examples/benchmarks/env_table.py vmas mamujoco  # these only; others stay as they are
    python examples/benchmarks/env_table.py --print vmas   # to the terminal

Each env plays at random, half of its copies with actions that are held for a while, and is saved,
restored and drawn. MuJoCo's pictures need OpenGL; without a display, EGL is asked for.
"""

import argparse
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffsurrogate import MultiAgentVectorEnv, TorchEnv, UsageError, make
from diffsurrogate.envs.registry import known_ids, namespaces

README = Path(__file__).parent.parent.parent / "docs" / "envs" / "index.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
ENVS, STEPS, HELD = 8, 256, 32
WITH_MAPS = ("jaxmarl",)
"""Namespaces where a hyphen begins the name of a map, which is another env of the same kind."""
COLUMNS = (
    "id",
    "agents",
    "observation",
    "action",
    "time limit",
    "own gradients",
    "state",
    "picture",
    "terminates",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one env is like."""

    env_id: str
    agents: int
    observation: str
    action: str
    limit: int | None
    gradients: str
    state: bool
    picture: bool
    terminates: str

    def __str__(self) -> str:
        limit = "–" if self.limit is None else f"{self.limit}"
        cells = (self.env_id.replace("|", r"\|"), f"{self.agents}", self.observation, self.action)
        marks = ("yes" if self.state else "–", "yes" if self.picture else "–")
        return f"| `{cells[0]}` | " + " | ".join(
            (*cells[1:], limit, self.gradients, *marks, self.terminates + " |")
        )


def look_at(env_id: str) -> Row:
    """Make an env and try it out; raise UsageError if it cannot be made."""
    env = make(env_id, num_envs=ENVS)
    env.reset(seed=0)
    kind = "discrete" if env.discrete_actions else "continuous"
    return Row(
        env_id=env_id,
        agents=env.num_agents,
        observation=sizes(env.observation_mask),
        action=f"{sizes(env.valid_action_dims)}, {kind}",
        limit=env.max_steps,
        gradients=native_gradients(env),
        state=goes_on_from_a_state(env),
        picture=can_be_drawn(env_id),
        terminates=terminates(env),
    )


def sizes(mask: Tensor) -> str:
    """Return how many entries an agent has, from fewest to most if agents differ."""
    counts = sorted(set(mask.sum(1).tolist()))
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"


def native_gradients(env: MultiAgentVectorEnv) -> str:
    """Return what the simulator itself can differentiate."""
    found = []
    for kind in ("dynamics", "reward"):
        try:
            env.enable_gradients(kind)
            found.append(kind)
        except UsageError:
            pass
    env.disable_gradients()
    return ", ".join(found) or "–"


def goes_on_from_a_state(env: MultiAgentVectorEnv) -> bool:
    """Return whether the env can be put back, and then repeats itself to the bit."""
    env.reset(seed=1)
    try:
        state = env.state()
    except NotImplementedError:
        return False
    plans = random_actions(env, 8)
    first = [env.step(action)[:3] for action in plans]
    env.set_state(state)
    again = [env.step(action)[:3] for action in plans]
    return all(
        torch.equal(one, other)
        for row, other_row in zip(first, again, strict=True)
        for one, other in zip(row, other_row, strict=True)
    )


def can_be_drawn(env_id: str) -> bool:
    """Return whether there are pictures without a display."""
    env = make(env_id, num_envs=1)
    try:
        if env.render_mode is None:
            env = make(env_id, num_envs=1, render_mode="rgb_array")
        env.reset(seed=0)
        frames = env.render()
        return frames is not None and np.ndim(frames[0]) == 3
    except (UsageError, NotImplementedError):
        return False


def terminates(env: MultiAgentVectorEnv) -> str:
    """Return "yes" if random play ended an episode by state, "never" if the env has no rule."""
    scenario = getattr(env, "scenario", None)
    if scenario is not None and "BaseScenario" in type(scenario).done.__qualname__:
        return "never"
    if isinstance(env, TorchEnv) and type(env).terminated is TorchEnv.terminated:
        return "never"
    env.reset(seed=0)
    with torch.no_grad():
        for action in random_actions(env, STEPS):
            if bool(env.step(action)[2].any()):
                return "yes"
    return "not seen"


def random_actions(env: MultiAgentVectorEnv, steps: int) -> Tensor:
    """Return (time, env, agent, act_dim) in the box; the second half of the envs hold theirs."""
    generator = torch.Generator().manual_seed(0)
    shape = (steps, env.num_envs, env.num_agents, env.act_dim)
    drawn = torch.rand(shape, generator=generator)
    held = drawn[:: min(HELD, steps)].repeat_interleave(min(HELD, steps), 0)[:steps]
    drawn[:, env.num_envs // 2 :] = held[:, env.num_envs // 2 :]
    return env.action_low + (env.action_high - env.action_low) * drawn


def section(namespace: str) -> str:
    """Return the heading, the table and the remarks of a namespace."""
    heading = f"### `{namespace}/…`"
    ids = known_ids(namespace)
    if ids is None:
        return f"{heading}\n\nAny id the library knows."
    rows: list[str] = []
    failures: dict[str, list[str]] = {}
    maps = [env_id for env_id in ids if namespace in WITH_MAPS and "-" in env_id]
    for env_id in sorted(set(ids) - set(maps)):
        try:
            rows.append(f"{look_at(env_id)}")
        except UsageError as error:
            reason = re.sub(r"\s+", " ", f"{error}".replace(env_id, "it")).strip()
            failures.setdefault(reason, []).append(env_id.replace(f"{namespace}/", "", 1))
        print(f"  {env_id}", flush=True)
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *rows] if rows else []
    remarks = [
        f"Not made here ({reason}): {', '.join(f'`{name}`' for name in names)}."
        for reason, names in failures.items()
    ]
    if maps:
        names = ", ".join(f"`{env_id.removeprefix(f'{namespace}/')}`" for env_id in maps)
        remarks.append(f"With a map after the hyphen, not looked at one by one: {names}.")
    return "\n\n".join([heading, *(["\n".join(lines)] if lines else []), *remarks])


def write(sections: dict[str, str], readme: Path = README) -> None:
    """Put the sections into the page, beside those of other namespaces that are there."""
    before, _, rest = readme.read_text().partition(BEGIN)
    old, _, after = rest.partition(END)
    there = {
        part.partition("/…`")[0].removeprefix("### `"): part.strip()
        for part in re.split(r"(?m)^(?=### )", old)
        if part.strip()
    }
    there |= sections
    table = "\n\n".join(there[namespace] for namespace in sorted(there))
    readme.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")


def main() -> None:
    """Look at all envs of the namespaces asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("namespaces", nargs="*", help="such as vmas; all if none is given")
    parser.add_argument("--print", action="store_true", help="instead of writing the page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    sections = {name: section(name) for name in arguments.namespaces or namespaces()}
    if arguments.print:
        print("\n\n".join(sections.values()))
    else:
        write(sections)


if __name__ == "__main__":
    main()
