"""A finished run of untrained networks, for tests of steps that predict again with stored networks."""

import torch

from conftest import TINY
from distracted.config import load_config, load_runtime_config
from distracted.data.picture_sets import Images
from distracted.metrics import scores
from distracted.models.network import build_network
from distracted.models.saved import save_network
from distracted.predictions.run import Run
from distracted.predictions.store import Store
from distracted.progress import silent
from distracted.training.feed import Feed
from distracted.training.resolve import resolve

RUNTIME = load_runtime_config(["runtime.device=cpu", "runtime.num_workers=0"])


def write_untrained(store: Store, run: str = "tiny", *overrides: str) -> Run:
    """Store three networks with different random weights, and their predictions."""
    folder = str(store.competition.config.folder)
    resolved = resolve(load_config(model="resnet50", data=folder, overrides=[*TINY, *overrides]), num_folds=3)
    feed = Feed(resolved, store.workspace.cache("tiny"), silent)
    train, test = Images.to_train(store.competition), Images.to_test(store.competition)
    classes = store.competition.classes
    for fold in range(3):
        torch.manual_seed(fold)
        network = build_network(resolved.config.model, resolved.weights, num_classes=len(classes)).eval()
        torch.nn.init.normal_(network.head.classifier.weight, std=0.5)
        rows = store.folds.valid(fold)
        valid = feed.log_probs(network, train, rows, "valid")
        save_network(store.workspace.network("tiny", run, fold), network, resolved.config, classes)
        store.write_fold(
            run,
            fold,
            kind="model",
            config=resolved.config.resolved(),
            valid=valid,
            test=feed.log_probs(network, test, test.rows, "test"),
            weights={"origin": "none"},
            scores=scores(valid, store.folds.labels[rows], prefix="valid/"),
        )
    return store.read_run(run)
