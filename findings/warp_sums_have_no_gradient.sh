#!/usr/bin/env bash
# Warp's own sum, inner product and running sum of arrays are left out of its gradient, which is then 0.
#
# warp-lang 1.19.0, on the CPU: inside of a `wp.Tape`, a kernel squares four numbers, and they are added up into a loss.
# With `wp.utils.array_sum` the loss is right, 14, and the gradient that `tape.backward` writes is 0 for all four; so
# it is with `array_inner` and `array_scan`. Where a kernel adds them up by `wp.atomic_add`, it is 2x, as it should be.
# `array_cast` of the same module is recorded, and `requires_grad` of the results is True. A loss of two terms, one
# by a kernel and one by `array_sum`, has the gradient of the first alone, and nothing warns: a cost of controls
# that is added up so costs nothing. A good guess would be that what a library for differentiable simulation
# computes under its tape is differentiated, or refused. (warp/_src/utils.py: these three call the native code and
# record no launch.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "warp-lang==1.19.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import numpy as np
import warp as wp

wp.config.quiet = True
wp.init()


@wp.kernel
def square(x: wp.array(dtype=float), y: wp.array(dtype=float)):
    i = wp.tid()
    y[i] = x[i] * x[i]


@wp.kernel
def add_up(x: wp.array(dtype=float), total: wp.array(dtype=float)):
    wp.atomic_add(total, 0, x[wp.tid()])


def add_running_sums(y, loss):
    sums = wp.zeros_like(y)
    wp.utils.array_scan(y, sums, inclusive=True)
    wp.launch(add_up, dim=4, inputs=[sums], outputs=[loss])


def add_cast(y, loss):
    wp.utils.array_cast(y, copy := wp.zeros_like(y))
    wp.launch(add_up, dim=4, inputs=[copy], outputs=[loss])


def add_both(y, loss):
    """Return the sum by a kernel, and ten times the sum by `array_sum`."""
    second = wp.zeros_like(loss)
    wp.utils.array_sum(y, out=second)
    wp.launch(add_up, dim=4, inputs=[y], outputs=[loss])
    for _ in range(10):
        wp.launch(add_up, dim=1, inputs=[second], outputs=[loss])


SUMS = {
    "atomic_add in a kernel": lambda y, loss: wp.launch(add_up, dim=4, inputs=[y], outputs=[loss]),
    "array_cast, and that kernel": add_cast,
    "array_sum": lambda y, loss: wp.utils.array_sum(y, out=loss),
    "array_inner": lambda y, loss: wp.utils.array_inner(y, y, out=loss),
    "array_scan, and that kernel": add_running_sums,
    "the kernel, and 10 times array_sum": add_both,
}
X = np.arange(4, dtype=np.float32)
print("warp-lang", wp.__version__, "squares of", X, "are added up:")
for name, add in SUMS.items():
    x, y = wp.array(X, requires_grad=True), wp.zeros(4, dtype=float, requires_grad=True)
    loss = wp.zeros(1, dtype=float, requires_grad=True)
    with wp.Tape() as tape:
        wp.launch(square, dim=4, inputs=[x], outputs=[y])
        add(y, loss)
    tape.backward(loss=loss)
    value, gradient = float(loss.numpy()[0]), x.grad.numpy()
    print(f"{name}: {value}, gradient {gradient}")
    right, expected = {
        "array_sum": (14, 0 * X),
        "array_inner": (98, 0 * X),
        "array_scan, and that kernel": (20, 0 * X),
        "the kernel, and 10 times array_sum": (154, 2 * X),  # 22 * X is right
    }.get(name, (14, 2 * X))
    assert value == right and (gradient == expected).all()
PYTHON
WARP_CACHE_PATH="$folder/cache" "$folder/venv/bin/python" -W ignore "$folder/check.py"
