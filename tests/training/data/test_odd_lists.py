"""Lists and tables with odd values are an error in one line that names the file, or are read as they stand."""

import csv
import json

import numpy as np
import pytest
from datasets import Dataset

from umt_training.data.class_indices import plain_labels
from umt_training.data.question_records import load_question_records, read_answers, read_question_types
from umt_training.data.video_records import load_video_records

LONG = "1" + "0" * 400
ODD = {  # name of a list, its content, and what the error states
    "deep list": ("a.json", "[" * 100_000, "nested too deeply"),
    "deep value": ("a.json", '[{"video": "a.mp4", "x": ' + "[" * 900 + "]" * 900 + "}]", "nested too deeply"),
    "deep line": ("a.jsonl", '{"a":' * 100_000, "nested too deeply"),
    "repeated key": ("a.jsonl", '{"video": "a.mp4", "video": "b.mp4"}', "line 1 .*'video' occurs twice"),
    "5000 digits": ("a.json", '[{"video": "a.mp4", "label": ' + "9" * 5000 + "}]", "digits"),
    "400 digits": ("a.json", '[{"video": "a.mp4", "label": ' + LONG + "}]", "column 'label'"),
    "400 digits in text": ("a.csv", f"video,label\na.mp4,{LONG}\nb.mp4,1", "an integer of 401 digits"),
    "5000 digits in text": ("a.txt", f"a.mp4 {'9' * 5000}\n", "an integer of 5000 digits"),
    "infinite": ("a.json", '[{"video": "a.mp4", "label": Infinity}]', "label of row 0"),
    "1e300": ("a.json", '[{"video": "a.mp4", "label": 1e300}]', "label of row 0"),
    "surrogate": ("a.json", r'[{"video": "\ud800.mp4"}]', "column 'video'"),
    "surrogate in a name": ("a.json", r'[{"video": "a.mp4", "\ud800": 1}]', "surrogates not allowed"),
    "not UTF-8": ("a.csv", b"video\ncaf\xe9.mp4", "not a text file in UTF-8"),
    "NUL": ("a.csv", "video\na\0.mp4", "NUL"),
    "NUL in JSON": ("a.json", r'[{"video": "a\u0000.mp4"}]', "expected its path"),
    "null": ("a.json", "null", "expected a list"),
    "an object": ("a.json", '{"video": "a.mp4"}', "expected a list"),
    "a list of lists": ("a.json", "[[1]]", "expected an object"),
    "empty": ("a.json", "", "not valid JSON"),
    "a long cell": ("a.csv", "video\n" + "a" * 200_000, "not a table of text"),
    "a quote that is not closed": ("a.csv", 'video,label\n"a.mp4,1\nb.mp4,2', "from line 2: unexpected end of data"),
    "a quote that another row closes": ("a.csv", 'video,text\na.mp4,"x\nb.mp4,y"\n', "line 2: .*probably not closed"),
    "such a quote in a first column": ("a.csv", 'text,video\n"x,a.mp4\ny",b.mp4\n', "line 2: .*probably not closed"),
    "a quote that another row opens again": ("a.tsv", 'video\ttext\na.mp4\t"x\nb.mp4\t"y"\n', "line 2: .*expected"),
    "text after a quote": ("a.csv", 'video,text\na.mp4,"x" y\n', "line 2: .*expected after"),
    "a parquet of text": ("a.parquet", "text", "parquet"),
    "an empty parquet": ("a.parquet", "", "parquet"),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_list_is_an_error_in_one_line(case, tmp_path):
    name, content, message = ODD[case]
    path = tmp_path / name
    (tmp_path / "a.mp4").touch()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        load_video_records(path)
    assert type(caught.value) is ValueError and str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("quoted", ["\n", "\r\n", "\r", "\n\n", "\u2028"])
@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".txt", ";")])
def test_line_ends_in_quoted_values_stay(suffix, delimiter, quoted, line_end, tmp_path):
    """Captions of two lines, with the delimiter and quotes in them, one of which looks like a short row."""
    captions = [f"a dog{quoted}runs", f'"one",{delimiter} two{quoted}three{delimiter}four', "plain"]
    path = tmp_path / f"a{suffix}"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
        writer.writerows([["video", "caption"], *([f"{row}.mp4", text] for row, text in enumerate(captions))])
    (tmp_path / "0.mp4").touch()
    assert load_video_records(path)["caption"] == captions


def test_control_characters_and_long_paths_are_read(tmp_path):
    paths = ["a\x1b[31m.mp4", "a\tb.mp4", "\u202eb.mp4", "a" * 5000 + ".mp4"]
    (tmp_path / "a.json").write_text(json.dumps([{"video": path} for path in paths]))
    (tmp_path / paths[0]).touch()
    assert load_video_records(tmp_path / "a.json")["video"] == [f"{tmp_path}/{path}" for path in paths]


def test_a_folder_with_a_name_that_is_not_utf8_is_an_error(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "caf\udce9.mp4").touch()
    for source in (tmp_path, tmp_path / "run" / "caf\udce9.mp4"):
        with pytest.raises(ValueError, match=r"caf\\udce9\.mp4 is not UTF-8; rename"):
            load_video_records(source)


@pytest.mark.parametrize("files", [{"state.json": "{}"}, {"state.json": "["}, {"dataset_dict.json": '{"splits": 3}'}])
def test_a_damaged_saved_data_set_is_an_error(files, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="can't be read as a data set that was saved"):
        load_video_records(tmp_path)


def test_labels_of_any_number():
    numbers = [10**400, -(1 << 63) - 1, 1e300, np.inf, 2.5]
    for number in numbers:
        with pytest.raises(ValueError, match="label of row 1"):
            plain_labels([1, number], "list")
    assert plain_labels([(1 << 63) - 1, np.int8(3), 3.0, np.nan, None], "list") == [(1 << 63) - 1, 3, 3, None, None]
    assert plain_labels([f"{'9' * 400}.0"], "list") == [f"{'9' * 400}.0"]


def test_odd_questions_are_errors(tmp_path):
    for name, content in (("deep.json", "[" * 100_000), ("twice.json", '[{"a": 1, "a": 2}]'), ("cut.json", "[")):
        (tmp_path / name).write_text(content)
        for read in (read_answers, read_question_types):
            with pytest.raises(ValueError, match=f"{name} is not valid JSON"):
                read(tmp_path / name)
    (tmp_path / "types.json").write_text('[{"question_id": [1], "type": 2}]')
    with pytest.raises(ValueError, match="must be a JSON list of objects"):
        read_question_types(tmp_path / "types.json")
    (tmp_path / "answers.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"answers.txt is not a text file"):
        read_answers(tmp_path / "answers.txt")
    rows = {"video": ["a.mp4"], "question": ["what?"], "answer": ["this"], "question_id": [[1]]}
    with pytest.raises(ValueError, match="question_id is"):
        load_question_records(Dataset.from_dict(rows))


def test_a_damaged_parquet_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "a.parquet"
    Dataset.from_dict({"video": [f"{row}.mp4" for row in range(50)]}).to_parquet(path)
    content = path.read_bytes()
    for start in range(4, 300, 20):
        path.write_bytes(content[:start] + b"\xff" * 8 + content[start + 8 :])
        try:
            assert len(load_video_records(path, root=None)) == 50
        except ValueError as error:
            assert str(path) in str(error)
