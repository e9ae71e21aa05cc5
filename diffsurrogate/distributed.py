"""Data-parallel training: processes with equal weights, each with its own envs (torchrun).

A process is a rank of the world of `torch.distributed`'s process group. Gradients, statistics and
decisions are those of all ranks together, so that weights stay equal; without a process group
everything here returns at once what it is given.

Every rank must come to every all-reduce: nothing that calls one may depend on a rank's own data.
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from diffsurrogate.errors import UsageError
from diffsurrogate.seeding import derive_env_seed

_PATIENCE = timedelta(days=1)
"""How long ranks wait for one that evaluates; one that has died is noticed at once."""


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0, which writes files."""
    return dist.get_rank() if world_size() > 1 else 0


def started_together() -> int:
    """Return the number of processes that torchrun has started; 1 without it."""
    launched = dist.is_available() and dist.is_torchelastic_launched()
    return int(os.environ["WORLD_SIZE"]) if launched else 1


def first_on_machine() -> bool:
    """Return whether this is torchrun's first process of the machine, or none of torchrun's."""
    return started_together() == 1 or os.environ["LOCAL_RANK"] == "0"


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the processes that torchrun has started, if it has.

    Args:
        device: cpu, or cuda, which becomes the one of the process's local rank.

    Raises:
        UsageError: there are fewer GPUs than processes, or one is asked for by its number; or
            another process has ended already.
    """
    if started_together() == 1 or dist.is_initialized():
        yield
        return
    backend = "gloo"
    if device.startswith("cuda"):
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if device != "cuda" or local >= count:
            raise UsageError(
                f"process {local} of this machine is to train on {device}, and there are {count} "
                "GPUs; give --device cuda, and torchrun a --nproc-per-node of at most that"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    _together(partial(dist.init_process_group, timeout=_PATIENCE), backend)
    try:
        yield
    finally:
        dist.destroy_process_group()


def check_started() -> None:
    """Refuse processes of torchrun that cannot exchange what they learn.

    Raises:
        UsageError: the process group is missing, or has no backend for the CPU.
    """
    if started_together() > 1 and not dist.is_initialized():
        raise UsageError(
            f"torchrun has started {started_together()} processes, which would each train for "
            'itself; call torch.distributed.init_process_group("gloo") at the start of the script '
            '("cpu:gloo,cuda:nccl" on GPUs), or start it without torchrun'
        )
    if world_size() > 1 and "cpu:" not in (backend := dist.get_backend_config()):
        raise UsageError(
            f"the process group's backend, {backend}, is not for the CPU, by which processes agree "
            'on numbers; call torch.distributed.init_process_group("cpu:gloo,cuda:nccl")'
        )


def check_world_size(needed: int) -> None:
    """Refuse another number of processes than a training was begun with.

    Raises:
        UsageError: there are more or fewer now.
    """
    if needed != world_size():
        raise UsageError(
            f"the training is one of {needed} processes together, but there are {world_size()} "
            f"now; start it by torchrun with {needed}, or without if that is 1"
        )


def refuse_ranks(what: str) -> None:
    """Refuse to train `what` by several processes.

    Raises:
        UsageError: there are several.
    """
    if world_size() > 1:
        raise UsageError(
            f"{what} trains in one process only, and this is one of {world_size()}; start it "
            "without torchrun, or train by SHAC, PPO, IPPO or MAPPO"
        )


def share(total: int) -> int:
    """Return what a rank does of what is configured for all, such as the size of a minibatch."""
    return -(-total // world_size())


def rank_seed(seed: int) -> int:
    """Return the seed of what differs between ranks: envs, noise, minibatches."""
    return seed if rank() == 0 else derive_env_seed(seed, f"rank {rank()}")


# --- all-reduce and all-gather -------------------------------------------------------------------


def sum_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of all ranks' values of a shape."""
    return _all_reduce(value.clone(), dist.ReduceOp.SUM) if world_size() > 1 else value


def min_over_ranks(value: Tensor) -> Tensor:
    """Return the smallest of all ranks' values, elementwise."""
    return _all_reduce(value.clone(), dist.ReduceOp.MIN) if world_size() > 1 else value


def max_over_ranks(value: Tensor) -> Tensor:
    """Return the largest of all ranks' values, elementwise."""
    return _all_reduce(value.clone(), dist.ReduceOp.MAX) if world_size() > 1 else value


def any_over_ranks(flags: Tensor) -> Tensor:
    """Return which bool flags are set on some rank."""
    return max_over_ranks(flags.to(torch.uint8)).bool() if world_size() > 1 else flags


def is_any(flag: bool) -> bool:
    """Return whether a flag is set on some rank."""
    return bool(any_over_ranks(torch.tensor(flag))) if world_size() > 1 else flag


def fewest(count: int) -> int:
    """Return the smallest of all ranks' counts."""
    return int(min_over_ranks(torch.tensor(count))) if world_size() > 1 else count


def mean_over_ranks(value: Tensor, rows: Tensor | int = 1) -> Tensor:
    """Return the mean of all ranks' means; 0 where no rank has a row.

    Args:
        value: this rank's means, which count only where it has rows.
        rows: how many rows each is the mean of: one number, or as the shape of `value`.
    """
    if world_size() == 1:
        return value
    weight = torch.as_tensor(rows, device=value.device).double().expand(value.shape)
    parts = torch.stack([torch.where(weight > 0, value.double() * weight, 0.0), weight])
    total, count = sum_over_ranks(parts)
    kind = value.dtype if value.is_floating_point() else torch.get_default_dtype()
    return (total / count.clamp(min=1e-12)).to(kind)


def count_per_rank(mask: Tensor) -> Tensor:
    """Return how many are True, as the mean over ranks; at least one in all.

    The denominator of a rank's loss of which gradients are averaged over ranks.
    """
    return mean_over_ranks(mask.sum()).clamp(min=1 / world_size())


def merged_moments(size: Tensor, mean: Tensor, m2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return number, mean and sum of squared deviations of all ranks' rows (Chan et al.)."""
    if world_size() == 1:
        return size, mean, m2
    total, common = sum_over_ranks(size), mean_over_ranks(mean, size)
    return total, common, sum_over_ranks(m2 + size * (mean - common).square())


def mean_and_std(values: Tensor, axis: int | None = None, *, correction: int = 1) -> list[Tensor]:
    """Return mean and standard deviation of the values of all ranks, over one axis or all."""
    if world_size() == 1:
        return [values.mean(axis), values.std(axis, correction=correction)]
    rows = values.double()
    sums = [torch.ones_like(rows).sum(axis), rows.sum(axis), rows.square().sum(axis)]
    count, total, squares = sum_over_ranks(torch.stack(sums))
    mean = total / count.clamp(min=1)
    square = (squares - total * mean).clamp(min=0) / (count - correction).clamp(min=1)
    return [mean.to(values), square.sqrt().to(values)]


def rows_of_ranks(rows: Tensor) -> Tensor:
    """Return the rows (row, *shape) of all ranks, each rank's after the one before."""
    if world_size() == 1:
        return rows
    count = torch.zeros(world_size(), dtype=torch.long, device=rows.device)
    count[rank()] = len(rows)
    counts = sum_over_ranks(count).tolist()
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    found = [torch.empty_like(padded) for _ in counts]
    _together(dist.all_gather, found, padded)
    return torch.cat([part[:size] for part, size in zip(found, counts, strict=True)])


def as_many(parts: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return this rank's rows in as many parts as the rank with the fewest has."""
    count = fewest(len(parts))
    return parts if count == len(parts) else torch.cat(list(parts)).tensor_split(count)


def average_in_place(means: Sequence[Tensor], rows: int = 1) -> None:
    """Replace float tensors, such as gradients of a mean loss, by their means over ranks.

    Args:
        means: this rank's, which count only where it has rows.
        rows: of which they are the means.
    """
    if world_size() == 1:
        return
    flat = torch.cat([*(mean.flatten() for mean in means), means[0].new_ones(1)])
    flat = _all_reduce(flat * rows if rows else torch.zeros_like(flat), dist.ReduceOp.SUM)
    parts = (flat[:-1] / flat[-1].clamp(min=1e-12)).split([mean.numel() for mean in means])
    for mean, part in zip(means, parts, strict=True):
        mean.copy_(part.view_as(mean))


def average_gradients(
    weights: Iterable[Tensor], rows: int = 1, along: Tensor | None = None
) -> None:
    """Replace the gradients of weights by their means over ranks, and a scalar along with them."""
    if world_size() > 1:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        average_in_place(gradients if along is None else [*gradients, along], rows)


def objects_of_ranks(value: Any) -> list[Any]:
    """Return plain values of all ranks, by rank."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    _together(dist.all_gather_object, found, value)
    return found


def states_at_rank_0(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the states of tensors and plain values of all ranks, on rank 0; [] on others."""
    file = io.BytesIO()
    torch.save(state, file)
    found: list[Any] | None = [None] * world_size() if rank() == 0 else None
    _together(dist.gather_object, file.getvalue(), found)
    return [
        torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
        for saved in found or []
    ]


def require_equal(given: Mapping[str, Any]) -> None:
    """Refuse ranks that were not given the same.

    Raises:
        UsageError: a value differs from that of rank 0.
    """
    first, *others = objects_of_ranks(dict(given))
    for number, other in enumerate(others, 1):
        for name, value in first.items():
            if other.get(name) != value:
                raise UsageError(
                    f"{name} of rank {number} is {other.get(name)}, of rank 0 {value}; give every "
                    "process the same, also the same seed: envs and noise of each have seeds of "
                    "their own made of it"
                )


def _all_reduce(value: Tensor, operation: Any) -> Tensor:
    """Reduce in place."""
    _together(dist.all_reduce, value, operation)
    return value


def _together(collective: Callable[..., Any], *args: Any) -> None:
    """Call a collective.

    Raises:
        UsageError: another rank has ended.
    """
    try:
        collective(*args)
    except RuntimeError as error:
        why = str(error).split("] ", 1)[-1].split(". ")[0]
        raise UsageError(
            f"another process of this training has ended or cannot be reached ({why}); see what it "
            "said (if nothing, it called learn or save less often than this one), then start all "
            "again, with --resume to go on from the last checkpoint"
        ) from error
