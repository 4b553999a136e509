"""Cost of saturation mutagenesis: the local engine against a straight loop and tangermeme.

    python -m benchmarks.mutagenesis --json

All three evaluate the same functions in the same run, in turns: the network without dropout and T
draws, with the masks of `MaskedNetwork.masks`. The straight loop is plain PyTorch, draw by draw,
all mutants in batches of the size that suits the network, the masks multiplied in. Where that
would take minutes, random batches of mutants and functions are timed and scaled up
(`straight_sampled`). tangermeme knows no dropout; it gets a network with one draw's masks as
buffers, all mutants, and its seconds are scaled up to T + 1 functions; only its work on mutants
counts, what it captures and prepares for each draw is told apart (`tangermeme_setup_s`), as is
ours (`setup_s`, once for a model). Differences are those of effects, mutant minus reference.
`of_peak` relates the operations that the engine plans, not those of the straight loop, to a large
product of matrices on the same machine. With one thread on a CPU, seconds are those of the
processor, system included; else those on the wall.

`--memory` runs DeepSEA with 100 draws in a process of its own and reports its peak memory instead.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.timing import fitted
from deepmr.genome.alphabet import Codes, one_hot
from deepmr.job import peak_memory
from deepmr.models.architectures import build
from deepmr.mutagenesis.capture import capture
from deepmr.mutagenesis.local.heads import keep_columns
from deepmr.mutagenesis.local.network import LocalNetwork
from deepmr.mutagenesis.local.planning import Plan, make_plan
from deepmr.mutagenesis.local.sizes import Sizes, choose_sizes
from deepmr.mutagenesis.masking import MaskedNetwork, Masks
from deepmr.mutagenesis.substitutions import mutants

Result = TypeVar("Result")

ROOT = Path(__file__).parents[1]
SEED = 1
KEPT = 4
DRAWS = {"cpu": 20, "cuda": 100}
MEMORY_DRAWS = 100
MEMORY = {"cpu": 4e9, "cuda": 32e9}
STRAIGHT_BATCHES = {"cpu": (32, 64, 128, 256), "cuda": (256, 512, 1024, 2048)}
TANGERMEME_BATCHES = {"cpu": (32, 128, 512), "cuda": (512, 2048, 8192)}
FULL_LOOP_S = 15.0
SAMPLE_S = 8.0
LINEAR_DRAWS = (5, 10, 20)
LINEAR_SEQUENCES = (1, 2, 4)


class Residual(nn.Module):
    """A residual network of dilated convolutions, after BPNet."""

    def __init__(
        self, n_targets: int, channels: int, kernel: int, dilations: Sequence[int], rate: float
    ) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, channels, kernel, padding="same")
        self.convolutions = nn.ModuleList(
            nn.Conv1d(channels, channels, 3, padding="same", dilation=dilation)
            for dilation in dilations
        )
        self.dropouts = nn.ModuleList(nn.Dropout(rate) for _ in dilations)
        self.head = nn.Linear(channels, n_targets)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        for convolution, dropout in zip(self.convolutions, self.dropouts, strict=True):
            x = x + dropout(convolution(x).relu())
        outputs: Tensor = self.head(x.mean(dim=2))
        return outputs


def with_convolution_dropout(network: nn.Module, rate: float) -> nn.Module:
    """Return a network with dropout after each pooling as well."""
    layers: list[nn.Module] = []
    for layer in network.children():
        layers.append(layer)
        if isinstance(layer, nn.MaxPool1d):
            layers.append(nn.Dropout(rate))
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Case:
    """A network to mutate, and a tiny one of the same kind for tests."""

    make: Callable[[], nn.Module]
    length: int
    make_quick: Callable[[], nn.Module]
    quick_length: int


_TINY: dict[str, Any] = {"channels": (8, 8, 8), "hidden": 8}

CASES: dict[str, Case] = {
    "deepsea": Case(
        lambda: build("deepsea", 919, 1000),
        1000,
        lambda: build("deepsea", 6, 200, **_TINY),
        200,
    ),
    "basset": Case(
        lambda: build("basset", 164, 600), 600, lambda: build("basset", 6, 220, **_TINY), 220
    ),
    "basset, conv dropout": Case(
        lambda: with_convolution_dropout(build("basset", 164, 600), 0.2),
        600,
        lambda: with_convolution_dropout(build("basset", 6, 220, **_TINY), 0.2),
        220,
    ),
    "residual dilated": Case(
        lambda: Residual(KEPT, 64, 21, (2, 4, 8, 16, 32), 0.1),
        1000,
        lambda: Residual(KEPT, 8, 5, (2, 4), 0.1),
        60,
    ),
    "small": Case(lambda: build("small", 4, 200), 200, lambda: build("small", 4, 64), 64),
}


class FixedMask(nn.Module):
    """Dropout as a multiplication with a buffer."""

    factor: Tensor

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def with_fixed_masks(network: nn.Module, factors: Sequence[Tensor]) -> nn.Module:
    """Return a copy of a network whose dropout modules, in their order, multiply with factors."""
    network = copy.deepcopy(network)
    sites = [name for name, module in network.named_modules() if isinstance(module, nn.Dropout)]
    for name, factor in zip(sites, factors, strict=True):
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, FixedMask(factor))
    return network.eval()


def by_processor(device: torch.device) -> bool:
    """Tell whether a processor's time is measured: one thread's is what others disturb least."""
    return device.type == "cpu" and torch.get_num_threads() == 1


def timed(function: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    """Return the seconds of a call, the device's work included, and its result."""
    clock = time.process_time if by_processor(device) else time.perf_counter
    synchronise(device)
    start = clock()
    result = function()
    synchronise(device)
    return clock() - start, result


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_product(device: torch.device, size: int) -> float:
    """Return GFLOP/s of a large product of matrices in float32, the best of some."""
    a, b = torch.randn(2, size, size, device=device)
    seconds = [timed(lambda: torch.mm(a, b), device)[0] for _ in range(7)]
    return 2 * size**3 / min(seconds[2:]) / 1e9


def bandwidth(device: torch.device, numbers: int) -> float:
    """Return GB/s, read and written, of copying more than caches hold, the best of some."""
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    seconds = [timed(lambda: target.copy_(source), device)[0] for _ in range(7)]
    return 2 * source.nbytes / min(seconds[2:]) / 1e9


class Ours:
    """The local engine on a network, prepared as for any number of sequences."""

    def __init__(self, masked: MaskedNetwork, length: int, draws: int, columns: list[int]) -> None:
        self._masked, self._length = masked, length
        self.plan, self._left = self._planned(columns)
        self.sizes: Sizes
        self.choose_draws(draws)

    def _planned(self, columns: list[int]) -> tuple[Plan, list[int]]:
        graph, left = keep_columns(capture(self._masked.network, self._length), columns)
        return make_plan(graph, self._length), left

    def choose_draws(self, draws: int) -> None:
        """Cut the work for another number of draws."""
        masked, functions = self._masked, [None, *range(draws)]
        device = masked.device.type
        self.sizes = choose_sizes(
            self.plan, self._length, len(functions), 4, device, MEMORY[device]
        )
        step = self.sizes.draws
        chunks: list[Masks] = [
            masked.masks(SEED, functions[at : at + step]) for at in range(0, len(functions), step)
        ]
        self._network = LocalNetwork(self.plan, self._length, chunks, self.sizes, self._left)
        self.functions = len(functions)

    def __call__(self, inputs: Tensor, positions: range | None = None) -> tuple[Tensor, Tensor]:
        """Return outputs (1 + T, K) and effects (positions, 3, 1 + T, K)."""
        with torch.inference_mode():
            return self._network(inputs, positions)

    def flops(self, mutations: int) -> float:
        """Return the operations planned for a sequence."""
        return mutations * (self.plan.flops(False) + self.plan.flops(True) * self.functions)


class Straight:
    """The straight loop on all mutants of a sequence, or on a sample of batches."""

    def __init__(
        self,
        network: nn.Module,
        masks: Masks,
        rows: Tensor,
        columns: list[int],
    ) -> None:
        self._plain, self._rows, self._columns = network, rows, columns
        self._factors = masks.factors
        self._masked = with_fixed_masks(network, [factor[1] for factor in masks.factors])
        self._sites = [m for m in self._masked.modules() if isinstance(m, FixedMask)]
        self._functions = masks.number
        device = rows.device
        self.seconds_a_row: dict[int, float] = {}
        for batch in STRAIGHT_BATCHES[device.type]:
            few = rows[:batch]
            self._outputs(1, few[:1])
            best = min(timed(partial(self._outputs, 1, few), device)[0] for _ in range(2))
            self.seconds_a_row[batch] = best / len(few)
        self.batch = min(self.seconds_a_row, key=lambda batch: self.seconds_a_row[batch])
        self.mutations = len(rows) - 1
        full = self.seconds_a_row[self.batch] * self.mutations * self._functions
        self.sampled = full > FULL_LOOP_S
        generator = np.random.default_rng(SEED)
        self._references: dict[int, Tensor] = {}
        # The network without dropout is among the functions as often as any draw.
        self._units = [
            (function, np.arange(1 + at, min(1 + at + self.batch, len(rows))))
            for function in range(self._functions)
            for at in range(0, self.mutations, self.batch)
        ]
        if self.sampled:
            count = max(2, int(SAMPLE_S / (self.seconds_a_row[self.batch] * self.batch)))
            self._units = [
                (
                    int(generator.integers(self._functions)),
                    1 + generator.choice(self.mutations, min(self.batch, self.mutations), False),
                )
                for _ in range(count)
            ]
        self.sample = sum(len(each) for _, each in self._units)

    def __call__(self, delta: Tensor) -> tuple[float, float]:
        """Time it; return seconds of all mutants and functions, and the largest difference.

        Parameters
        ----------
        delta : tensor, shape (length, 3, 1 + T, K)
            Effects to compare with.
        """
        flat = delta.flatten(0, 1)
        spent = worst = 0.0
        for function, places in self._units:
            index = torch.from_numpy(places).to(self._rows.device)
            rows = self._rows[index]
            seconds, found = timed(partial(self._outputs, function, rows), rows.device)
            spent += seconds
            effects = found - self._reference(function)
            worst = max(worst, float((flat[index - 1, function] - effects).abs().max()))
        return spent * self.mutations * self._functions / self.sample, worst

    def _outputs(self, function: int, rows: Tensor) -> Tensor:
        with torch.inference_mode():
            if function == 0:
                return self._plain(rows)[:, self._columns]
            for site, factor in zip(self._sites, self._factors, strict=True):
                site.factor = factor[function]
            return self._masked(rows)[:, self._columns]

    def _reference(self, function: int) -> Tensor:
        if function not in self._references:
            self._references[function] = self._outputs(function, self._rows[:1])
        return self._references[function]


class Tangermeme:
    """tangermeme's fast path on one draw, whatever it thinks of the gain.

    Its public function runs short jobs the slow way and measures whether the fast way gains; what
    it calls then is called here.
    """

    def __init__(
        self, network: nn.Module, masks: Masks, function: int, inputs: Tensor, columns: list[int]
    ) -> None:
        from tangermeme._fastism import _FastISM
        from tangermeme.saturation_mutagenesis import _single_edits

        device = inputs.device
        self._device, self._function = device, function
        model = with_fixed_masks(network, [factor[function] for factor in masks.factors])
        x = inputs[None].to(torch.int8).cpu()
        length = inputs.shape[1]
        _, self._chars, self._positions = _single_edits(x[0], 0, length)
        reference = x[0].argmax(0)[self._positions]
        self._alternatives = self._chars - (self._chars > reference).long()
        with torch.no_grad():
            self._fast = _FastISM(
                model, x, None, 0, length, device, torch.get_default_dtype(), False
            )
            self._expected = model(inputs[None])[:, columns]
        self._columns = columns
        middle = (self._positions - length // 2).abs().argsort(stable=True)
        trials = {}
        for batch in TANGERMEME_BATCHES[device.type]:
            few = middle[: 2 * batch].sort().values
            self._edits(few[:8], batch)
            trials[batch] = timed(partial(self._edits, few, batch), device)[0] / len(few)
        self.batch = min(trials, key=lambda batch: trials[batch])

    def __call__(self, delta: Tensor) -> tuple[float, float]:
        """Time all mutants of one draw; return seconds and the largest difference."""
        every = torch.arange(len(self._positions))
        seconds, found = timed(lambda: self._edits(every, self.batch), self._device)
        places = self._positions.to(delta.device), self._alternatives.to(delta.device)
        ours = delta[*places, self._function]
        effects = found.to(delta.device) - self._expected
        return seconds, float((ours - effects).abs().max())

    def _edits(self, which: Tensor, batch: int) -> Tensor:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Tensor = self._fast.predict_edits(
                0, self._chars[which], self._positions[which], batch, self._kept
            )
        return found

    def _kept(self, outputs: Tensor) -> Tensor:
        return outputs[:, self._columns]


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Return the median over turns, within which the machine is the same."""
    return statistics.median(t / o for t, o in zip(theirs, ours, strict=True))


def linearity(
    ours: Ours, sequences: Sequence[Tensor], draws: int, repeats: int
) -> dict[str, dict[str, Any]]:
    """Measure seconds by the number of draws and of sequences, the best of some each."""
    device = sequences[0].device

    def best(number: int) -> float:
        def work() -> None:
            for each in range(number):
                ours(sequences[each % len(sequences)])

        return min(timed(work, device)[0] for _ in range(repeats))

    by_draws = []
    numbers = [max(1, draws * each // max(LINEAR_DRAWS)) for each in LINEAR_DRAWS]
    for number in numbers:
        ours.choose_draws(number)
        ours(sequences[0], range(ours.sizes.drawn))
        by_draws.append(best(1))
    ours.choose_draws(numbers[0])
    by_sequences = [best(number) for number in LINEAR_SEQUENCES]
    return {
        "by_draws": fitted(numbers, by_draws),
        "by_sequences": {
            "draws": numbers[0],
            **fitted(LINEAR_SEQUENCES, by_sequences),
        },
    }


def random_codes(number: int, length: int) -> Codes:
    return np.random.default_rng(SEED).integers(4, size=(number, length), dtype=np.uint8)


def measure(name: str, arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure one network with all three."""
    case, device = CASES[name], torch.device(arguments.device)
    draws = arguments.draws or DRAWS[device.type]
    length = case.quick_length if arguments.quick else case.length
    torch.manual_seed(SEED)
    masked = MaskedNetwork(case.make_quick() if arguments.quick else case.make(), length, device)
    # Spread over the outputs, so that taking the first few is no advantage.
    columns = np.linspace(0, masked.n_outputs - 1, KEPT).round().astype(int).tolist()
    codes = random_codes(arguments.sequences, length)
    sequences = list(torch.from_numpy(one_hot(codes)).to(device))
    mutations = 3 * length
    setup, ours = timed(lambda: Ours(masked, length, draws, columns), device)
    say(f"{name}: {'; '.join(ours.plan.describe(draws + 1))}")
    masks = masked.masks(SEED, [None, *range(draws)])
    rows = torch.from_numpy(one_hot(mutants(codes[0], 0, 1 + mutations))).to(device)
    straight = Straight(masked.network, masks, rows, columns)
    tangermeme_setup, tangermeme = None, None
    if importlib.util.find_spec("tangermeme"):
        tangermeme_setup, tangermeme = timed(
            lambda: Tangermeme(masked.network, masks, 1, sequences[0], columns), device
        )
    ours(sequences[0], range(ours.sizes.drawn))  # the first call is slower
    seconds: dict[str, list[float]] = {"ours": [], "straight": [], "tangermeme": []}
    differences: dict[str, float] = {"straight": 0.0, "tangermeme": 0.0}
    reference = delta = torch.empty(0)
    for _ in range(arguments.repeats):
        each = []
        # Of several sequences the last one's effects stay; the peers get the first.
        for inputs in reversed(sequences):
            spent, (reference, delta) = timed(partial(ours, inputs), device)
            each.append(spent)
        seconds["ours"].append(statistics.mean(each))
        for peer, run in (("straight", straight), ("tangermeme", tangermeme)):
            if run is not None:
                spent, worst = run(delta)
                # tangermeme's is the time of one draw.
                seconds[peer].append(spent * (1 if run is straight else draws + 1))
                differences[peer] = max(differences[peer], worst)
        say(f"{name}: " + ", ".join(f"{n} {v[-1]:.3g} s" for n, v in seconds.items() if v))
    functions = draws + 1
    took = statistics.median(seconds["ours"])
    rate = ours.flops(mutations) / took / 1e9
    result: dict[str, Any] = {
        "length": length,
        "draws": draws,
        "kept_targets": len(columns),
        "mutants": mutations,
        "functions": functions,
        "seconds": took,
        "ms_per_sequence": 1e3 * took,
        "us_per_mutant_draw": 1e6 * took / mutations / functions,
        "setup_s": setup,
        "straight_s": statistics.median(seconds["straight"]),
        "straight_sampled": straight.sampled,
        "straight_sample": straight.sample,
        "straight_of": mutations * functions,
        "straight_batch": straight.batch,
        "ratio_straight": ratio(seconds["straight"], seconds["ours"]),
        "tangermeme_s": None,
        "tangermeme_setup_s": tangermeme_setup,
        "tangermeme_batch": None,
        "ratio_tangermeme": None,
        "planned_speed_up": ours.plan.speed_up(functions),
        "largest_difference": max(differences.values()),
        "largest_difference_by_peer": differences,
        "largest_effect": float(delta.abs().max()),
        "largest_output": float(reference.abs().max()),
        "planned_gflop": ours.flops(mutations) / 1e9,
        "gflop_per_s": rate,
        "positions_at_once": ours.sizes.drawn,
        "draws_at_once": ours.sizes.draws,
    }
    if tangermeme is not None:
        result |= {
            "tangermeme_s": statistics.median(seconds["tangermeme"]),
            "tangermeme_batch": tangermeme.batch,
            "ratio_tangermeme": ratio(seconds["tangermeme"], seconds["ours"]),
        }
    if not arguments.no_linearity:
        result["linearity"] = linearity(ours, sequences, draws, 1 + arguments.quick)
        say(f"{name}: " + "; ".join(f"{n}: {v}" for n, v in result["linearity"].items()))
    return {
        key: float(f"{value:.4g}") if isinstance(value, float) else value
        for key, value in result.items()
    }


def memory_of_this_process(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run DeepSEA with many draws; return the highest memory of this process, in GB."""
    case, device = CASES["deepsea"], torch.device(arguments.device)
    draws = arguments.draws or MEMORY_DRAWS
    length = case.quick_length if arguments.quick else case.length
    torch.manual_seed(SEED)
    network = case.make_quick() if arguments.quick else case.make()
    masked = MaskedNetwork(network, length, device)
    ours = Ours(masked, length, draws, list(range(KEPT)))
    before = peak_memory()
    inputs = torch.from_numpy(one_hot(random_codes(1, length)))[0].to(device)
    seconds, _ = timed(lambda: ours(inputs), device)
    after = peak_memory()
    cuda = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return {
        "length": length,
        "draws": draws,
        "seconds": round(seconds, 3),
        "peak_rss_gb": round(after / 1e9, 3),
        "before_work_gb": round(before / 1e9, 3),
        "planned_gb": round(ours.sizes.bytes / 1e9, 3),
        "device_peak_gb": round(cuda / 1e9, 3),
    }


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure peak memory in a fresh process, which starts with this one's peak at the least."""
    command = [sys.executable, "-m", "benchmarks.mutagenesis", "--memory-here"]
    command += ["--device", arguments.device, "--threads", str(arguments.threads)]
    command += ["--draws", str(arguments.draws or MEMORY_DRAWS)]
    command += ["--quick"] if arguments.quick else []
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(result: dict[str, Any]) -> str:
    """Return the cases as lines of text."""
    head = ("", "ours s", "straight s", "ratio", "tangerm. s", "ratio", "difference", "GFLOP/s")
    lines = [f"{head[0]:22}" + "".join(f"{title:>12}" for title in head[1:]) + f"{'of peak':>9}"]
    for name, case in result["cases"].items():
        values = (
            case["seconds"],
            case["straight_s"],
            case["ratio_straight"],
            case["tangermeme_s"],
            case["ratio_tangermeme"],
            case["largest_difference"],
            case["gflop_per_s"],
        )
        shown = "".join(f"{'–' if value is None else f'{value:.3g}':>12}" for value in values)
        lines.append(f"{name:22}{shown}{case['of_peak']:9.0%}")
        if result["device"] == "cuda":
            lines.append(f"{'':22}{case['ms_per_sequence']:.4g} ms per sequence")
    lines.append(
        f"ceilings: {result['peak_gflop_per_s']:.4g} GFLOP/s in a product of float32 matrices, "
        f"{result['bandwidth_gb_per_s']:.3g} GB/s copied"
    )
    return "\n".join(lines)


def agrees(case: dict[str, Any]) -> bool:
    """Tell rounding from error, as the engine's own check does."""
    allowed = 1e-3 * case["largest_effect"] + 2e-5 * case["largest_output"]
    return bool(case["largest_difference"] <= allowed)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print nothing but one JSON object")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--draws", type=int, help="20, or 100 on a GPU")
    parser.add_argument("--sequences", type=int, default=1, help="that ours is timed on")
    parser.add_argument("--repeats", type=int, default=3, help="turns, of which the median counts")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-linearity", action="store_true")
    parser.add_argument("--memory", action="store_true", help="peak memory, in a new process")
    parser.add_argument("--memory-here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="tiny networks, for a test")
    return parser.parse_args(argv)


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure what is asked for."""
    if arguments.memory_here:
        return memory_of_this_process(arguments)

    def say(line: str) -> None:
        if not arguments.json:
            print(line, flush=True)

    device = torch.device(arguments.device)
    result: dict[str, Any] = {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": arguments.threads,
        "clock": "processor" if by_processor(device) else "wall",
        "torch": torch.__version__,
    }
    if arguments.memory:
        return result | {"memory": memory(arguments)}
    large = 8192 if device.type == "cuda" else 2048
    size = 256 if arguments.quick else large
    peak = peak_product(device, size)
    result |= {
        "bandwidth_gb_per_s": round(bandwidth(device, 2**20 if arguments.quick else 2**26), 2),
        "cases": {},
    }
    for name in arguments.cases:
        result["cases"][name] = measure(name, arguments, say)
        # Others may use the machine; the peak is the best of many moments.
        peak = max(peak, peak_product(device, size))
    result |= {"peak_gflop_per_s": round(peak, 1), "load_average": os.getloadavg()[0]}
    for case in result["cases"].values():
        case["of_peak"] = round(case["gflop_per_s"] / peak, 4)
    result["agree"] = all(agrees(case) for case in result["cases"].values())
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 1 if the three disagree."""
    arguments = parsed(argv)
    threads = torch.get_num_threads()
    # Convolutions in TF32, torch's default on a GPU, are another function for all three.
    tf32 = torch.backends.cudnn.allow_tf32
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.allow_tf32 = False
    try:
        result = measured(arguments)
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = tf32
    if arguments.json or arguments.memory_here:
        print(json.dumps(result))
    elif "cases" in result:
        print(table(result))
    else:
        print("\n".join(f"{name:>16}  {value}" for name, value in result["memory"].items()))
    return 0 if result.get("agree", True) else 1


if __name__ == "__main__":
    sys.exit(main())
