"""Video question answering in minutes on a laptop, without network, from the tiny stage-2 model of video_text.py.

`UMTForVideoQuestionAnswering` starts from that model, with the words of the questions added to its vocabulary. It is
trained on questions about the stage-2 training clips and evaluated on questions about held-out clips, whose captions
are distinct. The direction of motion can't be answered from a single frame. As a control, the same network is trained
on the same questions without stage 2.

    python examples/video_text.py --output video-text
    python examples/question_answering.py --start video-text --output video-answers
    umt ask video-text/test/east/2-00002.mp4 "Which way does it move?" --model video-answers/model
"""

import argparse
import json
import re
import time
from collections import Counter
from functools import partial
from pathlib import Path

import torch
import video_text

from modeling_umt import UMTForVideoQuestionAnswering, UMTForVideoTextPreTraining
from processing_umt import UMTProcessor
from processing_umt.frame_sampling_umt import sample_training_clip
from umt_training import UMTQuestionAnsweringArguments, UMTQuestionAnsweringTrainer
from umt_training.data.question_records import load_question_records
from umt_training.data.video_dataset import VideoClipDataset
from umt_training.demo.motion_clips import roll_and_jitter
from umt_training.evaluation.question_answering import QuestionScores, evaluate_questions

CAPTION = re.compile(r"A (?P<colour>\w+) (?P<shape>\w+) moves (?P<way>[\w ]+), \w+ (?P<background>\w+) background\.")
QUESTIONS = {
    "way": "Which way does it move?",
    "colour": "What colour is it?",
    "shape": "What shape is it?",
    "background": "What colour is the background?",
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--start", type=Path, default=Path("video-text"), help="output folder of video_text.py")
    parser.add_argument("--output", type=Path, default=Path("video-answers"), help="folder of questions and model")
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps of each of the two runs")
    args = parser.parse_args(argv)
    start = time.perf_counter()

    args.output.mkdir(parents=True, exist_ok=True)
    train_questions = write_questions(args.start / "train.json", args.output)
    test_questions = write_questions(args.start / "test.json", args.output)
    stage2, processor = with_words_of_questions(args.start / "model", args.output)
    torch.manual_seed(0)
    sources = {"from stage 2": stage2, "from scratch": UMTForVideoTextPreTraining(stage2.config)}

    answers = sorted({row["answer"] for row in json.loads(train_questions.read_text())})
    scores = {}
    for name, source in sources.items():
        model = train(source, processor, train_questions, args.output / "run", args.steps)
        records = load_question_records(test_questions)
        scores[name] = evaluate_questions(model, processor, records, answers, num_workers=0)
        video_text.say(start, f"{args.steps} steps of question answering {name}")
        if source is stage2:
            model.save_pretrained(args.output / "model")
            processor.save_pretrained(args.output / "model")
    report(scores, train_questions, test_questions, len(answers))
    video_text.say(start, "done")


def write_questions(captions: Path, folder: Path) -> Path:
    """Write the annotation file of four questions per captioned clip, in the official format."""
    rows = []
    for row in json.loads(captions.read_text()):
        answers = CAPTION.fullmatch(row["caption"]).groupdict()
        for kind, question in QUESTIONS.items():
            video = str((captions.parent / row["video"]).resolve())
            rows.append({"video": video, "question": question, "answer": answers[kind], "type": kind})
    for index, row in enumerate(rows):
        row["question_id"] = index
    questions = folder / f"{captions.stem}-questions.json"
    questions.write_text(json.dumps(rows))
    return questions


def with_words_of_questions(model: Path, folder: Path) -> tuple[UMTForVideoTextPreTraining, UMTProcessor]:
    """The stage-2 model and its processor, with embeddings added for the words that are not in the captions."""
    stage2, processor = UMTForVideoTextPreTraining.from_pretrained(model), UMTProcessor.from_pretrained(model)
    known = sorted(processor.tokenizer.vocab, key=processor.tokenizer.vocab.get)
    words = " ".join(QUESTIONS.values()).lower().replace("?", "").split()
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*known, *sorted({*words} - {*known})]) + "\n")
    extended = UMTProcessor.from_bert(
        vocabulary, num_frames=video_text.FRAMES, image_size=video_text.SIDE, max_text_length=12
    )
    stage2.resize_token_embeddings(len(extended.tokenizer), mean_resizing=False)
    return stage2, extended


def train(
    source: UMTForVideoTextPreTraining, processor: UMTProcessor, questions: Path, folder: Path, num_steps: int
) -> UMTForVideoQuestionAnswering:
    """Train on clips without flips, as in the published recipes; flips would turn east into west."""
    torch.manual_seed(0)
    trainer = UMTQuestionAnsweringTrainer(
        UMTForVideoQuestionAnswering.from_video_text(source),
        UMTQuestionAnsweringArguments(
            output_dir=str(folder),
            max_steps=num_steps,
            per_device_train_batch_size=video_text.BATCH,
            learning_rate=5e-4,
            warmup_steps=0.1,
            logging_steps=max(1, num_steps // 10),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        processor,
        train_dataset=VideoClipDataset(
            load_question_records(questions),
            num_frames=video_text.FRAMES,
            sample_frames=partial(sample_training_clip, sampling="middle"),
            transform=partial(roll_and_jitter, jitter=0.1),
        ),
    )
    trainer.train()
    return trainer.model.eval()


def report(scores: dict[str, QuestionScores], train_questions: Path, test_questions: Path, num_answers: int) -> None:
    """Print a table of accuracies beside that of always giving the most frequent training answer to a question."""
    most_frequent = {}
    for kind in QUESTIONS:
        rows = [row for row in json.loads(train_questions.read_text()) if row["type"] == kind]
        most_frequent[kind] = Counter(row["answer"] for row in rows).most_common(1)[0][0]
    rows = json.loads(test_questions.read_text())
    print(f"{len(rows)} questions about held-out clips, {num_answers} candidate answers; accuracy in percent")
    print(f"    {'':<32}" + "".join(f"{name:>15}" for name in (*scores, "most frequent")))
    for kind, question in [*QUESTIONS.items(), (None, "all")]:
        of_kind = [row for row in rows if kind in (None, row["type"])]
        baseline = 100 * sum(row["answer"] == most_frequent[row["type"]] for row in of_kind) / len(of_kind)
        values = [score.accuracy_by_type[kind] if kind else score.accuracy for score in scores.values()]
        print(f"    {question:<32}" + "".join(f"{value:15.1f}" for value in (*values, baseline)))


if __name__ == "__main__":
    main()
