"""`watch` in the loops of Lightning and transformers, with the real libraries where they are installed."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import initlab

INPUTS = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 0).long()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("accumulated", [1, 2])
def test_lightning_trains_as_it_would_unwatched_and_its_losses_are_kept(tmp_path: Path, accumulated: int):
    lightning = pytest.importorskip("lightning")
    losses: list[float] = []

    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.net(inputs)

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            loss = F.cross_entropy(self(batch[0]), batch[1])
            losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def fit(model: nn.Module, *callbacks: object) -> dict[str, Tensor]:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            enable_model_summary=False,
            accumulate_grad_batches=accumulated,
            callbacks=list(callbacks),
            **quiet,
        )
        torch.manual_seed(1)
        trainer.fit(model, DataLoader(TensorDataset(INPUTS, LABELS), batch_size=12))
        return state_of(model)

    plain = fit(Model())
    losses.clear()
    model = Model()
    with initlab.watch(model, tmp_path, every=2, batch=(INPUTS[:16], LABELS[:16]), steps_per_epoch=4) as w:
        watched = fit(model, initlab.lightning_callback(w))
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    scalars = initlab.load(tmp_path).scalars
    updates = 8 // accumulated
    assert scalars.step.tolist() == list(range(0, updates + 1, 2))
    per_row = 2 * accumulated
    means = [sum(losses[i : i + per_row]) / per_row for i in range(0, 8, per_row)]
    assert scalars.train_loss[1:].tolist() == pytest.approx(means)
    assert scalars.lr[1:].tolist() == [0.1] * (updates // 2)
    assert initlab.load(tmp_path).signals.name.unique().tolist() == ["net.0", "net.3"]


def test_transformers_trains_as_it_would_unwatched_and_its_losses_are_kept(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    tokens = torch.randint(0, 11, (24, 32), generator=torch.Generator().manual_seed(0))

    class Sentences(Dataset):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"input_ids": tokens[index], "labels": tokens[index]}

    def model() -> nn.Module:
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=11, n_positions=32, n_embd=8, n_layer=2, n_head=2)
        return transformers.GPT2LMHeadModel(config)

    def train(model: nn.Module, folder: Path, *callbacks: object) -> tuple[dict[str, Tensor], list[float]]:
        arguments = transformers.TrainingArguments(
            str(folder),
            max_steps=6,
            per_device_train_batch_size=4,
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(model, arguments, train_dataset=Sentences(), callbacks=list(callbacks))
        trainer.train()
        return state_of(model), [row["loss"] for row in trainer.state.log_history if "loss" in row]

    plain, losses = train(model(), tmp_path / "plain")
    net, batch = model(), ({"input_ids": tokens[:4], "labels": tokens[:4]}, tokens[:4])
    with initlab.watch(net, tmp_path / "mine", every=3, batch=batch, loss=lambda output, _: output.loss) as w:
        watched, _ = train(net, tmp_path / "watched", initlab.transformers_callback(w))
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    results = initlab.load(tmp_path / "mine")
    assert results.scalars.step.tolist() == [0, 3, 6]
    # The trainer rounds what it logs to 1e-4.
    means = [sum(losses[:3]) / 3, sum(losses[3:]) / 3]
    assert results.scalars.train_loss[1:].tolist() == pytest.approx(means, abs=1e-4)
    first = model().eval()(input_ids=tokens[:4], labels=tokens[:4]).loss.item()
    assert results.scalars.val_loss[0] == pytest.approx(first)
    # Guessing has ln 11, and in six updates nothing is learned.
    assert results.verdicts.verdict.tolist() == ["stalled"]
    assert "guessing has 2.398" in results.verdicts.reason[0]
