"""`watch` in the training loops of others: a callback that tells each update to a `Watch` that is open."""

from typing import TYPE_CHECKING, Any

from initlab.launch.watch import Watch

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from transformers import TrainerCallback


def lightning_callback(watch: Watch) -> "Callback":
    """A callback for `lightning.Trainer`: loss and learning rate of every update, to an open `watch`.

    Under gradient accumulation an update's loss is the mean over its batches.

    Raises:
        ModuleNotFoundError: lightning is not installed (`pip install initlab[lightning]`).
    """
    from lightning.pytorch import Callback

    class WatchUpdates(Callback):  # type: ignore[misc, unused-ignore]
        """Counts an update where the trainer does."""

        def __init__(self) -> None:
            self.losses: list[Any] = []
            self.updates = 0

        def on_train_start(self, trainer: Any, module: Any) -> None:
            """Updates of before are not told."""
            self.updates = trainer.global_step

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            """Tell the update, if this batch was the last of one."""
            # Of an accumulated update the trainer gives each batch's share.
            self.losses.append(outputs["loss"])
            if trainer.global_step > self.updates:
                loss, rate = sum(self.losses), trainer.optimizers[0].param_groups[0]["lr"]
                self.losses, self.updates = [], trainer.global_step
                watch.step(loss=loss, lr=rate)

    return WatchUpdates()


def transformers_callback(watch: Watch) -> "TrainerCallback":
    """A callback for `transformers.Trainer`: its logged losses, to an open `watch`.

    The trainer tells losses in its logs alone, as means since the log before; so it logs where `watch` measures, too.

    Raises:
        ModuleNotFoundError: transformers is not installed (`pip install initlab[transformers]`).
    """
    from transformers import TrainerCallback

    class WatchLogs(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Counts the updates until the log that has their mean loss."""

        updates = 0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Have the loss logged where it is needed."""
            self.updates += 1
            if (watch.steps + self.updates) % watch.every == 0 or state.global_step >= state.max_steps:
                control.should_log = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            """Tell the updates since the log before."""
            if "loss" in logs:
                while self.updates:
                    self.updates -= 1
                    watch.step(loss=logs["loss"], lr=logs.get("learning_rate"))

    return WatchLogs()
