#!/usr/bin/env bash
# mlflow-skinny, freshly installed, can log nowhere on its own machine.
#
# mlflow-skinny 3.17.2, no MLFLOW_ variable set: the default tracking URI is sqlite:///…/mlflow.db, for
# which the package has no code, so that `start_run` fails with an error about the *model registry*.
# A folder (file:FOLDER), the default of MLflow 1 and 2 and of most tutorials, is refused as well,
# unless MLFLOW_ALLOW_FILE_STORE=true is set; then it works. A filter on a run's name takes either kind
# of quotes, but none can be escaped: 'one\'s' finds nothing and is no error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "mlflow-skinny==3.17.2"
cat >"$folder/check.py" <<'PYTHON'
import os

import mlflow

for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
    del os.environ[name]
print("mlflow", mlflow.__version__, "default", mlflow.get_tracking_uri().split(":")[0])


def outcome(uri):
    if uri is not None:
        mlflow.set_tracking_uri(uri)
    try:
        with mlflow.start_run(run_name="one's"):
            mlflow.log_metric("loss", 1.0, step=3)
    except mlflow.MlflowException as error:
        return f"{type(error).__name__}: {str(error)[:110]}"
    return "logged"


folder = f"file:{os.getcwd()}/runs"
found = [outcome(None), outcome(folder)]
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
found.append(outcome(folder))
print(*found, sep="\n")
client = mlflow.MlflowClient(folder)
named = [
    len(client.search_runs(["0"], f"attributes.run_name = {quoted}"))
    for quoted in ("\"one's\"", r"'one\'s'")
]
print("runs found by \"one's\" and by 'one\\'s':", named)
assert found[0].startswith("UnsupportedModelRegistryStoreURIException"), found
assert "maintenance mode" in found[1], found
assert found[2] == "logged", found
assert named == [1, 0], named
PYTHON
cd "$folder"
"$folder/venv/bin/python" "$folder/check.py"
