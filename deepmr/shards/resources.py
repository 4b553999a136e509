"""How much memory and time a job asks for, as functions of what it holds and of its attempt.

A shard that is killed for want of either is submitted again, and then asks for twice as much, and
so on. Only the standard library is imported here, because every job parses the Snakefile again.

The figures below were measured, Linux, Python 3.11, torch 2 for CPUs: the highest memory of a fresh
process (`deepmr.job.peak_memory`) that runs `deepmr.mutagenesis.effects_table.write_shard`,
`deepmr.mr.shard.estimate_shard`, `deepmr.mr.decoy.estimate_decoys` or `deepmr.mr.gather.gather` on
two or more sizes of each argument in turn. ``python -m deepmr.shards --plan`` measures the first
two anew, for one configuration, on the machine where it is called, and prints them beside what the
rules ask.
"""

from __future__ import annotations

import math
from typing import Any

from deepmr.shards.content import Config, Content
from deepmr.shards.method_cost import conditional_seconds, judged_instruments, method_seconds

MUTAGENESIS_THREADS = 8
"""Threads of the rule: sequences worked on at the same time where there is no GPU."""

SNAKEMAKE_MB = 360
"""The two Snakemake processes around the script of a job on a cluster: 179 MB each, with
``snakemake --mode remote --target-jobs …`` on the shipped example."""

SNAKEMAKE_SECONDS = 3.2
"""CPU time of the same, nearly all before the script begins: 1.6 s each."""

MUTAGENESIS_BASE_MB = 345
"""Python, torch and pyarrow (250 MB), and what their first use adds (95 MB)."""

MR_BASE_MB = 225
"""Python, scipy and pyarrow (130 MB), and what their first use adds; no torch."""

GPU_MB = 3000
"""Host memory of a process that uses a GPU: CUDA's context and libraries. An allowance, not
measured: no GPU was at hand."""

ACTIVATION_COPIES = 1.4
"""Memory of a forward pass over that of its widest layer: 1.1-1.4 of it for `small` (256 channels,
200 bp) and `deepsea` (200 and 400 bp), for each thread."""

CAPTURE_MB = 130
"""What the local engine adds once: ``torch.export`` and what it leaves behind (`small`, 100 bp, two
threads: 584-606 MB, and 459-476 MB with the straight loop)."""

LOCAL_BLOCK_MB = 134
"""Deltas of a block, for each thread: an upper bound. With the references it is 136-326 MB for
`small` (100 bp) to `deepsea` (1000 bp), where `deepmr.mutagenesis.local.sizes` takes 24-249."""

LOCAL_REFERENCES = 150
"""Numbers of the reference that a thread holds over those of the widest layer: 25 draws, three
forms of each, and about as many again in all other layers."""

BYTES_A_STORED_VALUE = 20
"""Of a row group of effects in the making (1000 bp, 100 draws, 4 targets: 179 MB for 9.6 million
values, 318 MB for 16.8 million): float32 draws, float16 draws, Arrow table and Parquet buffers."""

BYTES_AN_INSTRUMENT_DRAW = 90
"""Of a block of 64 sequences of MR, for each question, instrument and draw (rule `all`: 123 MB more
than with motifs, for 1.4 million)."""

BYTES_A_CONDITIONAL_VALUE = 10
"""Of the same block, for each question whose outcome has several exposures, and each instrument,
draw and target of it, the outcome among them (3000 instruments, 100 draws, two and three exposures:
9.5 and 9.3)."""

DECOY_BASE_MB = 305
"""What `estimate_decoys` takes with two sequences: that of MR, a row group being decoded, and a
group of sequences in work (200 bp: 252 MB, 1000 bp: 346 MB)."""

BYTES_A_DECOY_INSTRUMENT_DRAW = 9.5
"""Of the decoys, for each sequence of an exposure (300 sequences more with 600 instruments and 100
draws: 167 MB)."""

BYTES_A_DECOY_OUTCOME_DRAW = 12
"""The same of a block of 64 sequences, for each pair of the exposure (3000 instruments, 100 draws:
216 MB)."""

MR_COPIES = 3.6
"""Memory of `estimate_mr` and `gather_mr` over that of their rows in Arrow: 1.2 million rows of
gather_mr took 2.8-3.4 times theirs, beside 200 MB."""

SECONDS_A_READ_VALUE = 4e-8
"""Of MR, for each effect of a draw on a target that is read (1.3 ms for 24,000)."""

SECONDS_A_DECODED_VALUE = 1.2e-8
"""Of the decoys, for each value of a row group that holds a sequence they take (1.0 s for 90
million)."""

SECONDS_A_GATHERED_ROW = 1e-5
"""Of gather_mr (1.2 million rows: 5.8 s)."""

START_SECONDS = 10.0
"""Before the first sequence: Snakemake, imports, the model (5 CPU seconds, more on a cold disk)."""

UNMEASURED_MINUTES = 240
"""What mutagenesis asks as long as ``sharding.seconds_per_sequence`` is null."""

LEAST_MINUTES = 10
MEMORY_SAFETY = 1.5
TIME_SAFETY = 2.0

_MB = 1e6
_ROW_GROUP_VALUES = 2**24
_MR_BLOCK = 64
_MR_ROW_BYTES = 410
"""Of a row of ``mr.parquet`` in memory, without the draws (twice a float32 for each)."""
_JUDGED_BYTES = 14
"""Of an instrument that a row holds a probability for: position, base and number."""


class Request:
    """What the jobs of a run ask for: a method for each resource of a rule.

    Each method can stand in a rule as it is, ``mem_mb=request.mutagenesis_memory``. Memory is in
    MB, time in minutes. The numbers are worked out once, here, so that a method costs nothing when
    thousands of jobs call it. `train_model` and `predict_windows` are not among them: the number of
    windows, on which they depend, is not in the configuration.

    Parameters
    ----------
    config : mapping
        A configuration, defaults filled in.
    shards : int
        Number of mutagenesis shards.

    Attributes
    ----------
    content : Content
        What the largest shard holds.
    """

    def __init__(self, config: Config, shards: int) -> None:
        self.content = Content.of(config, shards)
        seconds = config["sharding"]["seconds_per_sequence"]
        self._mutagenesis_memory = _asked_mb(
            max(mutagenesis_cpu_mb(self.content), mutagenesis_gpu_mb(self.content))
        )
        self._mutagenesis_minutes = (
            UNMEASURED_MINUTES
            if seconds is None
            else _asked_minutes(seconds * self.content.sequences)
        )
        self._estimate_mr_memory = _asked_mb(estimate_mr_mb(self.content))
        self._estimate_mr_minutes = _asked_minutes(estimate_mr_seconds(self.content))
        self._estimate_decoys_memory = _asked_mb(estimate_decoys_mb(self.content))
        self._estimate_decoys_minutes = _asked_minutes(estimate_decoys_seconds(self.content))
        self._gather_mr_memory = _asked_mb(gather_mr_mb(self.content))
        self._gather_mr_minutes = _asked_minutes(
            SECONDS_A_GATHERED_ROW
            * mr_rows(self.content, self.content.all_sequences)
            * self.content.models
        )

    def mutagenesis_memory(self, wildcards: Any, attempt: int) -> int:
        """Return the memory of a mutagenesis shard: that of a GPU job or of 8 threads."""
        return self._mutagenesis_memory * attempt

    def mutagenesis_minutes(self, wildcards: Any, attempt: int) -> int:
        """Return the time of a mutagenesis shard, from ``sharding.seconds_per_sequence``."""
        return self._mutagenesis_minutes * attempt

    def estimate_mr_memory(self, wildcards: Any, attempt: int) -> int:
        """Return the memory of an MR job."""
        return self._estimate_mr_memory * attempt

    def estimate_mr_minutes(self, wildcards: Any, attempt: int) -> int:
        """Return the time of an MR job."""
        return self._estimate_mr_minutes * attempt

    def estimate_decoys_memory(self, wildcards: Any, attempt: int) -> int:
        """Return the memory of the decoys of a model."""
        return self._estimate_decoys_memory * attempt

    def estimate_decoys_minutes(self, wildcards: Any, attempt: int) -> int:
        """Return the time of the decoys of a model."""
        return self._estimate_decoys_minutes * attempt

    def gather_mr_memory(self, wildcards: Any, attempt: int) -> int:
        """Return the memory of gathering the MR jobs of all models."""
        return self._gather_mr_memory * attempt

    def gather_mr_minutes(self, wildcards: Any, attempt: int) -> int:
        """Return the time of gathering."""
        return self._gather_mr_minutes * attempt


def mutagenesis_cpu_mb(content: Content, threads: int = MUTAGENESIS_THREADS) -> float:
    """Return the memory in MB, without a margin, of a mutagenesis script without a GPU."""
    masks = 4 * content.draws * content.activations
    passes = 4 * content.rows * content.activations * ACTIVATION_COPIES * threads / _MB
    one_sequence = LOCAL_BLOCK_MB + 4 * LOCAL_REFERENCES * content.activations / _MB
    local = CAPTURE_MB + min(content.engine_mb, one_sequence * threads)
    work = {"naive": passes, "local": local, "auto": max(passes, local)}[content.engine]
    waiting = 4 * _values(content) * 2 * threads
    return _mutagenesis_host_mb(content) + work + (masks + waiting) / _MB


def mutagenesis_gpu_mb(content: Content) -> float:
    """Return the host memory in MB, without a margin, of a mutagenesis script on a GPU."""
    return _mutagenesis_host_mb(content) + GPU_MB


def _mutagenesis_host_mb(content: Content) -> float:
    one = _values(content)
    stored = BYTES_A_STORED_VALUE * max(one, min(one * content.sequences, _ROW_GROUP_VALUES))
    # The weights stand in memory twice: as read, and in the network.
    return MUTAGENESIS_BASE_MB + 2 * content.member_mb + (stored + _sequences_bytes(content)) / _MB


def estimate_mr_mb(content: Content) -> float:
    """Return the memory of the script of an MR job in MB, without a margin."""
    block = min(_MR_BLOCK, content.mr_sequences) * content.questions_a_sequence
    instruments = block * content.instruments * content.draws * BYTES_AN_INSTRUMENT_DRAW
    instruments += (
        min(_MR_BLOCK, content.mr_sequences) * _conditional_values(content)
    ) * BYTES_A_CONDITIONAL_VALUE
    rows = mr_rows(content, content.mr_sequences) * mr_row_bytes(content) * MR_COPIES
    references = content.mr_sequences * content.targets * (4 * content.draws + content.length) * 2
    one = 8 * _values(content)
    return MR_BASE_MB + (instruments + rows + references + one + _sequences_bytes(content)) / _MB


def gather_mr_mb(content: Content) -> float:
    """Return the memory of the script of gather_mr in MB, without a margin."""
    rows = mr_rows(content, content.all_sequences) * content.models
    return MR_BASE_MB + rows * mr_row_bytes(content) * MR_COPIES / _MB


def estimate_decoys_mb(content: Content) -> float:
    """Return the memory of the script of estimate_decoys in MB, without a margin."""
    one = content.decoy_instruments * content.draws
    held = content.decoy_sequences * one * BYTES_A_DECOY_INSTRUMENT_DRAW
    block = min(_MR_BLOCK, content.decoy_sequences) * _pairs(content)
    rows = decoy_rows(content) * mr_row_bytes(content) * MR_COPIES
    work = block * one * BYTES_A_DECOY_OUTCOME_DRAW
    return DECOY_BASE_MB + (held + work + rows + _sequences_bytes(content)) / _MB


def estimate_decoys_seconds(content: Content) -> float:
    """Return the time of estimate_decoys in seconds, without a margin, its start left out.

    Each exposure and each outcome is read in turn, in row groups: at most those of all sequences.
    """
    of_target = 3 * content.length * content.draws
    group = max(of_target, _ROW_GROUP_VALUES / content.targets)
    decoded = min(content.all_sequences * of_target, content.decoy_sequences * group)
    passes = content.exposures + _pairs(content)
    methods = sum(
        method_seconds(name, content.decoy_instruments * content.draws) for name in content.methods
    )
    asked = content.decoy_sequences * _pairs(content)
    return passes * decoded * SECONDS_A_DECODED_VALUE + asked * (
        methods + of_target * SECONDS_A_READ_VALUE
    )


def decoy_rows(content: Content) -> int:
    """Return the rows of the decoys of a model."""
    return content.decoy_sequences * _pairs(content) * len(content.methods)


def estimate_mr_seconds(content: Content) -> float:
    """Return the time of an MR job in seconds, without a margin, its start left out."""
    one = content.questions_a_sequence * sum(
        method_seconds(name, content.instruments * content.draws) for name in content.methods
    )
    values = content.conditional_instruments * content.draws * content.conditional_exposures
    one += content.conditional_questions_a_sequence * sum(
        conditional_seconds(name, values) for name in content.conditional_methods
    )
    read = _values(content) * SECONDS_A_READ_VALUE
    return content.mr_sequences * (one + read)


def mr_rows(content: Content, sequences: int) -> float:
    """Return the rows of the MR table of so many sequences."""
    conditional = content.conditional_questions_a_sequence * len(content.conditional_methods)
    return sequences * (content.questions_a_sequence * len(content.methods) + conditional)


def mr_row_bytes(content: Content) -> int:
    """Return the bytes of a row of the MR table in memory."""
    judged = judged_instruments(content.methods, content.instruments)
    return int(_MR_ROW_BYTES + 8 * content.draws + _JUDGED_BYTES * judged)


def _pairs(content: Content) -> int:
    return content.questions // 2


def _conditional_values(content: Content) -> float:
    """Return the effects that a sequence's conditional questions hold at once."""
    if not content.conditional_methods:
        return 0.0
    targets = content.conditional_exposures + 1
    each = content.conditional_instruments * content.draws * targets
    return content.conditional_questions_a_sequence * each


def _values(content: Content) -> int:
    """Return the effects of a sequence: each draw's of each mutation on each target."""
    return 3 * content.length * content.draws * content.targets


def _sequences_bytes(content: Content) -> int:
    """Return the bytes of the run's sequences in memory, which each job reads whole."""
    return content.all_sequences * (content.length + 150) * 2


def _asked_mb(script: float) -> int:
    return 100 * math.ceil((SNAKEMAKE_MB + MEMORY_SAFETY * script) / 100)


def _asked_minutes(seconds: float) -> int:
    return max(LEAST_MINUTES, math.ceil(TIME_SAFETY * (START_SECONDS + seconds) / 60))
