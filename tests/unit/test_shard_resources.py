from __future__ import annotations

import copy
import inspect
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from deepmr import config as configuration
from deepmr.models import architectures
from deepmr.mr.conditional import METHODS as METHODS_OF_SEVERAL
from deepmr.mr.registry import ESTIMATORS
from deepmr.shards import content, method_cost, resources
from deepmr.shards.membership import shard_of

ROOT = Path(__file__).parents[2]
METHODS = [
    name for name, _ in inspect.getmembers(resources.Request, inspect.isfunction) if name[0] != "_"
]


@cache
def shipped() -> dict:
    return configuration.load(ROOT / "config" / "config.yaml")


def config(**changes: object) -> dict:
    """The shipped configuration, with keys such as ``sampling__bound`` changed."""
    changed = copy.deepcopy(shipped())
    for key, value in changes.items():
        section, _, name = key.partition("__")
        changed[section][name] = value
    return changed


def asked(shards: int = 4, attempt: int = 1, **changes: object) -> dict[str, int]:
    request = resources.Request(config(**changes), shards)
    return {name: getattr(request, name)(None, attempt) for name in METHODS}


def test_one_method_for_each_resource_as_snakemake_calls_it():
    request = resources.Request(shipped(), 4)
    for name in METHODS:
        assert list(inspect.signature(getattr(request, name)).parameters) == [
            "wildcards",
            "attempt",
        ]


@given(st.integers(1, 5), st.integers(1, 5000))
def test_asks_grow_with_attempt(attempt, shards):
    first, later = asked(shards), asked(shards, attempt)
    assert later == {name: attempt * value for name, value in first.items()}
    assert all(value > 0 and isinstance(value, int) for value in first.values())


@given(
    st.sampled_from(
        [
            ("sampling__bound", st.integers(0, 10**6)),
            ("sampling__unbound", st.integers(1, 10**6)),
            ("uncertainty__draws", st.integers(2, 1000)),
            ("windows__length", st.integers(20, 5000)),
            ("sharding__seconds_per_sequence", st.floats(1e-3, 1e3)),
        ]
    ).flatmap(lambda one: st.tuples(st.just(one[0]), st.lists(one[1], min_size=2, max_size=2))),
    st.integers(1, 5000),
)
def test_asks_grow_with_content(change, shards):
    key, values = change
    small, large = (
        asked(shards, **{"sharding__seconds_per_sequence": 1.0, key: value})
        for value in sorted(values)
    )
    assert all(small[name] <= large[name] for name in METHODS)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_more_shards_never_ask_for_more(one, other):
    few, many = (
        asked(n, sampling__bound=10**5, sharding__seconds_per_sequence=1.0)
        for n in sorted((one, other))
    )
    assert all(many[name] <= few[name] for name in METHODS)


def test_time_comes_from_the_measured_seconds():
    assert asked()["mutagenesis_minutes"] == 240  # null: not measured
    assert asked(sharding__seconds_per_sequence=0.01)["mutagenesis_minutes"] == 10
    # 450 sequences of 60 s in one shard, and the start; doubled.
    assert asked(1, sharding__seconds_per_sequence=60.0)["mutagenesis_minutes"] == 901


def test_memory_is_asked_in_hundreds():
    assert all(value % 100 == 0 for name, value in asked().items() if name.endswith("memory"))


@pytest.mark.parametrize("shards", [1, 4, 50, 1000])
def test_largest_shard_is_as_large_as_hashing_makes_it(shards):
    sizes = [0] * shards
    for i in range(10_000):
        sizes[shard_of(f"chr1:{i}", shards) - 1] += 1
    assert max(sizes) <= content.largest(10_000, shards) * 1.2
    assert content.largest(10_000, shards) <= max(sizes) * 1.3


def test_content_counts_what_the_configuration_says():
    found = content.Content.of(shipped(), 1)
    assert (found.sequences, found.all_sequences) == (450, 450)
    assert (found.draws, found.targets, found.questions, found.models) == (40, 4, 6, 1)
    assert found.questions_a_sequence == 2
    # Three exposures of one outcome; 100 bp with three motifs, each with sites of 180 mutations.
    assert found.conditional_methods == ("mv_ivw", "mv_egger")
    assert (found.conditional_exposures, found.conditional_questions_a_sequence) == (3, 1)
    assert found.conditional_instruments == 300
    assert (found.decoy_sequences, found.decoy_instruments, found.exposures) == (150, 180, 3)
    assert content.Content.of(config(mr__decoy_sequences=20), 1).decoy_sequences == 20
    ensemble = config(uncertainty__method="ensemble")
    ensemble["models"]["cnn"]["members"] = 7
    assert content.Content.of(ensemble, 1).draws == 7


@pytest.mark.parametrize(
    ("rule", "maximum", "expected"),
    [
        ("auto", None, 180),
        ("motif", None, 180),
        ("all", None, 300),
        ("strength", None, 300),
        ("per_position", None, 100),
        ("all", 20, 20),
    ],
)
def test_instruments_by_rule(rule, maximum, expected):
    changed = config(instruments__rule=rule, instruments__maximum=maximum)
    assert content.Content.of(changed, 1).instruments == expected


def test_a_target_without_a_motif_may_use_every_mutation():
    changed = config()
    changed["targets"]["open"]["motif"] = None
    # In three of the six questions, those asked in reverse.
    assert content.Content.of(changed, 1).instruments == (180 + 300) / 2


OPTIONS = {
    "small": [{}, {"channels": [8, 64, 16], "pool": [2, 2, 1]}, {"n_layers": 1, "channels": 5}],
    "basset": [{}],
    "deepsea": [{}, {"channels": [16, 32, 64], "hidden": 10}],
}


def convolution_outputs(network: nn.Module, length: int) -> list[int]:
    widths: list[int] = []

    def record(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        widths.append(output[0].numel())

    for module in network.eval().modules():
        if isinstance(module, nn.Conv1d):
            module.register_forward_hook(record)
    with torch.inference_mode():
        network(torch.zeros(1, 4, length))
    return widths


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_widths_and_weights_are_those_of_the_network(name):
    length = 300
    for options in OPTIONS[name]:
        network = architectures.build(name, 4, length, **options)
        widths = convolution_outputs(network, length)
        model = {"architecture": name, "options": options, "code": None, "weights": None}
        found = content.activations(model, length)
        assert max(widths) <= found <= 1.3 * max(widths)
        changed = config(windows__length=length)
        changed["models"] = {"one": {**model, "members": 2}}
        actual = 2 * sum(p.numel() for p in network.parameters()) * 4e-6
        assert 0.8 * actual < content.Content.of(changed, 1).member_mb < 3 * actual + 0.1


def test_a_network_of_the_users_own_is_taken_to_be_wide(tmp_path):
    weights = tmp_path / "w.pt"
    changed = config()
    changed["models"]["cnn"] |= {"code": "net.py:make", "weights": str(weights)}
    missing = content.Content.of(changed, 1)
    assert (missing.member_mb, missing.activations) == (200, 32_000)
    weights.write_bytes(bytes(3_000_000))
    assert content.Content.of(changed, 1).member_mb == 3


def test_what_every_job_imports_is_light():
    heavy = {"numpy", "torch", "pyarrow", "yaml", "jsonschema"}
    code = f"import sys, deepmr.shards.resources; print({heavy!r} & set(sys.modules) or 'none')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "none"


def test_costly_estimators_ask_for_more():
    assert set(method_cost.SECONDS) == set(ESTIMATORS)
    assert set(method_cost.JUDGING) < set(ESTIMATORS)
    few = asked(sampling__bound=5000, sampling__unbound=5000, mr__methods=["ivw"])
    many = asked(sampling__bound=5000, sampling__unbound=5000, mr__methods=["ivw", "bayesian_mode"])
    assert many["estimate_mr_minutes"] > 10 * few["estimate_mr_minutes"]
    assert many["gather_mr_memory"] >= 2 * few["gather_mr_memory"]
    assert many["mutagenesis_memory"] == few["mutagenesis_memory"]


def test_conditional_effects_and_decoys_ask_for_more():
    assert set(method_cost.CONDITIONAL_SECONDS) == set(METHODS_OF_SEVERAL)
    large = {"sampling__bound": 10**6, "windows__length": 1000, "instruments__rule": "all"}
    none = asked(50, **large, mr__conditional=[])
    both = asked(50, **large, mr__conditional=["mv_ivw", "mv_egger"])
    for name in ("estimate_mr_minutes", "estimate_mr_memory", "gather_mr_memory"):
        assert both[name] > none[name]
    few, many = (asked(50, **large, mr__decoy_sequences=n) for n in (2, 2000))
    for name in METHODS:
        assert (many[name] > few[name]) == name.startswith("estimate_decoys"), name


def test_a_single_exposure_has_no_conditional_effects():
    changed = config()
    changed["pairs"] = {"only": changed["pairs"]["GATA1_open"]}
    found = content.Content.of(changed, 1)
    assert (found.conditional_exposures, found.conditional_questions_a_sequence) == (0, 0)
    assert resources.mr_rows(found, 10) == 10 * 2 * len(found.methods)
    # A chain: its middle is the outcome of both ends.
    changed["pairs"]["next"] = {"exposure": "open", "outcome": "NRF1"}
    found = content.Content.of(changed, 1)
    assert (found.conditional_exposures, found.conditional_questions_a_sequence) == (2, 1)
