"""An interrupted pass over a set of images goes on, also with another batch size."""

import numpy as np
import pytest

from distracted.data.augment import Augmenter
from distracted.data.competition import Competition
from distracted.data.loading import Loader
from distracted.data.picture_sets import Files
from distracted.errors import TrainingError
from distracted.inference.predict import predict_log_probs
from distracted.models.network import Network


@pytest.mark.parametrize("batch_size", [4, 2, 8, 3, 20])
def test_an_interrupted_pass_goes_on_with_any_batch_size(
    network: Network, competition: Competition, batch_size: int
) -> None:
    """A GPU's batches are larger than a CPU's, and `runtime.prediction_batch_size` may change meanwhile."""

    def load(size: int) -> Loader:
        transform = Augmenter((), seed=0, size=32, crop=1.0)
        return Loader(
            Files(competition.train_paths()), np.arange(16), transform, batch_size=size, num_workers=0
        )

    done: list[np.ndarray] = []

    def after_batch() -> None:
        if len(done) == 2:
            raise TrainingError("interrupted")

    with pytest.raises(TrainingError, match="interrupted"):
        predict_log_probs(network, load(4), precision="fp32", done=done, after_batch=after_batch)
    kept = done[0]
    log_probs = predict_log_probs(network, load(batch_size), precision="fp32", done=done)
    assert (done[0] is kept) == (batch_size in (4, 2, 8))  # eight images are whole batches of these
    np.testing.assert_allclose(log_probs, predict_log_probs(network, load(16), precision="fp32"), atol=1e-5)
