#!/usr/bin/env bash
# A study that goes on with a seeded sampler tries the values again that it has tried.
#
# Optuna 5.0.0: the study in SQLite keeps trials, but not the sampler's random state. A second process
# that goes on with the study and `TPESampler(seed=0)`, as the first did, begins the stream anew and
# asks for the very same values, until the sampler learns from trials (10 by default). And a value
# reported on the way for a step that has one, as after going back to a checkpoint, is left out with
# a warning: the first stays. A running trial of a process that is gone can be taken up by its id.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "optuna==5.0.0"
cat >"$folder/check.py" <<'PYTHON'
import sys
import warnings

import optuna

optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(
    storage="sqlite:///study.db",
    study_name="s",
    sampler=optuna.samplers.TPESampler(seed=0),
    load_if_exists=True,
)


def objective(trial):
    return trial.suggest_float("x", 0, 1)


if sys.argv[1] == "first":
    study.optimize(objective, n_trials=3)
else:
    study.optimize(objective, n_trials=3)
    values = [trial.params["x"] for trial in study.trials]
    print("optuna", optuna.__version__, "values tried:", [round(value, 4) for value in values])
    assert values[:3] == values[3:], values
    left = study.ask()
    drawn = left.suggest_float("x", 0, 1)
    left.report(1.0, step=0)
    taken_up = optuna.trial.Trial(study, left._trial_id)
    assert taken_up.suggest_float("x", 0, 1) == drawn
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        taken_up.report(2.0, step=0)
    kept = study.trials[-1].intermediate_values
    print("reported 1.0 and then 2.0 for step 0, kept:", kept)
    assert kept == {0: 1.0}, kept
    assert any("already reported" in str(one.message) for one in said), said
PYTHON
cd "$folder"
"$folder/venv/bin/python" "$folder/check.py" first
"$folder/venv/bin/python" "$folder/check.py" second
