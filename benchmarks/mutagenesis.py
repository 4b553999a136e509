"""Saturation mutagenesis: the straight engine against a plain PyTorch loop with the same masks.

``python -m benchmarks.mutagenesis --json``: the last line is one JSON object. `ratio` is seconds of
the plain loop (draw by draw, all mutants through the whole network) over seconds of the engine, one
thread each, in turns in one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from deepmr.draws import DrawSet, keep_mask
from deepmr.genome.alphabet import one_hot
from deepmr.models.architectures import build
from deepmr.mutagenesis.straight import mutants, saturate

TARGETS = ["a", "b", "c", "d"]
SEED = 1


def plain(network: nn.Module, codes: np.ndarray, draws: int) -> np.ndarray:
    """Return the effects (3 length, draws, targets) of one sequence, one draw after the other."""
    sites = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    inputs = torch.from_numpy(one_hot(mutants(codes, 0, 1 + 3 * len(codes))))
    found = []
    for draw in range(draws):

        def masked(module: nn.Dropout, given: tuple, output: torch.Tensor, t: int = draw):
            keep = keep_mask(SEED, sites.index(module), t, tuple(output.shape[1:]), module.p)
            return output * torch.from_numpy(keep) / (1 - module.p)

        hooks = [site.register_forward_hook(masked) for site in sites]
        with torch.inference_mode():
            values = network(inputs)
        for hook in hooks:
            hook.remove()
        found.append((values[1:] - values[0]).numpy())
    return np.stack(found, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build("small", len(TARGETS), asked.length).eval()
    model = SimpleNamespace(members=[network], targets=TARGETS, length=asked.length)
    draws = DrawSet("mc_dropout", asked.draws, SEED)
    codes = np.random.default_rng(0).integers(0, 4, (1, asked.length), dtype=np.uint8)
    seconds: dict[str, list[float]] = {"engine": [], "plain": []}
    for _ in range(asked.repeats):
        start = time.perf_counter()
        ours = saturate(model, codes, TARGETS, draws).delta[0].reshape(-1, asked.draws, 4)
        middle = time.perf_counter()
        theirs = plain(network, codes[0], asked.draws)
        seconds["plain"].append(time.perf_counter() - middle)
        seconds["engine"].append(middle - start)
    difference = float(np.abs(ours - theirs).max())
    if difference > 1e-4:
        raise SystemExit(f"the two disagree by {difference}")
    result = {
        "length": asked.length,
        "draws": asked.draws,
        "engine_s": statistics.median(seconds["engine"]),
        "plain_s": statistics.median(seconds["plain"]),
        "largest_difference": difference,
    }
    result["ratio"] = result["plain_s"] / result["engine_s"]
    if not asked.json:
        for name, value in result.items():
            print(f"{name:>20}  {value:.4g}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
