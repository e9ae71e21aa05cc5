"""A run's policy as a file that acts without this package: ONNX, or the .pt2 of `torch.export`."""

import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim

from diffsurrogate.actor_critic.actor import Actor
from diffsurrogate.actor_critic.autoregressive import AutoregressiveActor
from diffsurrogate.actor_critic.recurrent import RecurrentActor
from diffsurrogate.envs.raw_form import RawForm
from diffsurrogate.errors import UsageError
from diffsurrogate.trained_policy import TrainedPolicy, load_policy
from diffsurrogate.training.checkpoint import writing

_TRACED = 2
"""Copies of the env that are traced; a single one would fix the size of the batch."""


def export_policy(
    run: str | Path | TrainedPolicy, path: str | Path, *, which: Literal["best", "last"] = "best"
) -> dict[str, str]:
    """Write the deterministic policy of a run as one graph, from observations to actions.

    It normalises observations and clamps actions to their bounds. The first axis of its inputs and
    outputs is a batch of any size:

    - `obs`, float32 (batch, ...): observations of a Gymnasium env in the shape of its `Box`; those
      of other spaces flat, as `gymnasium.spaces.flatten` makes them. Of several agents
      (batch, agent, obs_dim), as `TrainedPolicy` takes them.
    - `action`: of a Gymnasium env what its space has, float32 or int64. Of several agents float32
      (batch, agent, act_dim), or the numbers of discrete actions, int64 (batch, agent).
    - `hidden` and `next_hidden`, float32 (batch, agent, gru_size), of a recurrent policy only: the
      second input, zeros where an episode starts, and the second output, `hidden` of the next step.

    Agents that act one after another do so in the order of the policy's predictions.

    Args:
        run: the run folder, or a policy of `load_policy`.
        path: a name that ends in .onnx (extra `export`) or .pt2, which decides the format.
        which: the best checkpoint by evaluation or the last; of a run folder.

    Returns:
        What the file says of itself: type and shape of inputs and outputs, and in JSON where it is
        no plain text `env`, `method`, `agents`, the least and largest action (`action_low`,
        `action_high`) and the version of `diffsurrogate`. An ONNX file has it as its metadata, a
        .pt2 as its extra file `metadata.json`.

    Raises:
        UsageError: the name ends otherwise, onnxscript is not installed, the policy is one of
            Stable-Baselines3's, the file cannot be written, or as `load_policy`.

    Example:
        >>> from diffsurrogate import export_policy
        >>> export_policy("runs/NAME", "policy.onnx")["action"]  # doctest: +SKIP
        'float32 (batch, 1)'
    """
    if not isinstance(run, TrainedPolicy) and Path(run).is_file():
        raise UsageError(
            f"{run} holds a trainer, but not what its env observes and takes; give the policy: "
            f"export_policy(load_policy({str(run)!r}, YourEnv), {str(path)!r})"
        )
    path = Path(path)
    as_onnx = _is_onnx(path)
    policy = run if isinstance(run, TrainedPolicy) else load_policy(run, which=which)
    if not isinstance(policy.actor, Actor):
        raise UsageError(
            f"the policy of {policy.method} is one of Stable-Baselines3's, which says how "
            "to export it (https://stable-baselines3.readthedocs.io/en/master/guide/export.html); "
            "its model is load_policy(RUN).actor.model, and of sb3-ppo load_policy(RUN).actor."
            "normaliser.normalize_obs is to be applied to observations before it"
        )
    graph = _Graph(policy.actor, policy.env.raw_form).eval().requires_grad_(False)
    facts = _facts(policy, graph)
    if as_onnx:
        _write_onnx(graph, path, facts)
    else:
        _write_pt2(graph, path, facts)
    return facts


class _Graph(nn.Module):
    """What is exported: an actor between the forms in which an env gives and takes."""

    acted: Tensor
    first: Tensor

    def __init__(self, actor: Actor, form: RawForm) -> None:
        super().__init__()
        self.actor = copy.deepcopy(actor).cpu()
        self.action_shape = form.action_shape
        self.register_buffer("acted", form.acted.cpu())
        self.register_buffer("first", torch.as_tensor(form.first_choice, dtype=torch.int64))
        self.order: list[int] = []
        self.inputs = {"obs": torch.zeros(_TRACED, *form.obs_shape)}
        self.outputs = ["action"]
        if isinstance(self.actor, AutoregressiveActor):  # of a tensor's values nothing is traced
            self.order = self.actor.agent_order.tolist()
        if isinstance(self.actor, RecurrentActor):
            self.inputs["hidden"] = self.actor.nothing(_TRACED)
            self.outputs.append("next_hidden")

    def forward(self, obs: Tensor, hidden: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return the action, and the next hidden state if there is one."""
        agents, obs_dim = self.actor.statistics.shape
        rows = obs.reshape(obs.shape[0], -1, obs_dim).expand(-1, agents, -1)
        if isinstance(self.actor, AutoregressiveActor):
            return self._taken(self.actor.act_in_order(rows, self.order))
        if not isinstance(self.actor, RecurrentActor):
            return self._taken(self.actor.act(rows, None))
        assert hidden is not None
        going_on = torch.zeros(obs.shape[0], dtype=torch.bool)
        action, after = self.actor.act_next(rows, None, hidden, going_on)
        return self._taken(action), after

    def _taken(self, action: Tensor) -> Tensor:
        """Return actions (batch, agent, act_dim) as the env takes them."""
        if self.actor.discrete:
            number = action.masked_fill(~self.acted, -1.0).argmax(-1)
            return number.reshape(-1, *self.action_shape) + self.first
        return self.actor.action_space.executed(action).reshape(-1, *self.action_shape)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the least and the largest action."""
        if self.actor.discrete:
            count = self.acted.sum(-1).reshape(self.action_shape)
            return self.first.expand_as(count), self.first + count - 1
        space = self.actor.action_space
        return space.low.reshape(self.action_shape), space.high.reshape(self.action_shape)

    def export(self) -> torch.export.ExportedProgram:
        """Trace it for batches of any size."""
        batch = Dim("batch")
        sizes = {name: {0: batch} for name in self.inputs}
        return torch.export.export(self, tuple(self.inputs.values()), dynamic_shapes=sizes)


def _is_onnx(path: Path) -> bool:
    """Return whether a file's name asks for ONNX that can be written; else it asks for a .pt2."""
    if path.suffix.lower() == ".pt2":
        return False
    if path.suffix.lower() != ".onnx":
        raise UsageError(f"{path} is no name of an exported policy; let it end in .onnx or .pt2")
    if find_spec("onnxscript") is None:
        raise UsageError(
            'ONNX needs onnxscript, an extra: pip install "diffsurrogate[export]"; a .pt2 does not'
        )
    return True


def _facts(policy: TrainedPolicy, graph: _Graph) -> dict[str, str]:
    """Return what a file says of itself."""
    low, high = graph.bounds()
    found = graph(*graph.inputs.values())
    outputs = zip(graph.outputs, found if isinstance(found, tuple) else (found,), strict=True)
    return {
        "diffsurrogate": version("diffsurrogate"),
        "env": policy.env_name,
        "method": policy.method,
        "agents": json.dumps(list(policy.env.agents)),
        "action_low": json.dumps(low.tolist()),
        "action_high": json.dumps(high.tolist()),
        **{name: _described(value) for name, value in (*graph.inputs.items(), *outputs)},
    }


def _described(value: Tensor) -> str:
    """Return type and shape, such as float32 (batch, 3)."""
    dtype = str(value.dtype).removeprefix("torch.")
    return f"{dtype} ({', '.join(['batch', *map(str, value.shape[1:])])})"


def _write_onnx(graph: _Graph, path: Path, facts: dict[str, str]) -> None:
    with _quiet():
        made = torch.onnx.export(
            graph.export(),
            dynamic_shapes=dict.fromkeys(graph.inputs) | {"obs": {0: "batch"}},
            output_names=graph.outputs,
            dynamo=True,
            verbose=False,
        )
    assert made is not None
    made.model.metadata_props.update(facts)
    with writing(path) as partial:
        made.save(partial)


def _write_pt2(graph: _Graph, path: Path, facts: dict[str, str]) -> None:
    content = io.BytesIO()  # a file with the name of a partial one would be warned of
    torch.export.save(graph.export(), content, extra_files={"metadata.json": json.dumps(facts)})
    with writing(path) as partial:
        partial.write_bytes(content.getvalue())


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out that torchvision is missing, and a deprecation within torch's exporter."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*treespec, LeafSpec", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
