"""Other people's tools as arms of `initlab.bench.watch`, where they are installed: wandb, BackPACK, Cockpit.

They are no dependencies of initlab. Each takes training steps as its own documents show, with initlab's net, batches
and optimiser, in float32.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from initlab.train.trial import Trial

Step = Callable[[], object]


def missing(package: str) -> bool:
    """Whether a package that an arm needs cannot be imported here."""
    with warnings.catch_warnings():
        # Cockpit imports what is deprecated today.
        warnings.simplefilter("ignore")
        try:
            import_module(package)
        except ImportError:
            return True
    return False


@contextmanager
def wandb_steps(trial: Trial) -> Iterator[Step]:
    """Histograms of every parameter and of its gradient at every step, offline, a row each."""
    wandb: Any = import_module("wandb")
    with tempfile.TemporaryDirectory(prefix="initlab-wandb-") as folder:
        settings = wandb.Settings(silent=True, x_disable_stats=True)
        with wandb.init(mode="offline", dir=folder, project="bench", settings=settings) as run:
            run.watch(trial.net, log="all", log_freq=1)

            def step() -> None:
                """One step with BackPACK's second moments of the gradients."""
                trial.update()
                run.log({"step": trial.step})

            yield step


@contextmanager
def backpack_steps(trial: Trial) -> Iterator[Step]:
    """The variance over the examples of every parameter's gradient."""
    backpack: Any = import_module("backpack")
    variance: Any = import_module("backpack.extensions").Variance
    yield extended(trial, lambda losses, loss: backpack.backpack(variance()))


@contextmanager
def cockpit_steps(trial: Trial) -> Iterator[Step]:
    """Cockpit's least set of instruments, every step."""
    cockpit: Any = import_module("cockpit")
    configuration: Any = import_module("cockpit.utils.configuration").configuration
    instruments = cockpit.Cockpit(trial.net.parameters(), configuration("economy"))

    def watching(losses: Tensor, loss: Tensor) -> AbstractContextManager[object]:
        """Cockpit's context around one step."""
        info = {"batch_size": len(losses), "individual_losses": losses, "loss": loss, "optimizer": trial.optimizer}
        context: AbstractContextManager[object] = instruments(trial.step, info=info)
        return context

    yield extended(trial, watching)


def extended(trial: Trial, watching: Callable[[Tensor, Tensor], AbstractContextManager[object]]) -> Step:
    """A training step on modules that BackPACK has extended, its backward pass inside `watching(losses, loss)`."""
    extend: Any = import_module("backpack").extend
    net, mean = extend(trial.net), extend(nn.CrossEntropyLoss())
    each = nn.CrossEntropyLoss(reduction="none")

    def step() -> None:
        """One step that wandb logs."""
        images, labels = next(trial.batches)
        trial.optimizer.zero_grad(set_to_none=True)
        logits = net(images)
        loss = mean(logits, labels)
        with torch.no_grad():
            losses = each(logits, labels)
        with watching(losses, loss):
            loss.backward()
        trial.optimizer.step()
        trial.step += 1

    return step
