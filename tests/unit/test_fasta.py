import gzip
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from Bio import bgzf

from deepmr.genome import alphabet, fasta
from deepmr.genome.fasta import FastaError, SequenceReader


def write_fasta(path, records, width=60):
    text = "".join(
        f">{name}\n" + "".join(f"{s[i : i + width]}\n" for i in range(0, len(s), width))
        for name, s in records.items()
    )
    path.write_text(text)
    return path


@pytest.fixture
def genome(tmp_path):
    rng = np.random.default_rng(0)
    return {
        name: "".join("acgtN"[i] for i in rng.integers(0, 5, size)).replace("a", "A")
        for name, size in {"chr1": 731, "chr2": 60, "chrM": 1}.items()
    } | {"long": "ACGTTGCA" * 20_000}


@pytest.fixture
def path(tmp_path, genome):
    return write_fasta(tmp_path / "genome.fa", genome)


@pytest.fixture
def bgzip(tmp_path, path):
    target = tmp_path / "genome.fa.gz"
    with bgzf.BgzfWriter(str(target)) as out:
        out.write(path.read_bytes())
    return target


@pytest.mark.parametrize("compressed", [False, True])
def test_windows_equal_slices_of_the_sequence(genome, path, bgzip, compressed):
    rng = np.random.default_rng(1)
    chrom, start = [], []
    for name in ("chr1", "chr2", "long"):
        at = rng.integers(0, len(genome[name]) - 40, 30).tolist()
        # The ends of a contig, of a line, and of a block of 65,536 compressed letters.
        at += [0, len(genome[name]) - 40, min(len(genome[name]) - 40, 60)]
        if name == "long":
            offset = sum(len(s) + -(-len(s) // 60) for n, s in genome.items() if n != "long")
            header = sum(len(n) + 2 for n in genome)
            base = (65_536 - offset - header) * 60 // 61
            at += range(base - 3, base + 4)
        chrom += [name] * len(at)
        start += at
    start = np.array(start)
    with SequenceReader(bgzip if compressed else path) as reader:
        assert reader.contigs == {name: len(s) for name, s in genome.items()}
        codes = reader.codes(chrom, start, start + 40)
        assert reader.codes(["long"], [0], [160_000]).shape == (1, 160_000)
    assert codes.dtype == np.uint8
    for row, name, first in zip(codes, chrom, start, strict=True):
        assert alphabet.decode(row) == genome[name][first : first + 40].upper()


def test_minus_strand_is_the_reverse_complement_and_others_are_not(path):
    with SequenceReader(path, strand=True) as reader:
        forward, reverse, unstranded = reader.codes(
            ["chr1"] * 3, [5] * 3, [25] * 3, ["+", "-", "."]
        )
    np.testing.assert_array_equal(reverse, alphabet.reverse_complement(forward))
    np.testing.assert_array_equal(unstranded, forward)
    assert (reverse != forward).any()


def test_windows_of_a_table_go_by_coordinates_or_by_name(tmp_path):
    path = write_fasta(tmp_path / "s.fa", {"chr1:3-7": "ACGT", "b": "GGCC", "chr1": "TTTTTTTT"})
    table = pa.table(
        {"sequence_id": ["b", "chr1:3-7"], "chrom": ["chr1"] * 2, "start": [0, 1]}
        | {"end": [4, 5], "strand": ["+", "-"]}
    )
    with SequenceReader(path, source="sequences") as reader:
        assert [alphabet.decode(row) for row in reader.windows(table)] == ["GGCC", "ACGT"]
    with SequenceReader(path) as reader:
        assert [alphabet.decode(row) for row in reader.windows(table)] == ["TTTT", "AAAA"]
        assert reader.windows(table.slice(0, 0)).shape[0] == 0
    with pytest.raises(ValueError, match="source 'fasta' is unknown; write one of genome, seq"):
        SequenceReader(path, source="fasta")


def test_runs_of_ambiguous_letters_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(fasta, "_CHUNK", 7)
    sequence = "NNACGTNNNRACGGGTACGTACNNNNNNNNNNNNAN"
    with SequenceReader(write_fasta(tmp_path / "n.fa", {"c": sequence}, width=9)) as reader:
        starts, ends = reader.ambiguous_runs("c")
    covered = {i for s, e in zip(starts, ends, strict=True) for i in range(s, e)}
    assert covered == {i for i, letter in enumerate(sequence) if letter in "NR"}


def test_reads_from_threads_equal_reads_in_turn(path):
    start = np.arange(600)
    with SequenceReader(path) as reader, ThreadPoolExecutor(4) as pool:
        alone = [reader.codes(["chr1"], [s], [s + 50]) for s in start]
        together = list(pool.map(lambda s: reader.codes(["chr1"], [s], [s + 50]), start))
    np.testing.assert_array_equal(alone, together)


def test_a_changed_fasta_is_indexed_again(tmp_path):
    path = write_fasta(tmp_path / "g.fa", {"old": "ACGT"})
    SequenceReader(path).close()
    write_fasta(path, {"new": "GGGG", "newer": "A"})
    later = path.stat().st_mtime + 10
    os.utime(path, (later, later))
    with SequenceReader(path) as reader:
        assert list(reader.contigs) == ["new", "newer"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.fa", "g.fa.fai"]


@pytest.mark.parametrize("compressed", [False, True])
def test_index_goes_elsewhere_when_the_folder_is_not_writable(
    tmp_path, path, bgzip, compressed, request, tmp_path_factory
):
    chosen = bgzip if compressed else path
    # Marked read-only: that holds for root as well, who could write all the same.
    tmp_path.chmod(0o555)
    request.addfinalizer(lambda: tmp_path.chmod(0o755))
    with pytest.raises(FastaError, match="its folder is not writable; give an index_dir"):
        SequenceReader(chosen)
    folder = tmp_path_factory.mktemp("results") / "index"
    with SequenceReader(chosen, index_dir=folder) as reader:
        assert reader.contigs["chr2"] == 60
    made = {p.suffix for p in folder.iterdir()}
    assert made == ({".fai", ".gzi"} if compressed else {".fai"})
    stamp = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    SequenceReader(chosen, index_dir=folder).close()
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == stamp
    assert not (tmp_path / f"{chosen.name}.fai").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (">a\nACGT\n>a\nACGT\n", "two records named 'a'"),
        (">a first\nACGT\n>a second\nACGT\n", "two records named 'a'"),
        (">a\nACGT\nACGTACGT\nACGT\n", "no well-formed FASTA: Line length"),
        ("ACGT\n", "no well-formed FASTA: Unexpected text before"),
        ("", "g.fa is empty"),
    ],
)
def test_fasta_that_is_none(tmp_path, content, message):
    path = tmp_path / "g.fa"
    path.write_text(content)
    with pytest.raises(FastaError, match=message):
        SequenceReader(path)


def test_missing_file_and_wrong_compression(tmp_path, bgzip):
    with pytest.raises(FastaError, match=r"none\.fa does not exist"):
        SequenceReader(tmp_path / "none.fa")
    ordinary = tmp_path / "g.fa.gz"
    ordinary.write_bytes(gzip.compress(b">a\nACGT\n"))
    with pytest.raises(FastaError, match=r"compressed by gzip, .* write it with bgzip"):
        SequenceReader(ordinary)
    renamed = tmp_path / "plain.fa"
    renamed.write_bytes(bgzip.read_bytes())
    with pytest.raises(FastaError, match="is compressed, against its name"):
        SequenceReader(renamed)
    misnamed = tmp_path / "text.fa.gz"
    misnamed.write_text(">a\nACGT\n")
    with pytest.raises(FastaError, match="is not compressed, against its name"):
        SequenceReader(misnamed)
    cut = tmp_path / "cut.fa.gz"
    cut.write_bytes(bgzip.read_bytes()[:-100])
    with pytest.raises(FastaError, match=r"cut\.fa\.gz"):
        SequenceReader(cut)


def test_windows_that_cannot_be_read(path):
    with SequenceReader(path) as reader:
        with pytest.raises(FastaError, match=r"chr2:50-70 lies outside chr2, which has 60 bases"):
            reader.codes(["chr2"], [50], [70])
        with pytest.raises(FastaError, match="chr2:-1-19 lies outside"):
            reader.codes(["chr2"], [-1], [19])
        with pytest.raises(FastaError, match="has no record 'chr9'; it has chr1, chr2"):
            reader.codes(["chr9"], [0], [20])
        with pytest.raises(FastaError, match="has length 30 and the first one 20"):
            reader.codes(["chr1", "chr1"], [0, 0], [20, 30])
        with pytest.raises(FastaError, match=r"record chr2 of .* has 60 bases and chr1 has 731"):
            reader.records(["chr1", "chr2"])


def test_a_wrong_letter_is_named_with_record_and_position(tmp_path):
    path = write_fasta(tmp_path / "g.fa", {"a": "ACGTACGT", "b": "ACGTAC*T"}, width=4)
    with SequenceReader(path) as reader:
        assert reader.records(["a"]).shape == (1, 8)
        with pytest.raises(FastaError, match=r"record b holds the letter '\*' at position 7"):
            reader.records(["a", "b"])
        with pytest.raises(FastaError, match=r"record b holds the letter '\*' at position 7"):
            reader.codes(["a", "b"], [0, 5], [2, 7])


def test_an_index_that_does_not_fit_is_noticed(tmp_path):
    path = write_fasta(tmp_path / "g.fa", {"a": "ACGT"})
    (tmp_path / "g.fa.fai").write_text("a\t400\t3\t400\t401\n")
    with (
        SequenceReader(path) as reader,
        pytest.raises(FastaError, match=r"gave 2 letters instead of 20; the index .* delete the"),
    ):
        reader.codes(["a"], [2], [22])
    (tmp_path / "g.fa.fai").write_text("a\t400\n")
    with pytest.raises(FastaError, match=r"or its index .* cannot be read"):
        SequenceReader(path)
