#!/usr/bin/env bash
# A configuration that is one of two dataclasses comes back from its dict as the other one, and the
# order in which a union is written does not help for the second union of the same members.
#
# dacite 1.9.2 tries the members of a union in order and takes the first that fits. With
# strict=True (no unknown keys), `dataclasses.asdict` of the second member fits the first one
# wherever its keys are a subset of the first one's and the rest have defaults: no error, another
# class, another meaning. Members are looked up through a cache keyed by the type, and for Python
# `Wide | Narrow == Narrow | Wide`: a field `Narrow | Wide` is read in the order of whichever of the
# two spellings the process met first, which may be another module's. strict_unions_match=True
# refuses instead. A good guess would be that strict=True or the exact set of keys keeps them apart,
# and that each field's own spelling counts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "dacite==1.9.2"
cat >"$folder/check.py" <<'PYTHON'
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import version

import dacite


@dataclass
class Wide:
    steps: int = 1
    weight: float = 0.5


@dataclass
class Narrow:
    steps: int = 1


@dataclass
class WideFirst:
    part: Wide | Narrow = field(default_factory=Wide)


@dataclass
class NarrowFirst:
    part: Narrow | Wide = field(default_factory=Wide)


def round_trip(config, **options):
    return dacite.from_dict(type(config), asdict(config), dacite.Config(strict=True, **options))


narrow, wide = Narrow(steps=3), Wide(steps=3)
alone = round_trip(NarrowFirst(part=narrow)).part if sys.argv[1:] == ["alone"] else None
if alone is not None:
    print(f"Narrow | Wide, alone in its process: Narrow(steps=3) comes back as {alone}")
    assert alone == narrow
    sys.exit()
wrong = round_trip(WideFirst(part=narrow)).part
later = round_trip(NarrowFirst(part=narrow)).part
try:
    refused = f"gave {round_trip(WideFirst(part=narrow), strict_unions_match=True)}"
except dacite.StrictUnionMatchError as error:
    refused = f"refused: {type(error).__name__}"
print(f"dacite {version('dacite')}")
print(f"Wide | Narrow: Narrow(steps=3) comes back as {wrong}")
print(f"Narrow | Wide after that, in one process: {later}")
print(f"strict_unions_match=True: {refused}")
assert wrong == wide, "the first member is no longer taken"
assert later == wide, "a union's own order counts now"
assert refused.startswith("refused"), refused
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
"$folder/venv/bin/python" "$folder/check.py" alone
echo "as described"
