"""What a sweep searches: options of `train`, each with a range or a list of values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diffsurrogate.cli.arguments import read_train
from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.config import by_dotted_name
from diffsurrogate.errors import UsageError

DECIDED = {"out", "resume", "seed", "eval-every", "stop-at", "config", "film-steps", "progress"}
"""Options of `train` that a sweep sets itself, for each training."""
_USUAL: dict[str, tuple[str, ...]] = {
    "shac": (
        "shac.update.weight=0:1.5",
        "shac.update.lr=3e-4:1e-2:log",
        "shac.update.ppo.lr=1e-4:3e-3:log",
        "shac.update.ppo.epochs=3:15",
        "shac.update.gradient.lam=0.4:1",
        "shac.value.lr=3e-4:1e-2:log",
    ),
    "ppo": (
        "ppo.clip.lr=1e-4:3e-3:log",
        "ppo.clip.epochs=3:15",
        "ppo.clip.clip_range=0.1:0.3",
        "ppo.critic_lr=1e-4:1e-2:log",
        "ppo.clip.entropy_weight=0:0.01",
    ),
    "bppo": (
        "bppo.clip.lr=1e-4:3e-3:log",
        "bppo.clip.epochs=3:15",
        "bppo.clip.clip_range=0.1:0.3",
        "bppo.critic_lr=1e-4:1e-2:log",
    ),
    "sb3": (
        "sb3.lr=1e-4:3e-3:log",
        "sb3.epochs=3:15",
        "sb3.clip_range=0.1:0.3",
        "sb3.entropy_weight=0:0.01",
        "sb3.gamma=0.95:0.999",
        "sb3.tau=1e-3:2e-2:log",
    ),
}
"""What is searched by default, of a method's section; those that it has not are left out."""


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One option, and the values it may take: a range, or a list."""

    name: str
    """Dotted, such as ppo.clip.lr."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """Whether the range is searched on a logarithmic scale."""
    whole: bool = False
    """Whether only whole numbers are."""
    choices: tuple[str, ...] = ()
    """The words of a list; empty for a range."""

    @classmethod
    def parse(cls, text: str, known: Mapping[str, Any]) -> "Dimension":
        """Read NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,C.

        Args:
            text: to read.
            known: values of options by name; a range of an option that is whole is of whole
                numbers.

        Raises:
            UsageError: it has another form, the range is empty or without end, or a sweep decides
                the option itself.
        """
        name, equals, values = text.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if (dashed := name.replace("_", "-")) in DECIDED:
            raise UsageError(f"--search has {dashed}, which sweep decides for each training")
        if "," in values:
            return cls(name=name, choices=tuple(values.split(",")))
        low, colon, rest = values.partition(":")
        high, _, scale = rest.partition(":")
        try:
            bounds = float(low), float(high)
        except ValueError:
            bounds = None
        if not (name and equals and colon) or bounds is None or scale not in ("", "log"):
            raise UsageError(
                f"--search {text} cannot be read; give NAME=LOW:HIGH, NAME=LOW:HIGH:log or "
                "NAME=A,B,C, such as ppo.clip.lr=1e-4:1e-2:log"
            )
        log = scale == "log"
        if not (bounds[0] < bounds[1] and all(map(math.isfinite, bounds))) or (
            log and bounds[0] <= 0
        ):
            need = "0 < LOW < HIGH on a logarithmic scale" if log else "LOW < HIGH, finite"
            raise UsageError(f"--search {text} is no range; it must have {need}")
        whole = type(known.get(name)) is int
        return cls(name=name, low=bounds[0], high=bounds[1], log=log, whole=whole)

    @property
    def ends(self) -> tuple[str, ...]:
        """The words of the list, or of the range's ends."""
        return self.choices or (self._word(self.low), self._word(self.high))

    def suggest(self, trial: Any) -> list[str]:
        """Return the option as words of a command line, with the value of an Optuna trial."""
        if self.choices:
            return self.option(trial.suggest_categorical(self.name, list(self.choices)))
        if self.whole:
            low, high = int(self.low), int(self.high)
            return self.option(str(trial.suggest_int(self.name, low, high, log=self.log)))
        return self.option(str(trial.suggest_float(self.name, self.low, self.high, log=self.log)))

    def option(self, word: str) -> list[str]:
        """Return the option as words of a command line."""
        return [f"--{self.name.replace('_', '-')}", word]

    def _word(self, value: float) -> str:
        return str(int(value)) if self.whole and value == int(value) else repr(float(value))


def usual_space(options: TrainOptions) -> tuple[str, ...]:
    """Return what is searched by default, in the form of `Dimension.parse`."""
    flat = by_dotted_name(asdict(options))
    usual = (text for text in _USUAL[options.section] if text.partition("=")[0] in flat)
    # a value of None has a meaning of its own, that no number has
    return tuple(text for text in usual if flat[text.partition("=")[0]] is not None)


def read_space(texts: Sequence[str], words: Sequence[str]) -> list[Dimension]:
    """Read a search space, and try the ends of each of its dimensions.

    Args:
        texts: a dimension each, in the form of `Dimension.parse`.
        words: METHOD, ENV and options of `train` that all trials have.

    Raises:
        UsageError: a dimension cannot be read, stands there twice, or `train` has no such option or
            refuses a value.
    """
    known = by_dotted_name(asdict(read_train(words)))
    space = [Dimension.parse(text, known) for text in texts]
    names = [part.name for part in space]
    for part in space:
        if names.count(part.name) > 1:
            raise UsageError(f"--search has {part.name} twice; give it once")
        for word in part.ends:
            try:
                read_train([*words, *part.option(word)])
            except UsageError as error:
                raise UsageError(f"--search {part.name} with {word}: {error}") from error
            except SystemExit as error:  # tyro has said why
                raise UsageError(
                    f"--search {part.name}: train does not take {word or 'an empty word'} for it"
                ) from error
    return space
