import gzip

import numpy as np
import pytest
from Bio import bgzf
from hypothesis import given
from hypothesis import strategies as st

from deepmr.genome import regions
from deepmr.genome.regions import Cover, RegionsError, check_fit, read_regions, value_in

INTERVALS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda t: (t[0], t[0] + t[1])),
    max_size=12,
)
BINS = st.lists(
    st.tuples(st.integers(0, 70), st.integers(1, 30)).map(lambda t: (t[0], t[0] + t[1])),
    min_size=1,
    max_size=12,
)


def arrays(pairs):
    array = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def write(path, text):
    path.write_text(text)
    return path


@given(INTERVALS, BINS)
def test_covered_length_against_counting_bases(intervals, bins):
    covered = {base for start, end in intervals for base in range(start, end)}
    start, end = arrays(bins)
    expected = [
        len(covered & set(range(s, e))) for s, e in zip(start.tolist(), end.tolist(), strict=True)
    ]
    assert Cover.of(*arrays(intervals)).length_in(start, end).tolist() == expected


@given(INTERVALS)
def test_merged_intervals_are_disjoint_and_do_not_touch(intervals):
    cover = Cover.of(*arrays(intervals))
    assert (cover.start[1:] > cover.end[:-1]).all()


@given(INTERVALS, BINS, st.integers(0, 2**32))
def test_values_in_bins_against_a_straight_loop(intervals, bins, seed):
    values = np.random.default_rng(seed).normal(size=len(intervals))
    first, last = arrays(intervals)
    n = len(first)
    rows = regions.Regions(
        "f", ("c",), np.zeros(n, np.int32), first, last, np.zeros(n, np.int8), values
    )
    start, end = arrays(bins)
    middle = [(s + e) // 2 for s, e in zip(first, last, strict=True)]
    for i, total in enumerate(value_in(rows, start, end)):
        inside = [v for m, v in zip(middle, values, strict=True) if start[i] <= m < end[i]]
        assert total == pytest.approx(sum(inside), abs=1e-12)
        assert inside or total == 0.0


NARROW_PEAK = (
    "track type=narrowPeak name=x\n# comment\nbrowser position chr1\n\n"
    "chr2\t5\t9\tp\t10\t+\t1\t2\t3\t1\nchr10\t7\t8\tp\t20\t-\t1\t2\t3\t1\r\n"
    "chr2\t1\t30\tp\t30\t.\t1\t2\t3\t1\n\n"
)


@pytest.mark.parametrize("compress", ["plain", "gzip", "bgzip", "two gzip members"])
def test_narrow_peaks_with_headers(tmp_path, compress):
    path = tmp_path / "peaks.narrowPeak.gz"
    data = NARROW_PEAK.encode()
    if compress == "bgzip":
        with bgzf.BgzfWriter(str(path)) as out:
            out.write(data)
    elif compress == "plain":
        path = write(tmp_path / "peaks.narrowPeak", NARROW_PEAK)
    else:
        parts = [data] if compress == "gzip" else [data[:80], data[80:]]
        path.write_bytes(b"".join(gzip.compress(part) for part in parts))
    read = read_regions(path, strand=True, value_column=5)
    assert read.names == ("chr10", "chr2")
    assert [read.names[c] for c in read.chrom] == ["chr10", "chr2", "chr2"]
    assert read.start.tolist() == [7, 1, 5]
    assert read.end.tolist() == [8, 30, 9]
    assert read.strand.tolist() == [-1, 0, 1]
    assert read.value.tolist() == [20, 30, 10]
    assert len(read) == 3
    assert read.on("chr2").start.tolist() == [1, 5]
    assert read.on("chr2", "-").start.tolist() == [1]
    assert read.on("chr2", "+").value.tolist() == [30, 10]
    assert len(read.on("chr1")) == 0
    plain = read_regions(path)
    assert plain.strand.tolist() == [0, 0, 0]
    assert plain.value.tolist() == [1, 1, 1]


@given(
    st.lists(
        st.tuples(st.sampled_from(["chr1", "chrX", "NA", "2"]), st.integers(0, 99)).flatmap(
            lambda t: st.tuples(st.just(t), st.integers(1, 9), st.sampled_from("+-."))
        ),
        min_size=1,
        max_size=20,
    )
)
def test_fast_and_line_by_line_readers_agree(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("bed") / "a.bed"
    path.write_text(
        "".join(f"{c}\t{s}\t{s + w}\tname\t{s / 7}\t{sign}\n" for (c, s), w, sign in lines)
    )
    fast = regions._read_fast(path, True, 5)
    slow = regions._read_line_by_line(path, True, 5)
    assert fast is not None
    assert fast[0].to_pylist() == slow[0].to_pylist()
    for one, other in zip(fast[1:], slow[1:], strict=True):
        np.testing.assert_array_equal(one, other)


def test_ragged_lines_and_tracks_in_the_middle(tmp_path):
    text = "chr1\t1\t5\nchr1\t9\t12\tname\ntrack name=b\nchr1\t20\t30\n"
    read = read_regions(write(tmp_path / "a.bed", text), strand=True)
    assert read.start.tolist() == [1, 9, 20]
    assert read.strand.tolist() == [0, 0, 0]


def test_sites_are_widened_and_stay_above_zero(tmp_path):
    read = read_regions(write(tmp_path / "a.bed", "chr1\t3\t4\nchr1\t100\t101\n"), extend=50)
    assert read.start.tolist() == [0, 50]
    assert read.end.tolist() == [54, 151]
    check_fit(read, {"chr1": 101})  # only what the file itself says must fit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\t1\n", r"a\.bed line 1: 2 tab-separated column"),
        ("chr1 1 5\n", r"a\.bed line 1: 1 tab-separated column.*separated by tabs"),
        ("# x\nchr1\t1\t5\n\nchr1\t1.5\t6\n", r"line 4: start '1\.5' and end '6' must be integers"),
        ("chr1\t1\t5\nchr1\tx\t5\n", "line 2: start 'x'"),
        ("chr1\t1\t5\nchr1\t7\t7\n", "line 2: start 7 is not below end 7"),
        ("chr1\t1\t5\nchr1\t-1\t7\n", "line 2: start -1 is negative"),
        ("chr1\t1\t5\n\t1\t7\n", "line 2: 3 tab-separated"),
        ("", "holds no interval"),
        ("track name=x\n#only a header\n", "holds no interval"),
        ("chr1\t1\t5\tn\t0\t*\n", r"line 1: strand '\*'; write \+, - or \."),
    ],
)
def test_bad_lines_are_named(tmp_path, text, message):
    with pytest.raises(RegionsError, match=message):
        read_regions(write(tmp_path / "a.bed", text), strand=True)


@pytest.mark.parametrize("value", ["x", "nan", ""])
def test_a_value_that_is_no_number_is_named(tmp_path, value):
    path = write(tmp_path / "a.bed", f"chr1\t1\t5\t2\nchr1\t6\t9\t{value}\n")
    with pytest.raises(RegionsError, match="line 2: no number in column 4"):
        read_regions(path, value_column=4)


def test_impossible_arguments(tmp_path):
    path = write(tmp_path / "a.bed", "chr1\t1\t5\n")
    with pytest.raises(RegionsError, match="line 1: no number in column 5"):
        read_regions(path, value_column=5)
    with pytest.raises(RegionsError, match="value_column is 3; write 4 or more"):
        read_regions(path, value_column=3)
    with pytest.raises(RegionsError, match="extend is -1"):
        read_regions(path, extend=-1)
    with pytest.raises(RegionsError, match=r"b\.bed does not exist"):
        read_regions(tmp_path / "b.bed")


def test_intervals_must_fit_the_genome(tmp_path):
    read = read_regions(write(tmp_path / "a.bed", "1\t1\t5\nchr2\t1\t90\n"))
    with pytest.raises(
        RegionsError, match=r"no chromosome 1; it has chr1, chr2\. The FASTA's names"
    ):
        check_fit(read, {"chr1": 100, "chr2": 100})
    with pytest.raises(RegionsError, match="The file's names begin with `chr`"):
        check_fit(read, {"1": 100, "2": 100})
    with pytest.raises(
        RegionsError, match=r"ending at chr2:90 \(1 such\) .* chr2, which has 80 bases"
    ):
        check_fit(read, {"1": 100, "chr2": 80})
    check_fit(read, {"chr2": 90}, partial=True)
    with pytest.raises(
        RegionsError, match="no chromosome 1, chr2; it has a, b, c, d, e and 1 more"
    ):
        check_fit(read, dict.fromkeys("abcdef", 9), partial=True)
