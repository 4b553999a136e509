"""The simulated causal model, its truth, and the files it is written to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import expit, logit
from scipy.stats import norm

from deepmr.genome.alphabet import AMBIGUOUS, encode, reverse_complement
from deepmr.motifs import Motif, hit_positions, read_jaspar
from deepmr.simulate.example import SITE_PROBABILITY, example_structure
from deepmr.simulate.genome_files import (
    GenomeError,
    plant_sites,
    simulate_genome,
    truth_table,
    write_example,
    write_genome,
)
from deepmr.simulate.structure import Mark, Structure, StructureError
from deepmr.simulate.true_effects import marginal_slopes, saturation

MOTIFS = read_jaspar(Path(__file__).parents[2] / "config" / "motifs.jaspar")

CONSENSUS = {"ACGTTGCAAC": "X", "GGCTATTCGA": "Y", "CTTAGACCTG": "C"}


def _sharp(word: str, name: str) -> Motif:
    counts = np.full((4, len(word)), 1.0)
    counts[encode(word), np.arange(len(word))] = 97.0
    return Motif(name, name, counts)


TOY = {name: _sharp(word, name) for word, name in CONSENSUS.items()}
WORDS = {name: word for word, name in CONSENSUS.items()}


def _toy(scenario: str = "sequence", theta: float = 0.7, **options: float) -> Structure:
    marks = [
        Mark("y", "Y", -1.0, 3.0, confounder=1.0, causes={"x": theta}),
        Mark("x", "X", -2.0, 4.0, confounder=2.0),
    ]
    return Structure(marks, TOY, "C", scenario=scenario, midpoint_p_value=1e-4, **options)


def _random_codes(n: int, length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, (n, length), dtype=np.uint8)


def test_sites_move_the_marks_as_the_equations_say() -> None:
    structure = _toy()
    empty = "A" * 15
    codes = np.stack(
        [
            encode(text)
            for text in (
                empty * 3,
                empty + WORDS["X"] + "A" * 20,
                empty + WORDS["Y"] + "A" * 20,
                empty + WORDS["C"] + "A" * 20,
            )
        ]
    )
    codes = np.concatenate([codes, reverse_complement(codes)])
    logits = structure.logits(codes)
    values = structure.occupancies(codes)
    occupied = {name: values[name][row] for row, name in enumerate("XYC", 1)}
    assert min(occupied.values()) > 0.7
    x, y, c = (occupied[name] for name in "XYC")
    assert logits["x"][:4] == pytest.approx([-2, -2 + 4 * x, -2, -2 + 2 * c], abs=0.05)
    assert logits["y"] == pytest.approx(
        0.7 * logits["x"] + np.tile([-1, -1, -1 + 3 * y, -1 + c], 2), abs=0.05
    )
    for values in logits.values():
        assert values[:4] == pytest.approx(values[4:], abs=1e-12)


def test_scenarios_switch_the_confounders() -> None:
    codes = encode("A" * 15 + WORDS["C"] + "A" * 15)[None]
    assert _toy("none").logits(codes)["x"][0] == pytest.approx(-2, abs=0.05)
    assert _toy("sequence").logits(codes)["x"][0] > -1
    assert set(_toy("random").sites) == {"X", "Y"}
    assert set(_toy("both").sites) == {"X", "Y", "C"}
    assert _toy("sequence").noise_sd == 0
    assert _toy("random", noise_sd=0.5).noise_sd == 0.5


def test_causes_come_first_and_effects_multiply_along_paths() -> None:
    structure = example_structure(MOTIFS, theta=0.5, theta_reversed=0.8)
    assert structure.names.index("GATA1") < structure.names.index("open")
    effects = structure.total_effects()
    assert len(effects) == 12
    assert effects["GATA1", "open"] == 0.5
    assert effects["open", "JUND"] == 0.8
    assert effects["GATA1", "JUND"] == pytest.approx(0.4)
    assert effects["NRF1", "open"] == effects["JUND", "open"] == effects["open", "GATA1"] == 0
    assert structure.noise_loadings()["open"] == 1.5


def test_marginal_logit_matches_numerical_integration() -> None:
    structure = _toy("random", noise_sd=1.3)
    codes = _random_codes(4, 40, 1)
    loading = structure.noise_loadings()["y"]
    assert loading == pytest.approx(1.7)
    for z, marginal in zip(
        structure.logits(codes)["y"], structure.marginal_logits(codes)["y"], strict=True
    ):
        probability, _ = quad(
            lambda u, z=z: expit(z + loading * u) * norm.pdf(u, scale=1.3), -15, 15
        )
        assert marginal == pytest.approx(logit(probability), abs=1e-6)
        assert abs(marginal) < abs(z)


def test_labels_have_the_marginal_probability_and_follow_the_seed() -> None:
    structure = _toy("both", noise_sd=1.0)
    codes = np.repeat(_random_codes(1, 40, 2), 10_000, axis=0)
    labels = structure.sample_labels(codes, np.random.default_rng(3))
    again = structure.sample_labels(codes, np.random.default_rng(3))
    marginal = structure.marginal_logits(codes[:1])
    for name in structure.names:
        assert labels[name].mean() == pytest.approx(expit(marginal[name][0]), abs=0.02)
        assert np.array_equal(labels[name], again[name])
    # The shared noise correlates the labels of one sequence.
    assert np.corrcoef(labels["x"], labels["y"])[0, 1] > 0.1


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8))
def test_logits_do_not_depend_on_the_batch(seed: int, split: int) -> None:
    structure = _toy("both")
    codes = _random_codes(9, 40, seed)
    whole = structure.marginal_logits(codes)
    parts = [structure.marginal_logits(part) for part in (codes[:split], codes[split:])]
    for name in structure.names:
        assert np.array_equal(whole[name], np.concatenate([part[name] for part in parts]))


def _with_sites(motif: str, n: int = 30) -> np.ndarray:
    codes = _random_codes(n, 60, 4)
    codes[:, 20:30] = encode(WORDS[motif])
    return codes


def test_marginal_slope_is_theta_without_noise_and_below_with_it() -> None:
    codes = _with_sites("X")
    exact = marginal_slopes(_toy(), codes, "x", 1e-5)["y"]
    assert exact.n_mutations >= 900
    assert exact.slope == pytest.approx(0.7, abs=0.02)
    noisy = marginal_slopes(_toy("random", noise_sd=2.0), codes, "x", 1e-5)["y"]
    assert noisy.slope < 0.66
    assert 0 < noisy.se < 0.05
    reverse = marginal_slopes(_toy(), _with_sites("Y"), "y", 1e-5)["x"]
    assert abs(reverse.slope) < 0.02


def test_marginal_slope_matches_mutations_made_one_by_one() -> None:
    structure = _toy("both", noise_sd=1.0)
    codes = _with_sites("X", 2)
    hits = hit_positions(codes, TOY["X"], 1e-5)
    x, y = [], []
    for row in range(2):
        before = structure.marginal_logits(codes[[row]])
        for position in np.flatnonzero(hits[row]):
            for base in set(range(4)) - {int(codes[row, position])}:
                mutant = codes[[row]].copy()
                mutant[0, position] = base
                after = structure.marginal_logits(mutant)
                x.append(after["x"][0] - before["x"][0])
                y.append(after["y"][0] - before["y"][0])
    result = marginal_slopes(structure, codes, "x", 1e-5)["y"]
    assert result.n_mutations == len(x)
    assert result.slope == pytest.approx(np.dot(x, y) / np.dot(x, x), rel=1e-12)


def test_saturation_is_every_mutation_made_one_by_one() -> None:
    structure = _toy("both", noise_sd=1.0)
    codes = _with_sites("X", 2)
    codes[1, 3] = AMBIGUOUS
    found = saturation(structure, codes)
    assert found["y"].shape == (2, codes.shape[1], 3)
    assert np.isnan(found["y"][1, 3]).all()
    for row, position in ((0, 0), (0, 21), (1, codes.shape[1] - 1)):
        others = [base for base in range(4) if base != codes[row, position]]
        for place, base in enumerate(others):
            mutant = codes[[row]].copy()
            mutant[0, position] = base
            for mark in ("x", "y"):
                expected = (
                    structure.marginal_logits(mutant)[mark][0]
                    - structure.marginal_logits(codes[[row]])[mark][0]
                )
                assert found[mark][row, position, place] == pytest.approx(expected, abs=1e-12)


def test_marginal_slope_without_a_hit_is_nan() -> None:
    codes = np.zeros((3, 40), dtype=np.uint8)
    result = marginal_slopes(_toy(), codes, "x", 1e-5)["y"]
    assert result.n_mutations == 0
    assert np.isnan([result.slope, result.se]).all()
    single = marginal_slopes(_toy(), _with_sites("X", 1), "x", 1e-5)["y"]
    assert np.isfinite(single.slope)
    assert np.isnan(single.se)
    with pytest.raises(StructureError, match=r"no mark 'z'; there are: x, y"):
        marginal_slopes(_toy(), codes, "z")


@pytest.mark.parametrize(
    ("marks", "options", "message"),
    [
        ([], {}, r"needs marks of different names"),
        ([Mark("x", "X", 0, 1), Mark("x", "Y", 0, 1)], {}, r"different names, got: x, x"),
        ([Mark("x", "X", 0, 1, causes={"q": 1})], {}, r"x is caused by q, which is no mark"),
        (
            [Mark("x", "X", 0, 1, causes={"y": 1}), Mark("y", "Y", 0, 1, causes={"x": 1})],
            {},
            r"in a circle: x, y",
        ),
        ([Mark("x", "X", 0, 1)], {"scenario": "some"}, r"'some' is none of none, random"),
        ([Mark("x", "X", 0, 1)], {"temperature": 0}, r"temperature must be above 0"),
        ([Mark("x", "X", 0, 1)], {"noise_sd": -1}, r"noise_sd at least 0, got 1.5 and -1"),
        ([Mark("x", "Q", 0, 1)], {}, r"no motif with ID or name 'Q'"),
    ],
)
def test_structure_refuses_what_is_no_model(marks: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Structure(marks, TOY, "C", midpoint_p_value=1e-5, **{"temperature": 1.5, **options})


def test_planted_sites_are_whole_apart_and_drawn_from_the_matrix() -> None:
    motifs = list(TOY.values())
    codes = np.full((3000, 31), 4, dtype=np.uint8)
    plant_sites(codes, motifs, 0.6, np.random.default_rng(5))
    planted = (codes != 4).sum(axis=1)
    # Whole and never overlapping: 0, 1, 2 or 3 sites of 10 bp.
    assert set(planted.tolist()) == {0, 10, 20, 30}
    assert planted.mean() == pytest.approx(18, abs=0.5)
    alone = np.full((4000, 10), 4, dtype=np.uint8)
    plant_sites(alone, motifs[:1], 1.0, np.random.default_rng(6))
    word = encode(WORDS["X"])
    forward = (alone == word).mean(axis=1) > 0.6
    assert forward.mean() == pytest.approx(0.5, abs=0.03)
    sites = np.where(forward[:, None], alone, reverse_complement(alone))
    assert (sites == word).mean() == pytest.approx(0.97, abs=0.005)


def test_planted_sites_stand_anywhere() -> None:
    codes = np.full((2000, 14), 4, dtype=np.uint8)
    plant_sites(codes, [TOY["X"]], 1.0, np.random.default_rng(7))
    starts = np.bincount((codes != 4).argmax(axis=1), minlength=5)
    assert starts.size == 5
    assert starts.min() > 320


@pytest.mark.parametrize(
    ("chromosomes", "length", "probability", "message"),
    [
        ({"c": 5}, 29, 0.5, r"windows of 29 bp cannot hold one site of each motif \(30 bp"),
        ({"c": 5}, 40, 1.5, r"site_probability must be in \[0, 1\], got 1.5"),
        ({}, 40, 0.5, r"every chromosome needs at least one window, got {}"),
        ({"c": 0}, 40, 0.5, r"every chromosome needs at least one window, got {'c': 0}"),
    ],
)
def test_simulate_genome_refuses_impossible_numbers(
    chromosomes: dict[str, int], length: int, probability: float, message: str
) -> None:
    with pytest.raises(GenomeError, match=message):
        simulate_genome(_toy(), chromosomes, length, probability, seed=1)


def _write(folder: Path, seed: int = 1, **changes: object) -> object:
    arguments: dict = {
        "fasta": folder / "genome.fa",
        "peaks": {"x": folder / "peaks" / "x.bed", "y": folder / "peaks" / "y.bed"},
        "truth": folder / "truth.parquet",
        "chromosomes": {"chrA": 40, "chrB": 25},
        "length": 50,
        "bin_size": 20,
        "site_probability": 0.5,
        "seed": seed,
        "motif_p_value": 1e-5,
    }
    return write_genome(_toy(), **(arguments | changes))


def test_files_give_the_simulated_windows_and_labels_back(tmp_path: Path) -> None:
    genome = _write(tmp_path)
    records = (tmp_path / "genome.fa").read_text().split(">")[1:]
    for record, (name, windows) in zip(records, genome.chromosomes.items(), strict=True):
        header, *lines = record.split("\n")
        assert header == name
        assert np.array_equal(encode("".join(lines)), windows.reshape(-1))
    for mark in ("x", "y"):
        covered = {name: np.zeros(w.size) for name, w in genome.chromosomes.items()}
        for line in (tmp_path / "peaks" / f"{mark}.bed").read_text().splitlines():
            chromosome, start, end = line.split("\t")
            covered[chromosome][int(start) : int(end)] += 1
        for name, values in covered.items():
            centres = values.reshape(-1, 50)[:, 15:35].mean(axis=1)
            assert np.array_equal(centres, genome.labels[name][mark])
            assert values.sum() == 20 * genome.labels[name][mark].sum()
    assert {path.name for path in tmp_path.iterdir()} == {"genome.fa", "peaks", "truth.parquet"}


def test_truth_holds_every_ordered_pair(tmp_path: Path) -> None:
    genome = _write(tmp_path, metadata={"seed": 1})
    rows = pq.read_table(tmp_path / "truth.parquet").to_pylist()
    truth = {(row["exposure"], row["outcome"]): row for row in rows}
    assert set(truth) == {("x", "y"), ("y", "x")}
    assert truth["x", "y"]["theta"] == 0.7
    assert truth["y", "x"]["theta"] == 0
    assert truth["x", "y"]["marginal_slope"] == pytest.approx(0.7, abs=0.05)
    codes = np.concatenate(list(genome.chromosomes.values()))
    assert truth_table(_toy(), codes, 1e-5).to_pylist() == rows


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / folder).mkdir()
        _write(tmp_path / folder, seed)
    for name in ("genome.fa", "peaks/x.bed", "peaks/y.bed", "truth.parquet"):
        first, same, other = ((tmp_path / f / name).read_bytes() for f in "abc")
        assert first == same
        assert first != other


def test_write_genome_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(GenomeError, match=r"given for x, but the simulated marks are x, y"):
        _write(tmp_path, peaks={"x": tmp_path / "x.bed"})
    with pytest.raises(GenomeError, match=r"the bin must be 1 to 50 bp, .* got 51"):
        _write(tmp_path, bin_size=51)


@pytest.mark.parametrize(("scenario", "confounded"), [("none", False), ("sequence", True)])
def test_the_example_has_balanced_marks_and_a_confounder(scenario: str, confounded: bool) -> None:
    structure = example_structure(MOTIFS, scenario=scenario)
    genome = simulate_genome(structure, {"chr1": 5000}, 100, SITE_PROBABILITY, seed=1)
    for mark, positive in genome.labels["chr1"].items():
        assert 0.2 < positive.mean() < 0.7, mark
    # NRF1 does not act on open, yet the confounder makes them go together.
    logits = structure.logits(genome.chromosomes["chr1"])
    correlation = np.corrcoef(logits["NRF1"], logits["open"])[0, 1]
    assert (correlation > 0.035) == confounded


def test_write_example_writes_its_marks_and_their_truth(tmp_path: Path) -> None:
    names = ("GATA1", "NRF1", "open", "JUND")
    genome = write_example(
        MOTIFS,
        fasta=tmp_path / "genome.fa",
        peaks={name: tmp_path / f"{name}.bed" for name in names},
        truth=tmp_path / "truth.parquet",
        length=100,
        bin_size=50,
        seed=1,
        theta=0.5,
        windows_per_chromosome=50,
    )
    assert list(genome.chromosomes) == [f"chr{number}" for number in range(1, 9)]
    rows = pq.read_table(tmp_path / "truth.parquet").to_pylist()
    truth = {(row["exposure"], row["outcome"]): row for row in rows}
    assert len(truth) == 12
    assert truth["GATA1", "open"]["theta"] == 0.5
    # The motifs are distinct enough for every slope to be its theta (no noise in this scenario).
    for (exposure, outcome), row in truth.items():
        assert row["marginal_slope"] == pytest.approx(row["theta"], abs=0.1), (exposure, outcome)
