"""Predictions of a model's draws for many windows, for calibration and figures.

Each forward pass holds the draws of one window and nothing else, so a prediction does not depend
on the batch it came in, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from deepmr import schemas, tables
from deepmr.draws import DrawSet
from deepmr.genome.alphabet import Codes, one_hot
from deepmr.mutagenesis.drawn_model import DrawnModel, Model
from deepmr.mutagenesis.threads import in_order
from deepmr.progress import track

Float = NDArray[np.float32]

_BLOCK = 64
"""Windows that a thread takes at a time, to be predicted one by one."""

_READ = 1024
"""Windows whose sequences are read at a time."""


class Reader(Protocol):
    """Gives the sequences of windows, as codes."""

    def windows(self, table: pa.Table) -> Codes:
        """Return the codes, (n, length), of the windows of a table."""


def predict_windows(
    model: Model,
    batches: Iterable[Codes],
    targets: Sequence[str],
    draws: DrawSet,
    *,
    average_strands: bool = False,
    device: str | torch.device | None = None,
    rows_per_batch: int | None = None,
    workers: int = 1,
) -> tuple[Float, Float]:
    """Predict windows with every draw; the draws are those that mutagenesis uses.

    Parameters
    ----------
    model : Model
        A trained model.
    batches : iterable of ndarray of uint8, shape (batch, length)
        Codes of the windows, in batches of any size; read lazily.
    targets : sequence of str
        Targets to keep.
    draws : DrawSet
        The functions.
    average_strands : bool
        Average the outputs of both strands, draw by draw.
    device : str or torch.device, optional
        Where the networks run; the GPU if there is one.
    rows_per_batch : int, optional
        Most draws of a window in one forward pass.
    workers : int
        Windows worked on at the same time on a CPU; a GPU takes them one by one.

    Returns
    -------
    evaluated : ndarray of float32, shape (n, K)
        Outputs without dropout on the link scale (mean over members).
    drawn : ndarray of float32, shape (n, T, K)
        Outputs of each draw.

    Raises
    ------
    ValueError
        If a batch has another length than the model's input, or the model does not fit `targets`
        and `draws`.
    """
    functions = DrawnModel(
        model,
        targets,
        draws,
        device=device,
        rows_per_batch=rows_per_batch,
        average_strands=average_strands,
    )

    def blocks() -> Iterator[Codes]:
        for codes in batches:
            if codes.shape[1] != functions.length:
                raise ValueError(
                    f"the windows have {codes.shape[1]} bases, the model reads "
                    f"{functions.length}; give windows of that length"
                )
            yield from (codes[i : i + _BLOCK] for i in range(0, len(codes), _BLOCK))

    def predict(block: Codes) -> tuple[Float, Float]:
        inputs = torch.from_numpy(one_hot(block)).to(functions.device)
        each = [functions.evaluate(inputs[i : i + 1]) for i in range(len(block))]
        evaluated = torch.cat([evaluated for evaluated, _ in each])
        drawn = torch.cat([drawn for _, drawn in each], dim=1).transpose(0, 1)
        return evaluated.cpu().numpy(), drawn.cpu().numpy()

    shape = (functions.n_draws, len(functions.targets))
    results = list(in_order(predict, blocks(), functions.threads(workers)))
    return (
        np.concatenate([np.empty((0, shape[1]), np.float32), *(r[0] for r in results)]),
        np.concatenate([np.empty((0, *shape), np.float32), *(r[1] for r in results)]),
    )


def write_predictions(
    model: Model,
    reader: Reader,
    windows: pa.Table,
    targets: Sequence[str],
    draws: DrawSet,
    path: str | Path,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Predict the validation and test windows and write the predictions table.

    Parameters
    ----------
    model : Model
        A trained model.
    reader : Reader
        Gives the sequences; they are read as they are needed.
    windows : pyarrow.Table
        Schema of ``windows.parquet``; its train windows are left out.
    targets : sequence of str
        Targets to keep.
    draws : DrawSet
        The functions.
    path : path
        Where the table goes.
    metadata : mapping, optional
        What made the table.
    **options
        Further arguments of :func:`predict_windows`.
    """
    held_out = windows.filter(pc.not_equal(windows["split"], "train"))
    starts = range(0, held_out.num_rows, _READ)
    batches = (reader.windows(held_out.slice(start, _READ)) for start in starts)
    tracked = track(batches, len(starts), "prediction", f"{_READ} windows")
    evaluated, drawn = predict_windows(model, tracked, targets, draws, **options)
    columns = {
        target: pa.StructArray.from_arrays(
            [pa.array(evaluated[:, k]), tables.draws_column(drawn[:, :, k])], ["eval", "draws"]
        )
        for k, target in enumerate(targets)
    }
    table = pa.table(
        {"sequence_id": held_out["sequence_id"], "split": held_out["split"], **columns}
    )
    schema = schemas.predictions_schema(targets, drawn.shape[1])
    tables.write_table(table, path, schema, metadata)
