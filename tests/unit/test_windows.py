import numpy as np
import pytest

from deepmr import schemas
from deepmr.genome import windows
from deepmr.genome.fasta import SequenceReader
from deepmr.genome.regions import RegionsError

CONTIGS = {"chr1": 1_013, "chr2": 640, "chr3": 505, "chrN": 90, "tiny": 12}
SPLIT = {"validation": ["chr2"], "test": ["chr3"], "exclude": ["chrN"]}


def write_genome(path, rng, contigs=None):
    sequences = {name: "".join(rng.choice(list("ACGT"), size)) for name, size in CONTIGS.items()}
    sequences["chr1"] = sequences["chr1"][:300] + "NNrn" + sequences["chr1"][304:]
    path.write_text("".join(f">{n}\n{sequences[n]}\n" for n in contigs or CONTIGS))
    return path


def write_bed(path, rng, n, widths=(5, 60)):
    rows = []
    for _ in range(n):
        chrom = str(rng.choice(["chr1", "chr2", "chr3"]))
        width = int(rng.integers(*widths))
        start = int(rng.integers(0, CONTIGS[chrom] - width))
        strand = rng.choice(list("+-."))
        rows.append((chrom, start, start + width, int(rng.integers(1, 9)), strand))
    path.write_text("".join(f"{c}\t{s}\t{e}\tn\t{v}\t{strand}\n" for c, s, e, v, strand in rows))
    return rows


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(3)
    write_genome(tmp_path / "genome.fa", rng)
    rows = {name: write_bed(tmp_path / f"{name}.bed", rng, 25) for name in ("A", "B", "C")}
    rows["measured"] = write_bed(tmp_path / "measured.bed", rng, 12, (100, 300))
    rows["black"] = write_bed(tmp_path / "black.bed", rng, 2, (20, 30))
    return tmp_path, rows


TARGETS = {
    "A": {"type": "binary", "peaks": "A.bed", "extend": 4},
    "B": {"type": "binary", "peaks": "B.bed", "measured": "measured.bed"},
    "C": {"type": "count", "peaks": "C.bed", "value_column": 5, "measured": "measured.bed"},
}


def extract(folder, strand=False, targets=TARGETS, fasta="genome.fa", **changes):
    settings = {"length": 40, "bin": 15, "stride": 10, "directory": folder, "seed": 1} | SPLIT
    with SequenceReader(folder / fasta, strand) as reader:
        return windows.extract(reader, targets, **(settings | changes))


def straightforward(folder, rows, strand, length=40, bin=15, stride=10):
    """Label one window at a time, one base at a time."""

    def bases(name, chrom, sign, extend=0):
        return {
            base
            for c, s, e, _, d in rows[name]
            if c == chrom and (sign == "." or d in (sign, "."))
            for base in range(max(s - extend, 0), e + extend)
        }

    sequences = {}
    for record in (folder / "genome.fa").read_text().split(">")[1:]:
        name, sequence = record.split()
        sequences[name] = sequence
    expected = {}
    for chrom, size in CONTIGS.items():
        for sign in ("+", "-") if strand else (".",):
            covers = {n: bases(n, chrom, sign, 4 if n == "A" else 0) for n in ("A", "B")}
            measured = bases("measured", chrom, sign)
            black = bases("black", chrom, ".")
            for start in range(0, size - length + 1, stride):
                window = set(range(start, start + length))
                centre = set(range(start + (length - bin) // 2, start + (length - bin) // 2 + bin))
                if chrom == "chrN" or window & black:
                    continue
                if set(sequences[chrom][start : start + length]) - set("ACGT"):
                    continue
                labels = [float(2 * len(covers[n] & centre) >= bin) for n in ("A", "B")]
                labels.append(
                    sum(
                        v
                        for c, s, e, v, d in rows["C"]
                        if c == chrom
                        and (s + e) // 2 in centre
                        and (sign == "." or d in (sign, "."))
                    )
                )
                if 2 * len(measured & centre) < bin:
                    labels[1:] = [None, None]
                suffix = f"({sign})" if strand else ""
                expected[f"{chrom}:{start}-{start + length}{suffix}"] = tuple(labels)
    return expected


@pytest.mark.parametrize("strand", [False, True])
def test_labels_against_a_straight_loop(data, strand):
    folder, rows = data
    table, counts = extract(
        folder, strand, negatives_per_positive=None, blacklist=folder / "black.bed"
    )
    labels = zip(*(table[f"label.{n}"].to_pylist() for n in "ABC"), strict=True)
    found = dict(zip(table["sequence_id"].to_pylist(), labels, strict=True))
    expected = straightforward(folder, rows, strand)
    assert found == expected
    assert list(found) == list(expected) or strand
    assert counts["kept"] == len(expected)
    assert counts["with_n"] == 4 * (2 if strand else 1)
    assert counts["blacklisted"] > 0
    assert counts["tiled"] == counts["with_n"] + counts["blacklisted"] + counts["kept"]
    for name in "ABC":
        values = np.array([row["ABC".index(name)] for row in expected.values()], float)
        total = sum(counts["splits"][split]["positives"][name] for split in windows.SPLITS)
        assert total == (values > 0).sum() > 0
        total = sum(counts["splits"][split]["measured"][name] for split in windows.SPLITS)
        assert total == np.isfinite(values).sum()


def test_table_suits_the_schema_and_is_in_order(data):
    folder, _ = data
    table, _ = extract(folder, strand=True, negatives_per_positive=None)
    assert table.schema.equals(schemas.windows_schema(list(TARGETS)), check_metadata=False)
    rows = [(r["chrom"], r["start"], r["strand"]) for r in table.to_pylist()]
    assert rows == sorted(rows)
    splits = set(zip(*(table[c].to_pylist() for c in ("chrom", "split")), strict=True))
    assert splits == {("chr1", "train"), ("chr2", "validation"), ("chr3", "test")}
    assert set(table["strand"].to_pylist()) == {"+", "-"}
    assert (np.array(table["end"]) - np.array(table["start"]) == 40).all()


def test_windows_without_any_measurement_are_left_out(data):
    folder, _ = data
    targets = {name: TARGETS[name] for name in "BC"}
    everywhere, _ = extract(folder, negatives_per_positive=None)
    table, counts = extract(folder, targets=targets, negatives_per_positive=None)
    assert counts["not_measured"] == everywhere["label.B"].null_count > 0
    assert table["label.B"].null_count == 0


def positives_of(table):
    labels = np.column_stack([table[f"label.{n}"].to_numpy() for n in "ABC"])
    return (labels > 0).any(axis=1)


def test_negatives_are_subsampled_in_each_split(data):
    folder, _ = data
    complete, _ = extract(folder, negatives_per_positive=None)
    table, counts = extract(folder, negatives_per_positive=0.2)
    kept = set(table["sequence_id"].to_pylist())
    assert kept < set(complete["sequence_id"].to_pylist())
    assert counts["negatives_left_out"] == len(complete) - len(table)
    for split in windows.SPLITS:
        rows = table.filter(np.array(table["split"]) == split)
        whole = complete.filter(np.array(complete["split"]) == split)
        n = positives_of(rows).sum()
        assert n == positives_of(whole).sum() > 0
        assert (~positives_of(rows)).sum() == round(0.2 * n) > 0
    other, _ = extract(folder, negatives_per_positive=0.2, seed=2)
    assert set(other["sequence_id"].to_pylist()) != kept
    more, _ = extract(folder, negatives_per_positive=0.3)
    assert set(more["sequence_id"].to_pylist()) > kept
    everything, counts = extract(folder, negatives_per_positive=1e6)
    assert everything.equals(complete)
    assert counts["negatives_left_out"] == 0


def test_the_choice_does_not_depend_on_the_order_of_the_contigs(data):
    folder, _ = data
    write_genome(folder / "turned.fa", np.random.default_rng(3), list(CONTIGS)[::-1])
    table, _ = extract(folder)
    turned, _ = extract(folder, fasta="turned.fa")
    assert turned["chrom"][0].as_py() == "chr3"
    keys = [("chrom", "ascending"), ("start", "ascending")]
    assert turned.sort_by(keys).equals(table.sort_by(keys))


def test_half_of_the_bin_is_enough_and_less_is_not(tmp_path):
    (tmp_path / "genome.fa").write_text("".join(f">c{i}\n{'ACGT' * 10}\n" for i in range(4)))
    # Bin 15..25; intervals of 5 and of 4 of its bases, and two that make 5 together.
    (tmp_path / "p.bed").write_text("c0\t20\t40\nc1\t0\t19\nc2\t14\t18\nc2\t23\t26\nc2\t24\t25\n")
    with SequenceReader(tmp_path / "genome.fa") as reader:
        table, _ = windows.extract(
            reader,
            {"P": {"peaks": "p.bed"}},
            length=40,
            bin=10,
            stride=40,
            negatives_per_positive=None,
            validation=["c1"],
            test=["c2"],
            directory=tmp_path,
        )
    assert table["label.P"].to_pylist() == [1.0, 0.0, 1.0, 0.0]


def test_tile():
    assert windows.tile(100, 40, 30).tolist() == [0, 30, 60]
    assert windows.tile(40, 40, 30).tolist() == [0]
    assert windows.tile(39, 40, 30).tolist() == []
    assert windows.tile(1, 40, 30).tolist() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bin": 41}, r"windows\.bin is 41; write 1 to windows\.length, which is 40"),
        ({"stride": 0}, r"windows\.stride is 0"),
        ({"test": ["chr9"]}, r"split\.test: the FASTA has no 'chr9'; it has chr1, chr2, chr3"),
        ({"test": ["chr2"]}, r"split\.test: chr2 is in validation too"),
        ({"test": ["tiny"]}, r"no test window is left; name other or longer chromosomes"),
        ({"length": 2_000}, r"no window of 2000 bases is left"),
    ],
)
def test_impossible_settings(data, changes, message):
    with pytest.raises(ValueError, match=message):
        extract(data[0], **changes)


def test_unusable_targets(data):
    folder, _ = data
    with pytest.raises(ValueError, match=r"targets\.A\.type: intervals give binary or count"):
        extract(folder, targets={"A": {"type": "continuous", "peaks": "A.bed"}})
    (folder / "sites.bed").write_text("chr1\t100\t101\nchr2\t100\t101\n")
    sites = {"A": TARGETS["A"], "S": {"peaks": "sites.bed"}}
    with pytest.raises(
        ValueError, match=r"targets\.S: none of its 2 intervals covers half of a ce"
    ):
        extract(folder, targets=sites)
    sites["S"]["extend"] = 5
    table, _ = extract(folder, targets=sites)
    assert "label.S" in table.column_names
    (folder / "other.bed").write_text("1\t100\t101\n")
    with pytest.raises(RegionsError, match=r"other\.bed: the FASTA has no chromosome 1; .*`chr`"):
        extract(folder, targets={"A": {"peaks": "other.bed"}})
    with pytest.raises(RegionsError, match="no chromosome 1"):
        extract(folder, targets={"A": TARGETS["A"] | {"measured": "other.bed"}})
    with pytest.raises(RegionsError, match="no chromosome 1"):
        extract(folder, blacklist=folder / "other.bed")
