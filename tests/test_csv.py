"""Curves from CSV files: every layout gives the same curves, and what is wrong is named by file, line and column."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuralfield.errors import NeuralfieldError, NeuralfieldWarning, UsageError
from neuralfield.signals.csv_file import csv_file
from neuralfield.signals.curves import Curves
from neuralfield.signals.signals import load

WIDE = "id,label,0,0.5,2\na,x,1,2,3\nb,y,4,,6\nc,x,7,8,9\n"
LONG = "id,t,value,label\n" + "".join(
    f"{id},{t},{x},{label}\n"
    for id, label, row in (("a", "x", (1, 2, 3)), ("b", "y", (4, "NA", 6)), ("c", "x", (7, 8, 9)))
    for t, x in zip((0, 0.5, 2), row, strict=True)
)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Curves]:
    def made(text: str | bytes, **settings: Any) -> Curves:
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "a.csv").write_bytes(data)
        return csv_file(str(tmp_path / "a.csv"), **settings)

    return made


Read = Callable[..., Curves]


def content(curves: Curves) -> tuple[list[str], list[Any], Any, Any]:
    """Ids, labels, times and values, with None for what was not observed."""
    labels = [] if curves.labels is None else curves.labels.tolist()
    values = [[None if np.isnan(x) else x for x in row] for row in curves.values[..., 0].tolist()]
    return curves.ids, labels, curves.times.tolist(), values


EXPECTED = (["a", "b", "c"], [0, 1, 0], [0, 0.5, 2], [[1, 2, 3], [4, None, 6], [7, 8, 9]])


def test_wide_and_long_are_the_same_curves(read: Read) -> None:
    assert content(read(WIDE)) == content(read(LONG)) == EXPECTED
    assert (read(WIDE).domain_arguments["names"], read(LONG).domain_arguments["names"]) == (None, ["value"])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_spreadsheets_dialects_mean_nothing(read: Read, delimiter: str, newline: str, encoding: str) -> None:
    for text in (WIDE, LONG):
        changed = text.replace(",", delimiter).replace("\n", newline)
        assert content(read(changed.encode(encoding))) == EXPECTED


def test_white_space_quotes_blank_lines_and_blank_ends_mean_nothing(read: Read) -> None:
    spaced = WIDE.replace(",", " , ").replace("\n", " \n")
    quoted = "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in WIDE.splitlines())
    assert content(read(spaced)) == content(read(quoted)) == EXPECTED
    assert content(read("\n" + WIDE.replace("\n", "\n\n") + ",,,,\n,,,,\n\n")) == EXPECTED
    assert content(read(WIDE.replace("\n", ",\n"))) == EXPECTED


@pytest.mark.parametrize("missing", ["", "NA", "NaN", "nan", "null", "N/A", " "])
def test_words_for_not_observed(read: Read, missing: str) -> None:
    assert content(read(WIDE.replace("4,,6", f"4,{missing},6"))) == EXPECTED
    assert content(read(LONG.replace(",NA,", f",{missing},"))) == EXPECTED


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_a_long_tables_rows_means_nothing(read: Read, seed: int) -> None:
    head, *rows = LONG.splitlines()
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    assert content(read("\n".join([head, *shuffled]))) == EXPECTED


def test_ids_of_a_long_table_are_sorted_with_numbers_as_numbers(read: Read) -> None:
    rows = "".join(f"{name},0,1\n" for name in ("s10", "s9", "s1b2", "t", "s1"))
    assert read(f"id,t,x\n{rows}").ids == ["s1", "s1b2", "s9", "s10", "t"]


def test_several_columns_of_values_are_channels_with_names(read: Read) -> None:
    curves = read("wind,Subject,rain,TIME\n1,a,2,0\n3,a,4,1\n5,b,6,0\n7,b,8,1\n")
    assert curves.domain_arguments["names"] == ["wind", "rain"]
    assert curves.values.tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]


def test_other_columns_are_named_by_settings(read: Read) -> None:
    long = LONG.replace("id,t,value,label", "plant,week,value,kind")
    assert content(read(long, id="plant", time="week", label="kind")) == EXPECTED
    wide = WIDE.replace("id,label", "plant,Kind")
    assert content(read(wide, id="plant", label="kind")) == EXPECTED


def test_a_table_without_ids_is_one_curve_in_the_files_name(read: Read, tmp_path: Path) -> None:
    curves = read("t,x\n0,5\n2,7\n1,6\n")
    assert content(curves) == (["a"], [], [0, 1, 2], [[5, 6, 7]])
    assert load(str(tmp_path / "a.csv")).ids == load(f"csv:{tmp_path / 'a.csv'}").ids == ["a"]


def test_rows_of_a_wide_table_without_ids_are_numbered(read: Read) -> None:
    assert content(read("0,1,2\n5,6,7\n3,4,5\n")) == (["0", "1"], [], [0, 1, 2], [[5, 6, 7], [3, 4, 5]])


def test_an_index_as_data_frames_write_it_is_an_id_or_passed_over(read: Read) -> None:
    assert content(read(",0,1\np,5,6\nq,3,4\n")) == (["p", "q"], [], [0, 1], [[5, 6], [3, 4]])
    assert content(read(",0,1\n0,5,6\n1,3,4\n")) == (["0", "1"], [], [0, 1], [[5, 6], [3, 4]])
    assert read(",id,t,x\n0,p,0,5\n1,p,1,6\n").domain_arguments["names"] == ["x"]


def test_rows_alone_are_curves_at_0_1_2(read: Read) -> None:
    for text in ("5,6,2\n3,,5\n", "5,NA,2\n3,4,5\n"):
        curves = read(text)
        assert curves.times.tolist() == [0, 1, 2]
        assert len(curves) == 2
    assert read("1,2,3\n3,4,5\n", layout="bare").values[:, :, 0].tolist() == [[1, 2, 3], [3, 4, 5]]
    assert read("5,6,2\n").values[:, :, 0].tolist() == [[5, 6, 2]]


def test_headers_of_times_need_not_be_sorted_where_a_column_has_a_name(read: Read) -> None:
    assert content(read("id,2,0\na,1,3\n")) == (["a"], [], [0, 2], [[3, 1]])
    assert content(read("2,0\n1,3\n", layout="wide")) == (["0"], [], [0, 2], [[3, 1]])


def test_a_column_of_splits_chooses_rows_and_labels_agree(read: Read) -> None:
    text = "id,split,label,0,1\na,train,x,1,2\nb,TEST,y,3,4\nc,train,z,5,6\nd,test,x,7,8\n"
    train, test = read(text), read(text, split="test")
    assert (train.ids, test.ids) == (["a", "c"], ["b", "d"])
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 2], [1, 0])  # type: ignore[union-attr]
    long = "id,split,t,x\na,train,0,1\na,train,1,2\nb,test,0,3\nb,test,1,4\n"
    assert (read(long).ids, read(long, split="test").ids) == (["a"], ["b"])
    with pytest.raises(NeuralfieldError, match='no row is of split "test"; there are: train'):
        read(text.replace("TEST", "train").replace("test", "train"), split="test")
    with pytest.raises(UsageError, match="train and test"):
        read(text, split="val")


def test_without_a_column_of_splits_both_are_all(read: Read) -> None:
    assert content(read(WIDE, split="test")) == EXPECTED


def test_labels_that_are_numbers_stay_and_missing_ones_are_minus_one(read: Read) -> None:
    assert read("id,label,0\na,10,1\nb,,1\nc,9,1\n").labels.tolist() == [10, -1, 9]  # type: ignore[union-attr]
    assert read("id,label,0\na,,1\nb,,1\n").labels is None


def test_a_curve_without_values_stays_in_its_place(read: Read) -> None:
    with pytest.warns(NeuralfieldWarning, match='1 of 2 curves has no observed point .*"b"'):
        assert read("id,0,1\na,1,2\nb,,\n").ids == ["a", "b"]
    with pytest.warns(NeuralfieldWarning, match='"b"'):
        assert read("id,t,x\na,0,1\nb,0,NA\n").ids == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        ("id,0,1\na,1,2\nb,3,high\n", {}, ["line 3", 'column "1"', '"high" is no number']),
        ("id,t,x\na,0,1\n\na,one,2\n", {}, ["line 4", 'column "t"', '"one"']),
        ("id,t,x\na,0,1_000\n", {}, ["line 2", '"1_000"']),
        ("id;0;1\na;1,5;2\n", {}, ['"1,5"', "decimals need a point"]),
        ("3,2\n1,x\n", {}, ["line 2", 'column "2"', '"x"']),
        ("id,t,x\na,0,1\na,,2\n", {}, ["line 3", 'column "t"', "no time"]),
        ("id,t,x\na,0,inf\n", {}, ["infinite value", "curve a"]),
        ("id,t,x\na,0,1\n,1,2\n", {}, ["line 3", 'column "id"', "no id"]),
        ("id,0,1\na,1,2\nb,3\n", {}, ["line 3 has 2 cells", "line 1 has 3"]),
        ("id,0,1\na,1,2\nb,3,4,5\n", {}, ["line 3 has 4 cells"]),
        ("id,0,1\na,1,2\nb,1,2\na,3,4\n", {}, ['id "a"', "lines 2 and 4"]),
        ("id,t,x,label\na,0,1,u\na,1,2,v\n", {}, ["line 3", 'label "v"', '"u" in line 2']),
        ("id,height,0,1\na,1,2,3\n", {}, ['column "height" is no time', "signals.label=height"]),
        ("", {}, ["empty"]),
        ("\n\n", {}, ["empty"]),
        ("id,0,1\n", {}, ["no rows"]),
        ("id,label\na,b\n", {}, ["no columns of values"]),
        ("id,t\na,0\n", {}, ["column of values", "columns: id, t"]),
        ("id,0,1\na,1,2\n", {"id": "nmae"}, ["signals.id", '"nmae"', "columns: id, 0, 1"]),
        ("id,hours,x\na,1,2\n", {"time": "huors"}, ['did you mean "hours"']),
        ("id,x\na,1\n", {"layout": "long"}, ["signals.time=NAME"]),
        ("id,0\na,1\n", {"layout": "lnog"}, ['did you mean "long"']),
        ("3,2\n1,2\n", {"id": "name"}, ["signals.id", "no header"]),
        (b"id,0\n\xff\xfe,1\n", {}, ["UTF-8"]),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(
    read: Read, tmp_path: Path, text: str | bytes, settings: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(NeuralfieldError) as caught:
        read(text, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in [str(tmp_path / "a.csv"), *words]), message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NeuralfieldError, match=r"b\.csv: there is no such file"):
        csv_file(str(tmp_path / "b.csv"))
    with pytest.raises(NeuralfieldError, match="cannot be read"):
        csv_file(str(tmp_path))


def test_a_long_table_of_100_000_rows_takes_about_a_second(read: Read) -> None:
    draw = np.random.default_rng(0).random((100_000, 3))
    text = "id,t,x,y\n" + "".join(f"s{i % 500},{t:.9f},{x:.5f},{y:.5f}\n" for i, (t, x, y) in enumerate(draw.tolist()))
    began = time.perf_counter()
    curves = read(text)
    assert time.perf_counter() - began < 5  # 0.7 s where nothing else runs
    assert int(curves.truth(torch.arange(500)).weight.sum()) == 100_000
