"""MuJoCo's warnings while robots are made, once for each copy and into a file otherwise."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_mujoco() -> Iterator[None]:
    """Leave out that a robot's description is dated, which only its authors can change.

    Whatever else MuJoCo warns of becomes a Python warning.
    """
    try:
        import mujoco  # an extra
    except ImportError:
        yield
        return
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(_pass_on)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _pass_on(message: str) -> None:
    if "deprecated" not in message:
        warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=2)
