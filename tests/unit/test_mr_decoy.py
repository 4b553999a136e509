"""Decoys: partners, matched mutations, and an effect that is not there."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr import mr, schemas
from deepmr.effects import on_scale
from deepmr.meta.drawwise import draw_wise
from deepmr.mr import stored_effects
from deepmr.mr.decoy import estimate_decoys, table_rows
from deepmr.mr.decoy_partners import overlap, partners
from deepmr.mr.estimator import Options
from deepmr.mr.questions import Pair, Settings
from deepmr.mr.shard import estimate_shard
from deepmr.mr.stored_effects import Mutations
from deepmr.shards.membership import shard_of
from tests.unit import test_mr_shard as toy

LENGTH, N_DRAWS, N = toy.LENGTH, toy.N_DRAWS, 16
PAIRS = (Pair("TF_open", "TF", "open"),)
SETTINGS = Settings(methods=("ivw",), minimum=5, rule="all", options=Options(seed=3))


# Partners.


def windows(n, spacing=100, width=50, chroms=1):
    return pa.table(
        {
            "sequence_id": [f"s{i}" for i in range(n)],
            "chrom": [f"chr{i % chroms}" for i in range(n)],
            "start": [spacing * i for i in range(n)],
            "end": [spacing * i + width for i in range(n)],
        }
    )


@given(
    st.integers(2, 40),
    st.integers(2, 50),
    st.integers(0, 2**31),
    st.randoms(use_true_random=False),
    st.sampled_from([10, 30, 100]),
)
@settings(max_examples=50, deadline=None)
def test_partners_are_a_cycle_whatever_the_order(n, count, seed, random, spacing):
    table = windows(n, spacing)
    found = partners(table, "TF", seed, count)
    taken = min(n, count)
    assert len(found) == taken
    assert sorted(found) == sorted(found.values())
    assert all(name != partner for name, partner in found.items())
    # One cycle, not several.
    name, seen = next(iter(found)), set()
    while name not in seen:
        seen.add(name)
        name = found[name]
    assert len(seen) == taken
    order = list(range(n))
    random.shuffle(order)
    again = partners(table.take(order), "TF", seed, count)
    assert list(again.items()) == list(found.items())


def test_partners_depend_on_seed_and_exposure():
    table = windows(30)
    kinds = [partners(table, e, s, 10) for e in ("TF", "GATA1") for s in (1, 2)]
    assert len({tuple(k) for k in kinds}) == 4


def test_more_sequences_keep_those_taken_before():
    table = windows(30)
    assert set(partners(table, "TF", 1, 10)) < set(partners(table, "TF", 1, 20))


@pytest.mark.parametrize("seed", range(20))
def test_partners_do_not_overlap_where_they_need_not(seed):
    # Every window overlaps the next four, and those before.
    table = windows(24, spacing=10)
    place = {
        row["sequence_id"]: (row["chrom"], row["start"], row["end"]) for row in table.to_pylist()
    }
    assert not any(
        overlap(place[name], place[partner])
        for name, partner in partners(table, "TF", seed, 24).items()
    )


@pytest.mark.parametrize("seed", [2, 7, 8, 12, 16, 21, 22, 25])
def test_either_of_two_overlapping_neighbours_may_move(seed):
    # Cycles without an overlap that no exchange of the second one alone finds.
    place = {
        row["sequence_id"]: (row["chrom"], row["start"], row["end"])
        for row in windows(7, spacing=20).to_pylist()
    }
    found = partners(windows(7, spacing=20), "TF", seed, 7)
    assert not any(overlap(place[name], place[partner]) for name, partner in found.items())


def test_overlapping_partners_are_better_than_none():
    table = windows(3, spacing=10)
    assert len(partners(table, "TF", 1, 3)) == 3


def test_overlap_is_half_open_and_needs_a_genome():
    assert overlap(("a", 0, 10), ("a", 9, 20))
    assert overlap(("a", 9, 20), ("a", 0, 10))
    assert not overlap(("a", 0, 10), ("a", 10, 20))
    assert not overlap(("a", 0, 10), ("b", 0, 10))
    assert not overlap((None, None, None), (None, None, None))


def test_partners_need_two():
    assert partners(windows(1), "TF", 1, 5) == {}
    assert partners(windows(0), "TF", 1, 5) == {}
    with pytest.raises(ValueError, match="decoy_sequences must be 2 or more; found 1"):
        partners(windows(5), "TF", 1, 1)
    with pytest.raises(ValueError, match="a sequence stands twice"):
        partners(pa.concat_tables([windows(3), windows(3)]), "TF", 1, 3)


# Matched mutations.


def mutations(letters, skip=()):
    triples = [(p, a) for p, r in enumerate(letters) for a in "ACGT" if a != r and p not in skip]
    positions, alleles = zip(*triples, strict=True)
    nothing = np.zeros((len(positions), 2))
    return Mutations(
        "s",
        np.array(positions, dtype=np.int32),
        np.array(alleles, dtype=object),
        {"TF": nothing},
        {"TF": nothing[:, 0]},
    )


@given(st.text("ACGT", min_size=1, max_size=30), st.data())
@settings(max_examples=30, deadline=None)
def test_rows_are_position_and_rank(letters, data):
    whole = mutations(letters)
    np.testing.assert_array_equal(table_rows(whole), np.arange(3 * len(letters)))
    order = np.array(data.draw(st.permutations(range(3 * len(letters)))))
    shuffled = replace(whole, positions=whole.positions[order], alleles=whole.alleles[order])
    np.testing.assert_array_equal(table_rows(shuffled), order)


def test_a_position_that_is_not_mutated_moves_no_other():
    np.testing.assert_array_equal(table_rows(mutations("ACG", skip=(1,))), [0, 1, 2, 6, 7, 8])


# Estimates.


def sequence_table(n=N, strata=None):
    rng = np.random.default_rng(5)
    letters = ["".join(rng.choice(list("ACGT"), LENGTH)) for _ in range(n)]
    letters = [toy.SITE + one[len(toy.SITE) :] if i % 3 else one for i, one in enumerate(letters)]
    return pa.table(
        {
            "sequence_id": [f"chr1:{i}" for i in range(n)],
            "chrom": ["chr1"] * n,
            "start": [100 * i for i in range(n)],
            "end": [100 * i + LENGTH for i in range(n)],
            "strand": ["."] * n,
            "sequence": letters,
            "stratum.TF": strata or (["bound", "unbound"] * n)[:n],
        },
        schema=schemas.sequences_schema(["TF"]),
    )


def column_by_id(name):
    table = sequence_table()
    return dict(zip(table["sequence_id"].to_pylist(), table[name].to_pylist(), strict=True))


def logits(i):
    """The outcome's effects are those on the exposure, and both have a shared error."""
    rng = np.random.default_rng([7, i])
    x = rng.normal(size=(3 * LENGTH, 1))
    shared = 0.1 * rng.normal(size=(3 * LENGTH, N_DRAWS))
    own = 0.02 * rng.normal(size=(3, 3 * LENGTH, N_DRAWS))
    delta = own + x + shared
    return rng.normal(size=(3, N_DRAWS)).astype(np.float32), delta.astype(np.float16)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Write the effects in so many shards; return their tables."""
    monkeypatch.setattr(toy, "sequence_table", lambda: sequence_table())
    monkeypatch.setattr(toy, "logits", logits)

    def write(shards=1, ids=range(N), row_group=50, **options):
        members = {
            shard: [i for i in ids if shard_of(f"chr1:{i}", shards) == shard]
            for shard in range(1, shards + 1)
        }
        files = [
            toy.write(tmp_path, rows, f"{shard}-of-{shards}", row_group=row_group, **options)
            for shard, rows in members.items()
        ]
        return [effects for effects, _ in files], [references for _, references in files]

    return write


def decoys(files, sequences=None, pairs=PAIRS, motifs=None, settings=SETTINGS, count=200):
    sequences = sequence_table() if sequences is None else sequences
    return estimate_decoys("cnn", sequences, *files, pairs, motifs or {}, settings, count)


def test_decoys_find_nothing_where_sequences_have_an_effect_of_one(stored):
    files = stored()
    real = estimate_shard("cnn", sequence_table(), *files, PAIRS, {}, SETTINGS).to_pandas()
    real = real[real["direction"] == "forward"]
    frame = decoys(files).to_pandas()
    assert set(frame["direction"]) == {"decoy"}
    assert set(frame["status"]) == set(real["status"]) == {"ok"}
    slopes = []
    for table in (real, frame):
        draws, se = (np.stack(table[c].to_list()).T for c in ("draws", "draws_se"))
        slopes.append(draw_wise(draws, se**2))
    assert abs(slopes[0].estimate - 1) < 0.05
    assert abs(slopes[1].estimate) < 0.1
    assert slopes[1].ci_low < 0 < slopes[1].ci_high


def test_a_row_is_the_outcome_of_one_and_the_exposure_of_its_partner(stored):
    table = decoys(stored())
    assert table.schema.equals(schemas.MR)
    expected = partners(sequence_table(), "TF", 3, 200)
    rows = table.to_pylist()
    assert {row["sequence_id"]: row["partner"] for row in rows} == expected
    assert [row["sequence_id"] for row in rows] == list(expected)
    strata = column_by_id("stratum.TF")
    for row in rows[:4]:
        (_, y), (_, x) = (logits(int(row[c].split(":")[1])) for c in ("sequence_id", "partner"))
        a, b = on_scale(np.zeros(N_DRAWS), x[0]), on_scale(np.zeros(N_DRAWS), y[1])
        direct = mr.estimate(
            a.point, a.se, b.point, b.se, ("ivw",), draws_x=a.draws, draws_y=b.draws
        ).iloc[0]
        for column in ("estimate", "se", "se_within", "estimate_diagonal", "mean_f", "q"):
            assert row[column] == direct[column], column
        assert row["stratum"] == strata[row["sequence_id"]]
        assert (row["pair"], row["exposure"], row["outcome"]) == ("TF_open", "TF", "open")
        assert (row["model"], row["instrument_rule"]) == ("cnn", "all")


def test_instruments_are_those_of_the_partners_motif(stored):
    found = decoys(stored(), motifs=toy.MOTIFS, settings=replace(SETTINGS, rule="auto"))
    letters = column_by_id("sequence")
    statuses = set()
    for row in found.to_pylist():
        hit = letters[row["partner"]].startswith(toy.SITE)
        assert row["instrument_rule"] == "motif"
        assert (row["status"], row["n_instruments"]) == (
            ("ok", 3 * len(toy.SITE)) if hit else ("no_motif_hit", 0)
        )
        assert (row["estimate"] is not None) == hit
        statuses.add(row["status"])
    assert statuses == {"ok", "no_motif_hit"}


def test_shards_row_groups_blocks_and_order_do_not_matter(stored, monkeypatch):
    methods = replace(SETTINGS, methods=("egger", "weighted_median", "ivw"))
    whole = decoys(stored(), settings=methods, count=9)
    assert whole.num_rows == 27
    for shards in (2, 5, 40):
        assert decoys(stored(shards), settings=methods, count=9).equals(whole)
    monkeypatch.setattr("deepmr.mr.stored_effects._BATCH_ROWS", 11)
    monkeypatch.setattr("deepmr.mr.decoy._BLOCK", 2)
    shuffled = sequence_table().take(np.random.default_rng(1).permutation(N))
    files = stored(3, ids=list(reversed(range(N))), row_group=7)
    assert decoys(files, shuffled, settings=methods, count=9).equals(whole)


def test_only_what_is_needed_is_read(stored, monkeypatch):
    effects, references = stored(40, row_group=3 * LENGTH)
    expected = partners(sequence_table(), "TF", 3, 2)
    needed = {shard_of(name, 40) - 1 for name in expected}
    # Tables of other shards are not even there.
    for paths in (effects, references):
        for shard, path in enumerate(paths):
            if shard not in needed:
                path.unlink()
    yielded = []
    original = stored_effects._block

    def block(pieces, targets):
        yielded.append((pieces[0]["sequence_id"][0].as_py(), tuple(targets)))
        return original(pieces, targets)

    monkeypatch.setattr(stored_effects, "_block", block)
    assert decoys((effects, references), count=2).num_rows == 2
    assert sorted(yielded) == sorted(
        (name, (target,)) for name in expected for target in ("TF", "open")
    )


def test_pairs_of_an_exposure_share_its_partners(stored):
    pairs = [PAIRS[0], Pair("TF_unused", "TF", "unused")]
    frame = decoys(stored(2), pairs=pairs, count=6).to_pandas()
    assert frame["pair"].tolist() == ["TF_open"] * 6 + ["TF_unused"] * 6
    assert frame["partner"].tolist()[:6] == frame["partner"].tolist()[6:]
    alone = decoys(stored(2), pairs=pairs[1:], count=6).to_pandas()
    assert alone["estimate"].tolist() == frame["estimate"].tolist()[6:]


def test_every_exposure_has_partners_of_its_own(stored):
    both = sequence_table().append_column("stratum.open", pa.array(["bound"] * N))
    pairs = [PAIRS[0], Pair("open_TF", "open", "TF")]
    frame = decoys(stored(), both, pairs).to_pandas()
    by_pair = frame.set_index(["pair", "sequence_id"])["partner"]
    assert frame["pair"].tolist() == ["TF_open"] * N + ["open_TF"] * N
    assert by_pair["TF_open"].to_dict() == partners(both, "TF", 3, 200)
    assert by_pair["open_TF"].to_dict() == partners(both, "open", 3, 200)


def test_fewer_than_two_sequences_have_no_partner(stored):
    only = sequence_table(strata=["bound"] + [None] * (N - 1))
    methods = replace(SETTINGS, methods=("egger", "ivw"))
    rows = decoys(stored(2), only, settings=methods).to_pylist()
    assert [row["method"] for row in rows] == ["egger", "ivw"]
    for row in rows:
        assert (row["sequence_id"], row["stratum"]) == ("chr1:0", "bound")
        assert (row["status"], row["partner"], row["estimate"]) == ("no_partner", None, None)
    nobody = decoys(stored(), sequence_table(strata=[None] * N))
    assert nobody.num_rows == 0
    assert nobody.schema.equals(schemas.MR)


def test_missing_effects_lose_two_rows(stored):
    expected = partners(sequence_table(), "TF", 3, 200)
    (before,) = (name for name, partner in expected.items() if partner == "chr1:4")
    frame = decoys(stored(skip=(4,))).to_pandas().set_index("sequence_id")
    lost = frame[frame["status"] != "ok"]
    assert set(lost.index) == {"chr1:4", before}
    assert set(lost["status"]) == {"no_effects"}


def test_a_mutation_that_the_other_lacks_is_dropped(stored, monkeypatch):
    whole = decoys(stored()).to_pandas().set_index("sequence_id")
    original = stored_effects._block

    def without_position_3(pieces, targets):
        one = original(pieces, targets)
        if one.sequence_id != "chr1:4":
            return one
        keep = one.positions != 3
        return Mutations(
            one.sequence_id,
            one.positions[keep],
            one.alleles[keep],
            {t: v[keep] for t, v in one.draws.items()},
            {t: v[keep] for t, v in one.evaluated.items()},
        )

    monkeypatch.setattr(stored_effects, "_block", without_position_3)
    frame = decoys(stored()).to_pandas().set_index("sequence_id")
    before = frame.index[frame["partner"] == "chr1:4"][0]
    # As an outcome it lacks three of its partner's rows; as an exposure it has fewer instruments.
    assert (frame.loc["chr1:4", "n_instruments"], frame.loc["chr1:4", "n_dropped"]) == (57, 3)
    assert (frame.loc[before, "n_instruments"], frame.loc[before, "n_dropped"]) == (57, 0)
    others = frame.index.difference(["chr1:4", before])
    assert frame.loc[others, "estimate"].equals(whole.loc[others, "estimate"])
    assert frame.loc["chr1:4", "estimate"] == pytest.approx(
        whole.loc["chr1:4", "estimate"], abs=0.2
    )


def test_halves_use_the_same_draws_of_both(stored):
    halves = replace(SETTINGS, rule="strength_halves")
    frame = decoys(stored(), settings=halves).to_pandas()
    assert frame["draws"].map(len).eq(N_DRAWS // 2).all()


def test_one_draw_is_too_few(stored, monkeypatch):
    monkeypatch.setattr(toy, "N_DRAWS", 1)
    monkeypatch.setattr(f"{__name__}.N_DRAWS", 1)
    assert set(decoys(stored())["status"].to_pylist()) == {"too_few_draws"}


def test_what_is_wrong_is_said(stored):
    files = stored()
    with pytest.raises(ValueError, match="decoy_sequences must be 2 or more"):
        decoys(files, count=1)
    with pytest.raises(ValueError, match="pairs is empty"):
        decoys(files, pairs=[])
    with pytest.raises(ValueError, match=r"no column 'stratum.open'"):
        decoys(files, pairs=[Pair("p", "open", "TF")])
    with pytest.raises(ValueError, match="has no target gene"):
        decoys(files, pairs=[Pair("p", "TF", "gene")])
    with pytest.raises(ValueError, match="found 1 and 0"):
        decoys((files[0], []))
    longer = sequence_table()
    letters = longer["sequence"].to_pylist()
    letters[2] += "A"
    longer = longer.set_column(longer.column_names.index("sequence"), "sequence", pa.array(letters))
    with pytest.raises(ValueError, match=r"have the lengths 20, 21; .* sequences of one length"):
        decoys(files, longer)
    with pytest.raises(ValueError, match=r"1 sequences are in no references table \(chr1:15\)"):
        decoys(stored(ids=range(N - 1)))
    twice = sequence_table()
    with pytest.raises(ValueError, match="a sequence stands twice"):
        decoys(files, pa.concat_tables([twice, twice.slice(0, 1)]))


def test_rows_in_two_places_are_an_error(stored):
    effects, references = stored(ids=[*range(N), 0])
    with pytest.raises(ValueError, match="'chr1:0' has rows in two places"):
        decoys((effects, references))


def test_skipped_rows_do_not_hide_that_a_sequence_is_in_two_places(stored):
    """What lies between the two places is left out; they are still two."""
    effects, _ = stored(ids=[0, 1, 0], row_group=3 * LENGTH)
    for batch_rows in (4096, 3 * LENGTH):
        found = list(stored_effects.read_mutations(effects, ["TF"], {"chr1:0"}))
        assert [one.sequence_id for one in found] == ["chr1:0"] * 2, batch_rows
    effects, _ = stored(ids=[0, 1, 0], row_group=10_000)
    found = list(stored_effects.read_mutations(effects, ["TF"], {"chr1:0"}))
    assert [len(one.positions) for one in found] == [3 * LENGTH] * 2
