"""Sections of a classification run's page about its evaluation videos."""

from pathlib import Path

import torch
from datasets import Dataset

from ..evaluation.classification_metrics import ConfusionMatrix
from ..evaluation.classification_page import classification_sections
from ..evaluation.clips import video_names
from ..pictures.run_page import Section
from ..trainers.finetuning import UMTFineTuningTrainer


def evaluation_sections(trainer: UMTFineTuningTrainer, records: Dataset, class_names: list[str]) -> list[Section]:
    """Classifies the evaluation videos once more, with the saved weights, and draws the results in
    `output_dir/pictures`; to be called by all processes.

    Frames of the videos are drawn unless the run pushes to the Hub, as the push uploads the folder.

    Args:
        trainer: The trainer after training.
        records: The records of its evaluation videos.
        class_names: Names in the order of the model.
    """
    output = trainer.predict(trainer.eval_dataset)
    if not trainer.is_world_process_zero():
        return []
    probabilities = torch.from_numpy(output.predictions).double().softmax(dim=-1).numpy()
    labels = output.label_ids
    matrix = ConfusionMatrix().compute(predictions=probabilities, references=labels)["confusion_matrix"]
    top1 = 100 * matrix.trace() / len(labels)
    return classification_sections(
        Path(trainer.args.output_dir, "pictures"),
        matrix,
        probabilities,
        labels,
        class_names,
        f"{len(labels)} evaluation videos, single view: top-1 {top1:.2f} %",
        [Path(name).name for name in video_names(records)],  # no absolute paths in the folder of a run
        None if trainer.args.push_to_hub else lambda row: records[row]["video"],
    )
