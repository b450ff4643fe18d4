"""The runs that could be trained: a backbone, an image size, a recipe and its settings, a seed."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

#: Epochs of the recipes' own configs.
EPOCHS = 4
#: Seeds of one setting.
NUM_SEEDS = 4

FROZEN = "features"
TUNED = ("full", "fine_tune", "freeze_first_k")
_SHORTER, _LONGER = EPOCHS // 2, 2 * EPOCHS


@dataclass(frozen=True)
class Input:
    """What a backbone sees.

    Attributes:
        model: A name in configs/models.
        size: Side of the image in pixels.
        own: Whether that is the size the backbone was pretrained at.
    """

    model: str
    size: int
    own: bool = True

    def __str__(self) -> str:
        return f"{self.model} at {self.size} pixels"


@dataclass(frozen=True)
class Candidate:
    """One run that could be trained.

    Attributes:
        epochs: Epochs of gradient descent; 0: a regression on frozen features.
        even: Whether classes are drawn equally often.
        name: Name of the run.
    """

    input: Input
    recipe: str
    epochs: int = 0
    even: bool = False
    seed: int = 0

    @property
    def is_frozen(self) -> bool:
        return self.recipe == FROZEN

    @property
    def overrides(self) -> tuple[str, ...]:
        """Its settings, as SET= takes them."""
        settings = [f"recipe={self.recipe}"]
        settings += [] if self.input.own else [f"model.image_size={self.input.size}"]
        settings += [f"phases.finetune.epochs={self.epochs}"] if self.epochs not in (0, EPOCHS) else []
        settings += ["training.sampling=classes"] if self.even else []
        settings += [f"training.seed={self.seed}"] if self.seed else []
        return tuple(settings)

    @property
    def name(self) -> str:
        parts = [self.input.model, self.recipe]
        parts += [] if self.input.own else [f"{self.input.size}px"]
        parts += [f"{self.epochs}epochs"] if self.epochs not in (0, EPOCHS) else []
        parts += ["classes"] if self.even else []
        parts += [f"seed{self.seed}"] if self.seed else []
        return "_".join(parts)

    @property
    def settings(self) -> tuple[Input, str, int, bool]:
        """Everything but the seed."""
        return self.input, self.recipe, self.epochs, self.even

    @property
    def family(self) -> "Candidate":
        """The same settings with the first seed."""
        return replace(self, seed=0) if self.seed else self


def all_candidates(inputs: Iterable[Input], *, uneven: bool, fixed: Collection[str] = ()) -> list[Candidate]:
    """All candidates with some inputs, with the first seed each.

    Args:
        uneven: Whether some classes have clearly more images than others, so that it can pay to draw all
            equally often.
        fixed: Keys of settings that the user has given: candidates do not differ in them.
    """
    evens = (False, True) if uneven and "training.sampling" not in fixed else (False,)
    candidates = []
    for one in inputs:
        candidates.append(Candidate(one, FROZEN))
        for recipe in TUNED if one.own else TUNED[:1]:
            for epochs in (_SHORTER, EPOCHS, _LONGER) if recipe == TUNED[0] else (EPOCHS,):
                candidates += [Candidate(one, recipe, epochs, even) for even in evens]
    return candidates


def further_seeds(candidate: Candidate, taken: Sequence[Candidate], num_seeds: int) -> list[Candidate]:
    """The runs of a candidate's settings that are left to choose, in their order; one of frozen features."""
    if candidate.is_frozen:
        return [] if taken else [candidate]
    seeds = {other.seed for other in taken}
    return [replace(candidate, seed=seed) for seed in range(num_seeds) if seed not in seeds]


def find_candidate(candidates: Iterable[Candidate], run: str) -> Candidate | None:
    """The candidate of that name, with any seed."""
    for candidate in candidates:
        if candidate.name == run:
            return candidate
        prefix = f"{candidate.name}_seed"
        if run.startswith(prefix) and run.removeprefix(prefix).isdecimal():
            return replace(candidate, seed=int(run.removeprefix(prefix)))
    return None
