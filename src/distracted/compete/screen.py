"""Looks at what can be trained here: which weights there are, what each backbone costs, how its features do.

Each input (a backbone at an image size) is measured once: seconds of training and prediction on this machine,
and a probe on its frozen features, scored on folds that it has not seen. What would take more than a share of
the time is left out, and said.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from distracted.compete.candidates import FROZEN, Input, all_candidates
from distracted.compete.screened import Screen, Screened, read_screened, write_screened
from distracted.compete.times import Speed
from distracted.data.picture_sets import Images
from distracted.errors import ConfigError, DistractedError, WeightsError, first_line
from distracted.files import sha256_json
from distracted.inference.memory import release_memory
from distracted.metrics import log_losses
from distracted.models.weights import said_once
from distracted.predictions.store import Store
from distracted.progress import Progress
from distracted.schema import RunConfig
from distracted.training.advise_settings import Probed, with_even_classes
from distracted.training.context import FoldContext
from distracted.training.feed import pretrained_features
from distracted.training.metrics_log import Tracker
from distracted.training.resolve import Resolved, resolve
from distracted.training.stopwatch import time_prediction, time_training

_log = logging.getLogger(__name__)

#: Share of the time that screening may take.
SHARE = 0.12
_VERSION = 1  # of the file
_STEP = 32  # sizes in pixels are multiples of it
_SMALLER, _LARGER = 0.57, 1.43

#: Returns the config of a model with further settings, as SET= takes them.
Configs = Callable[[str, Sequence[str]], RunConfig]


def screen(
    store: Store,
    configs: Configs,
    models: Sequence[str],
    *,
    path: Path,
    seconds: float,
    num_threads: int,
    device: torch.device | None = None,
    fixed: Sequence[str] = (),
    tick: Callable[[], None] = lambda: None,
    progress: Progress,
) -> Screen:
    """Measure inputs: all backbones at their own size first; what was measured before is not repeated.

    Args:
        path: Where the measurements are kept.
        seconds: Time that is left; the first input is measured in any case.
        num_threads: Threads of a job; training and prediction are timed with as many.
        device: The jobs' device; None: as `runtime.device` says.
        fixed: Keys of settings that the user has given.
        tick: Called now and then.

    Raises:
        ConfigError: nothing can be trained: no model has pretrained weights here.
    """
    screener = _Screener(store, configs, path, num_threads, device, progress)
    start, spend = time.monotonic(), SHARE * seconds
    with said_once():
        resolved = screener.resolve(models)
        if not resolved:
            raise ConfigError(f"MODELS: no pretrained weights to begin with ({screener.reasons})")
        for one in _in_turn(resolved, fixed):
            tick()
            expected = screener.expect(one)
            in_time = time.monotonic() - start + expected <= spend or not screener.screen.inputs
            if screener.recall(one):
                continue
            if in_time:
                screener.measure(one)
            else:
                why = f"its measurement would take about {expected:.0f} s, more than is left for that"
                screener.screen.left_out[str(one)] = why
    release_memory(next(iter(resolved.values())).device)  # the jobs need it
    if not screener.screen.inputs:
        raise ConfigError(f"nothing can be trained here: {screener.reasons}")
    return screener.screen


def _in_turn(resolved: Mapping[str, Resolved], fixed: Sequence[str]) -> Iterator[Input]:
    """The inputs to measure: each backbone's own size, then smaller and larger ones."""
    own = {model: int(config.config.model.image_size) for model, config in resolved.items()}
    yield from (Input(model, size) for model, size in own.items())
    if "model.image_size" in fixed:
        return
    for share in (_SMALLER, _LARGER):
        for model, size in own.items():
            other = _STEP * max(1, round(share * size / _STEP))
            if other != size:
                yield Input(model, other, own=False)


class _Screener:
    def __init__(
        self,
        store: Store,
        configs: Configs,
        path: Path,
        num_threads: int,
        device: torch.device | None,
        progress: Progress,
    ) -> None:
        self._store, self._configs, self._path, self._progress = store, configs, path, progress
        self._num_threads, self._device = num_threads, device
        folds = store.folds
        self._images = Images.to_train(store.competition)
        made_for = [_VERSION, store.competition.index_hash, folds.hash, num_threads, str(device)]
        self._key = sha256_json(made_for)
        self._known = read_screened(path, self._key)
        rows = [folds.labels[folds.valid(fold)] for fold in range(folds.num_folds)]
        counts = [np.bincount(labels, minlength=store.competition.num_classes) for labels in rows]
        self.screen = Screen(np.array(counts))

    def resolve(self, models: Sequence[str]) -> dict[str, Resolved]:
        """The models that have pretrained weights, in the order in which they were given."""
        resolved = {}
        for model in dict.fromkeys(models):
            try:
                config = self._configs(model, [f"recipe={FROZEN}"])
                found = resolve(config, num_folds=self._store.folds.num_folds, device=self._device)
            except (WeightsError, ConfigError) as error:
                self._leave_out(model, first_line(error))
                continue
            if found.weights.pretrained:
                resolved[model] = found
            else:
                self._leave_out(model, "it has random weights, so that its frozen features tell nothing")
        return resolved

    def _leave_out(self, name: str, why: str) -> None:
        self.screen.left_out[name] = why
        _log.warning("%s: left out; %s", name, why)

    def recall(self, one: Input) -> bool:
        """Take over an earlier measurement with the same config, if there is one."""
        known = self._known.get(one)
        if known is None or known.config_hash != self._resolved(one, FROZEN).config.hash:
            return False
        self.screen.inputs.append(known)
        return True

    def expect(self, one: Input) -> float:
        """Expected seconds of a measurement: as the model's others by pixels, else as the slowest so far."""
        measured = self.screen.inputs
        same = [other for other in measured if other.input.model == one.model]
        if same:
            return same[0].seconds * (one.size / same[0].input.size) ** 2
        return max((other.seconds for other in measured), default=0.0)

    def measure(self, one: Input) -> None:
        """Time an input, and fit the probe; an input that fails is left out."""
        start = time.monotonic()
        try:
            frozen = self._resolved(one, FROZEN)
            speed = self._time(one, frozen)
            losses, even, fit = self._probe(frozen)
        except DistractedError as error:
            self._leave_out(str(one), first_line(error))
            return
        seconds = time.monotonic() - start
        measured = Screened(one, replace(speed, fit=fit), losses, even, seconds, frozen.config.hash)
        self.screen.inputs.append(measured)
        self._known[one] = measured
        write_screened(self._path, self._key, self._known.values())
        _log.info(
            "%s: probe %.4f in %.0f s",
            one,
            np.average(losses, weights=self.screen.counts.sum(axis=1)),
            seconds,
        )

    @property
    def reasons(self) -> str:
        """Why each was left out."""
        return "; ".join(f"{name}: {why}" for name, why in self.screen.left_out.items())

    def _resolved(self, one: Input, recipe: str) -> Resolved:
        size = [] if one.own else [f"model.image_size={one.size}"]
        config = self._configs(one.model, [f"recipe={recipe}", *size])
        return resolve(config, num_folds=self._store.folds.num_folds, device=self._device)

    def _context(self, resolved: Resolved, label: str) -> FoldContext:
        return FoldContext(
            resolved,
            fold=0,
            competition=self._store.competition,
            folds=self._store.folds,
            cache=self._store.workspace.cache(self._store.competition.name),
            tracker=Tracker(),
            label=label,
            progress=self._progress,
        )

    def _time(self, one: Input, frozen: Resolved) -> Speed:
        """Seconds of training, by recipe, and of prediction."""
        same = next((other for other in self.screen.inputs if other.input.model == one.model), None)
        if same is not None:  # by pixels
            more = (one.size / same.input.size) ** 2
            train = {recipe: seconds * more for recipe, seconds in same.speed.train.items()}
            return Speed(train, same.speed.predict * more, 0.0)
        recipes = dict.fromkeys(c.recipe for c in all_candidates([one], uneven=False) if not c.is_frozen)
        train = dict[str, float]()
        with _threads(self._num_threads):
            for recipe in recipes:
                try:
                    train[recipe] = time_training(self._context(self._resolved(one, recipe), str(one)))
                except ConfigError as error:  # it may freeze more layers than the network has
                    self._leave_out(f"{one}, recipe {recipe}", first_line(error))
            return Speed(train, time_prediction(self._context(frozen, str(one))), 0.0)

    def _probe(self, resolved: Resolved) -> tuple[tuple[float, ...], tuple[float, ...], float]:
        """The probe's log loss on each fold, that with even classes, and the seconds of one fit."""
        folds = self._store.folds
        cache = self._store.workspace.cache(self._store.competition.name)
        [features] = pretrained_features(resolved, [self._images], cache, self._progress)
        start = time.perf_counter()
        with threadpool_limits(self._num_threads, user_api="blas"):
            probed = Probed.of(features, folds)
        fit = (time.perf_counter() - start) / folds.num_folds
        even = with_even_classes(probed.log_probs, folds)
        return self._by_fold(probed.log_probs), self._by_fold(even), fit

    def _by_fold(self, log_probs: NDArray[np.float64]) -> tuple[float, ...]:
        folds = self._store.folds
        rows = [folds.valid(fold) for fold in range(folds.num_folds)]
        return tuple(float(log_losses(log_probs[of_fold], folds.labels[of_fold]).mean()) for of_fold in rows)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Compute with a number of threads in this block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
