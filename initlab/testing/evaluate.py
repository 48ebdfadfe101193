"""The testing procedure (He et al. 2015, sec. 3 and 4): trained nets on their validation set, by one or many views.

`evaluate` wires store, data and nets together: read checkpoints, score every validation image by views and scales,
average, count errors overall and per class, write.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from initlab.attempt.assemble import bare_net, load_data
from initlab.data.dataset import Images
from initlab.data.facts import absence
from initlab.engine.task import DataAccess
from initlab.errors import UserError
from initlab.launch.checks import check_device
from initlab.launch.machine import cache_folder
from initlab.store.files import StoreError, writable, write_csv, write_json
from initlab.store.trained import Trained, load_weights, read_trained
from initlab.study.paths import differing_paths, getattr_path
from initlab.study.trial_code import source_hashes
from initlab.testing.dense import Scores
from initlab.testing.error_rates import class_errors, error_rows, mean_scores
from initlab.testing.procedure import Procedure, Views
from initlab.train.cuda import kernels
from initlab.user_code import is_code
from initlab.version import __version__

# Fields of data that an ensemble shares.
SHARED = ("name", "image_size", "val_examples", "classes", "channels", "options")


@dataclass(frozen=True)
class Evaluated:
    """The result of a test; its headline is the last row of `table`, all checkpoints and scales together.

    `table` has a row per checkpoint and scale: checkpoint, the fields in which the checkpoints' trials differ, scales,
    images, val_error, val_error_top5. `per_class` has class, name, images, val_error and val_error_top5 of the
    headline, NaN for a class without images. `scores` are the headline's, (N, classes) in float64 and in the order of
    the validation set. `described` is the content of evaluation.json: checkpoints, views and where it ran.
    """

    table: pd.DataFrame
    per_class: pd.DataFrame
    scores: Tensor
    described: dict[str, Any]

    @property
    def val_error(self) -> float:
        """Top-1 error of the headline, a fraction."""
        return float(self.table.val_error.iloc[-1])

    @property
    def val_error_top5(self) -> float:
        """Top-5 error of the headline, a fraction."""
        return float(self.table.val_error_top5.iloc[-1])


def evaluate(
    checkpoints: str | Path | Sequence[str | Path],
    views: Views = "center",
    scales: Sequence[int] | None = None,
    *,
    flips: bool | None = None,
    scores: Scores = "softmax",
    batch_size: int = 100,
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    allow_code: bool = False,
) -> Evaluated:
    """Test trained nets on the validation set that their trial.json names.

    Scores are averaged over the views of an image, then over scales, then over checkpoints. `center` without flips at
    the default scale is the validation of training: the same errors.

    Args:
        checkpoints: each OUT/trials/ID, an attempt's folder or a checkpoint file; several are an ensemble.
        views: `center` (one crop), `10` (four corners and centre, mirrored too) or `dense` (`initlab.dense_scores`).
        scales: sides in pixels that the images' shorter side is resized to; None is that of validation for `center`,
            and 8/7 of the net's input, the paper's 256 for 224, for the others.
        flips: mirrored views too; None is no for `center`, and for the others yes where training mirrored images.
        scores: average `softmax` probabilities or `logits`.
        batch_size: images at once; 10 and dense hold several views or large maps of each.
        data_dir: where data files lie; default the environment's INITLAB_DATA.
        out: folder for evaluation.csv, evaluation.json and per_class.csv, .png and .svg; None writes nothing.
        device: None is cuda where there is one.
        allow_code: import `pkg.module:callable` names of the trials.

    Raises:
        UserError: a checkpoint that cannot be read or is another net's, an ensemble of different data, scales smaller
            than a net's input, absent data, or a net that cannot be tested densely.
    """
    paths = [checkpoints] if isinstance(checkpoints, (str, Path)) else list(checkpoints)
    if not paths:
        raise UserError("evaluate: no checkpoint (got none); give OUT/trials/ID, an attempt folder or a checkpoint.pt")
    procedure = Procedure(views, scales, flips, scores, batch_size)
    members = [read_trained(path) for path in paths]
    check_alike(members)
    check_device(device, torch.cuda.is_available())
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if out is not None:
        # Before the long part.
        with writable(Path(out)):
            Path(out).mkdir(parents=True, exist_ok=True)
    ensemble: dict[int, Tensor] = {}
    rows: list[dict[str, Any]] = []
    tested: list[dict[str, Any]] = []
    varying = differing_paths([member.spec for member in members])
    for path, member in zip(paths, members, strict=True):
        net, data = restored(member, place, data_dir, allow_code)
        # As in training: else CUDA rounds what goes into convolutions.
        with kernels(place):
            by_side = procedure.scores_of(net, data)
        labels = data.val_labels.cpu()
        fields = {name: getattr_path(member.spec, name) for name in varying}
        rows += error_rows({"checkpoint": str(path), **fields}, by_side, labels)
        for side, side_scores in by_side.items():
            ensemble[side] = ensemble.get(side, 0) + side_scores / len(members)
        label = {"trial": member.trial, "net": member.spec.net.label, "step": member.step}
        tested.append({"path": str(member.path), **label, "flips": procedure.mirrors(data)})
    if len(members) > 1:
        rows += error_rows({"checkpoint": "ensemble"}, ensemble, labels)
    table, headline = pd.DataFrame(rows), mean_scores(ensemble)
    # Of types that leave room for none, which an ensemble has.
    table = table.astype(table[varying].convert_dtypes().dtypes)
    settings = {"views": views, "scales": list(ensemble), "scores": scores, **surroundings(place)}
    described = {"checkpoints": tested, "data": members[0].spec.data.model_dump(mode="json"), **settings}
    result = Evaluated(table, class_errors(headline, labels, data.class_names), headline, described)
    if out is not None:
        write_evaluation(result, Path(out))
    return result


def surroundings(device: torch.device) -> dict[str, str]:
    """Where and with which versions nets are tested."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": name, "torch_version": torch.__version__, "initlab_version": __version__}


def check_alike(members: Sequence[Trained]) -> None:
    """Refuse an ensemble over different validation sets."""
    first = members[0]
    for other, field in product(members[1:], SHARED):
        expected, value = getattr(first.spec.data, field), getattr(other.spec.data, field)
        if value != expected:
            raise UserError(
                f"{other.path}: data.{field} differs in the ensemble (got {value!r}, {first.path} has {expected!r}); "
                "give checkpoints of the same data, or test them one by one"
            )


def restored(
    trained: Trained, device: torch.device, data_dir: str | Path | None, allow_code: bool
) -> tuple[nn.Module, Images]:
    """The net with its weights, in eval mode, and its data, both on the device."""
    spec = trained.spec
    if source_hashes(spec, allow_code) != trained.source:
        raise StoreError(f"{trained.path}: the code of {', '.join(trained.source)} changed since this net was trained")
    folder = data_dir or os.environ.get("INITLAB_DATA")
    where = Path(folder) if folder else None
    if not is_code(spec.data.name) and (absent := absence(spec.data.name, where, downloads=False)):
        raise UserError(absent)
    access = DataAccess(data_dir=str(folder) if folder else None, allow_code=allow_code, cache=str(cache_folder()))
    data = load_data(spec, device, access, trained.source, print)
    if not isinstance(data, Images) or data.val_labels.dtype != torch.int64 or data.val_labels.dim() != 1:
        got = f"inputs of {tuple(data.input_shape)}, labels of {data.val_labels.dtype} {tuple(data.val_labels.shape)}"
        text = f"tests pictures with a class for each (got {got}); the other trials have their errors in `scalars`"
        raise UserError(f"{trained.path}: evaluate {text}")
    with torch.random.fork_rng(devices=[]):
        net = bare_net(spec, data)
    load_weights(net, trained)
    return net.to(device).eval(), data


def write_evaluation(result: Evaluated, folder: Path) -> None:
    """Into a folder: evaluation.csv, evaluation.json and the figure of errors per class with its numbers."""
    # Here, so that matplotlib is imported only where a figure is drawn.
    from initlab.plots.per_class import per_class, per_class_table
    from initlab.plots.save import write

    errors = {"val_error": result.val_error, "val_error_top5": result.val_error_top5}
    with writable(folder):
        write_csv(folder / "evaluation.csv", result.table)
        write_json(folder / "evaluation.json", {**result.described, "images": len(result.scores), **errors})
        write(folder, "per_class", per_class_table(result.per_class), per_class(result.per_class))
