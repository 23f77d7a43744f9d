"""Captions, questions and answers that can't be meant as texts are errors that name file, row and video."""

import json

import pytest
from datasets import Dataset

from umt_training.data.captioned_records import CaptionedRecords, join_paragraphs, load_captioned_records
from umt_training.data.question_records import load_question_records, read_answers, read_question_types, type_name
from umt_training.data.text_columns import check_texts, is_written_list
from umt_training.data.video_records import load_video_records
from umt_training.evaluation.multiple_choice import check_choices
from umt_training.evaluation.retrieval import retrieval_set

ODD = {  # value of a caption, question or answer, and what the error states
    "None": (None, "has no {}"),
    "an empty text": ("", "has no {}"),
    "white space": (" \t\u3000\n", "has no {}"),
    "an empty list": ([], "has no {}|can't be read: row 1"),
    "None in a list": (["a", None], r"(has the {}|can't be read: .* has) \['a', None\]"),
    "an empty text in a list": (["a", " "], "has the {} .*none of them missing or empty|can't be read"),
    "a list of lists": ([["a"]], "can't be read: row 1"),
    "a Python list": ("['a', 'b']", "has a list that was written as text"),
    "an array of NumPy": ("['a'\n 'b']", "has a list that was written as text"),
    "a JSON list": ('["a", null]', "has a list that was written as text"),
    "a Python list in a list": (["['a']", "b"], "has the {}|can't be read: row 1"),
    "a number": (3, "has the {} 3|can't be read: row 1"),
    "a number in a list": (["a", 3], r"can't be read: row 1 \(clip1.mp4\)"),
    "an object": ({"a": 1}, "can't be read|has the {}"),
}


def write_list(folder, column, value, other, **fields):
    rows = [{"video": f"clip{row}.mp4", column: other, **fields} for row in range(3)]
    rows[1][column] = value
    (folder / "clip0.mp4").touch()
    (folder / "list.json").write_text(json.dumps(rows))
    return folder / "list.json"


def read_captions(path):
    return load_captioned_records([path])


def read_retrieval_set(path):
    return retrieval_set(load_video_records(path, with_labels=False), source=str(path))


def read_choices(path):
    check_choices(load_video_records(path, with_labels=False), str(path))


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize(
    ("column", "read", "fields"),
    [
        ("caption", read_captions, {}),
        ("caption", read_retrieval_set, {}),
        ("caption", read_choices, {"answer": 0}),
        ("answer", load_question_records, {"question": "what?"}),
        ("question", load_question_records, {"answer": "this"}),
    ],
)
def test_a_value_that_is_not_a_text_is_an_error_that_names_its_row(case, column, read, fields, tmp_path):
    value, message = ODD[case]
    path = write_list(tmp_path, column, value, "a text", **fields)
    with pytest.raises(ValueError, match=message.format(column)) as caught:
        read(path)
    assert str(path) in str(caught.value) and "row 1" in str(caught.value) and "clip1.mp4" in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("value", [["a", 3], 3, True])
def test_all_values_may_be_of_a_wrong_type(value, tmp_path):
    path = write_list(tmp_path, "caption", value, value)
    with pytest.raises(ValueError, match=r"has the caption|can't be read"):
        read_captions(path)


def test_a_question_has_one_text():
    table = Dataset.from_dict({"video": ["a.mp4"], "question": [["what?", "who?"]], "answer": [["a", "b"]]})
    with pytest.raises(ValueError, match=r"row 0 of the given Dataset, has the question .*; expected texts, none"):
        load_question_records(table)
    assert load_question_records(table.remove_columns("question").add_column("question", ["what?"]))["answer"] == [
        ["a", "b"]
    ]


@pytest.mark.parametrize("text", ["[music] a man", "[laughs]", "a [dog]", "(a, b)", "[", "[a, b", "{'a': 1}", "3"])
def test_brackets_in_a_text_are_no_list(text):
    assert not is_written_list(text)
    check_texts(Dataset.from_dict({"video": ["v"], "caption": [text]}), "caption", "list")


def test_a_row_after_the_first_batch_is_named(monkeypatch):
    monkeypatch.setattr("umt_training.data.text_columns._ROWS_AT_ONCE", 4)
    captions = [["a"] * (row % 3 + 1) for row in range(11)]
    captions[9] = ["a", ""]
    table = Dataset.from_dict({"video": [f"v{row}" for row in range(11)], "caption": captions})
    with pytest.raises(ValueError, match="v9, row 9 of list, has the caption"):
        check_texts(table, "caption", "list")


def test_a_list_without_captions_is_an_error_that_states_its_columns(tmp_path):
    path = write_list(tmp_path, "title", "a", "a")
    for read in (read_captions, read_retrieval_set):
        with pytest.raises(
            ValueError, match=r"list.json has no column of captions; .* are (video, title|title, video)"
        ):
            read(path)
    with pytest.raises(ValueError, match=r"has no column question and answer: .*list.json has the columns"):
        load_question_records(path)
    with pytest.raises(ValueError, match=r"in .*list.json; it has .*title"):
        read_choices(path)


def test_paragraphs_join_the_captions_of_a_video_in_the_order_of_the_rows():
    videos = ["a", "b", "a", {"path": None, "bytes": b"1"}, {"path": None, "bytes": b"1"}]
    table = Dataset.from_list(
        [
            {"video": video if isinstance(video, dict) else {"path": video, "bytes": None}, "caption": caption}
            for video, caption in zip(videos, (["1", "2"], ["3"], ["4"], ["5"], ["6"]), strict=True)
        ]
    )
    found = join_paragraphs(table)
    assert found["caption"] == ["1 2 4", "3", "5", "6"]
    assert [pair["caption"] for pair in CaptionedRecords([found])] == CaptionedRecords([found]).captions()
    assert CaptionedRecords([table]).captions() == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize("column", ["weight", "weights", "Answer_Weights"])
def test_a_column_of_weights_is_refused(column, tmp_path):
    path = write_list(tmp_path, column, [0.5, 0.5], [1.0], question="what?", answer=["a", "b"])
    with pytest.raises(ValueError, match=f"list.json has the column {column}, .* weighted by repetition"):
        load_question_records(path)


@pytest.mark.parametrize(("kind", "is_odd"), [("", 1), (" ", 1), (None, 1), ("why", 0), (3, 0), ("x" * 500, 0)])
def test_a_question_without_its_type_is_refused(kind, is_odd, tmp_path):
    path = write_list(tmp_path, "type", kind, 2 if kind == 3 else "how", question="what?", answer="a")
    if not is_odd:
        assert load_question_records(path)["type"][1] == kind
        return
    with pytest.raises(ValueError, match=r"1 of 3 questions of .*list.json have no type, first row 1"):
        load_question_records(path)


def test_types_in_text_are_those_of_activitynet():
    assert [type_name(kind) for kind in (3, "3", "03", "9", "why\nnot", 9, -1)] == [
        "yes/no", "yes/no", "yes/no", "9", "why not", "9", "-1",
    ]  # fmt: skip


ANSWERS = {
    "a.json": '["yes", "a dog", "yes", "no, two"]',
    "a.JSON": '[{"answer": "yes", "count": 3}, {"answer": "a dog"}, {"answer": "no, two"}]',
    "a.jsonl": '"yes"\n\n"a dog"\r\n"no, two"\n',
    "b.jsonl": '{"answer": "yes"}\n{"answer": "a dog"}\n{"Answer": "no, two"}\n',
    "a.csv": 'answer,count\nyes,3\n a dog ,2\n"no, two",1\n',
    "b.csv": 'Answer\r\nyes\r\n"a dog"\r\n"no, two"\r\n',
    "c.csv": "count;answer\n3;yes\n2;a dog\n1;no, two\n",
    "a.TSV": "answer\tcount\nyes\t3\na dog\t2\nno, two\t1\n",
    "a.txt": "yes\n\n a dog \r\nno, two\n",
    "a.TXT": "\ufeffyes\ra dog\rno, two",
    "answers": "yes\na dog\nno, two\n",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_lists_of_answers(name, tmp_path):
    (tmp_path / name).write_bytes(ANSWERS[name].encode())
    assert read_answers(tmp_path / name) == ["yes", "a dog", "no, two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '["yes", 2]', "row 2: the answer is 2; expected a text"),
        ("a.json", '["yes", null]', "row 2: the answer is None"),
        ("a.json", '["yes", " "]', "row 2: the answer is ' '"),
        ("a.json", '["yes", ["no"]]', r"row 2: the answer is \['no'\]"),
        ("a.json", '[{"text": "yes"}]', "row 1 has no column answer, but text"),
        ("a.json", '{"yes": 0}', "an object with the keys .* expected a list"),
        ("a.json", "[]", "has no answers"),
        ("a.jsonl", '"yes"\n3\n', "line 2: the answer is 3"),
        ("a.jsonl", '"yes"\nno\n', "line 2 is not valid JSON"),
        ("a.csv", "yes\nno\n", "has no column answer; its first line is 'yes'"),
        ("a.csv", "answer,count\nno, two,1\n", "line 2: the header has 2 columns, this row has 3"),
        ("a.csv", 'answer\n"yes\nno\n', "from line 2: unexpected end of data"),
        ("a.csv", "answer,count\n,1\n", "line 2: the answer is ''"),
        ("a.csv", "answer\n['yes']\n", "line 2: the answer is"),
        ("a.csv", "", "has no column answer"),
        ("a.txt", "\n\n", "has no answers"),
        ("a.pkl", "yes", "its name must end in .json"),
    ],
)
def test_what_is_no_list_of_answers_is_refused(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_answers(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_types_of_questions(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question_id": 1, "type": 3}\n{"question_id": "q", "type": "why"}\n')
    assert read_question_types(tmp_path / "a.jsonl") == {1: 3, "q": "why"}
    for row, message in (('{"question_id": 2, "type": ""}', "line 1 is"), ('{"question_id": 2}', "line 1 is")):
        (tmp_path / "a.jsonl").write_text(row)
        with pytest.raises(ValueError, match=message):
            read_question_types(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text('{"question_id": 1, "type": 3}\n{"question_id": 1, "type": 4}\n')
    with pytest.raises(ValueError, match="line 2: the question 1 has two types"):
        read_question_types(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([1, 3, 2], "counted from 1; subtract 1"),
        ([0, 3, 2], "counted from 0"),
        ([-1, 0, 1], "counted from 0"),
        ([3, None, 1], "counted from 1"),
        (["a", "b", "c"], "the answer 'a'.*counted from"),
        ([True, False, True], "the answer True"),
    ],
)
def test_the_answers_of_multiple_choice_are_indices_from_zero(answers, message):
    table = Dataset.from_dict({"video": ["v"] * 3, "caption": [["a", "b", "c"]] * 3, "answer": answers})
    with pytest.raises(ValueError, match=message):
        check_choices(table)
    check_choices(table.remove_columns("answer").add_column("answer", [2, 0, 1]))
