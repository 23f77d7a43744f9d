"""Every question-answering recipe compared with the published scripts."""

import re

import pytest

from umt_training.runs.question_answering_run import QuestionAnsweringRun
from umt_training.runs.recipes import RECIPES_FOLDER, for_this_machine, parse_recipe, read_recipe, recipe_names
from umt_training.runs.retrieval_run import RetrievalRun
from umt_training.trainers.question_answering import UMTQuestionAnsweringArguments
from umt_training.trainers.video_text import UMTVideoTextArguments

# learning rate, epochs, drop path and accuracy of the model on 25M
PUBLISHED = {
    "b16_activitynet": (4e-5, 12, 0.2, 44.8),
    "l16_activitynet": (4e-5, 10, 0.3, 47.9),
    "b16_msrvtt": (2e-5, 8, 0.2, 44.9),
    "l16_msrvtt": (4e-5, 5, 0.4, 47.1),
    "b16_msvd": (6e-5, 6, 0.2, 49.5),
    "l16_msvd": (6e-5, 6, 0.4, 55.2),
}


def test_there_is_a_recipe_for_every_published_run():
    assert {name for name in recipe_names() if name.endswith("_qa")} == {f"umt_{name}_qa" for name in PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_values(name, tmp_path):
    rate, epochs, drop_path, accuracy = PUBLISHED[name]
    recipe = read_recipe(f"umt_{name}_qa")
    assert recipe["bf16"] is True
    run, args = parse_recipe(
        for_this_machine(recipe), ["--output_dir", str(tmp_path)], QuestionAnsweringRun, UMTQuestionAnsweringArguments
    )
    size = name[:3]
    assert run.task == "question_answering" and run.init_from == f"OpenGVLab/UMT:multi_modality/{size}_25m.pth"
    assert run.text == f"google-bert/bert-{'base' if size == 'b16' else 'large'}-uncased"
    assert (run.num_frames, run.max_text_length, run.scored) == (12, 25, 128)
    assert run.model == {"drop_path_rate": drop_path}
    assert (args.learning_rate, args.num_train_epochs) == (rate, epochs)
    assert (args.learning_rate_floor, args.warmup_epochs, args.weight_decay) == (0.01, 1, 0.02)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.max_grad_norm) == (0.9, 0.999, 1e-8, 0)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.seed) == (32, 1, 42)
    assert (args.checkpoint_blocks, args.checkpoint_text) == (12 if size == "b16" else 24, True)
    assert (args.metric_for_best_model, args.greater_is_better, args.load_best_model_at_end) == (
        "accuracy",
        True,
        True,
    )
    text = (RECIPES_FOLDER / f"umt_{name}_qa.yaml").read_text()
    assert re.search(rf"Expected: {accuracy} %", text)


@pytest.mark.parametrize(
    "size, rate, epochs, drop_path, accuracy", [("b16", 8e-5, 3, 0.2, 96.3), ("l16", 4e-5, 5, 0.3, 97.3)]
)
def test_multiple_choice_recipes_train_a_retrieval_model(size, rate, epochs, drop_path, accuracy, tmp_path):
    name = f"umt_{size}_msrvtt_mc"
    run, args = parse_recipe(
        for_this_machine(read_recipe(name)), ["--output_dir", str(tmp_path)], RetrievalRun, UMTVideoTextArguments
    )
    assert run.task == "retrieval" and run.init_from == f"OpenGVLab/UMT:multi_modality/{size}_25m.pth"
    assert (run.num_frames, run.max_text_length, run.vision) == (12, 32, {"drop_path_rate": drop_path})
    assert (args.learning_rate, args.num_train_epochs, args.warmup_epochs) == (rate, epochs, 0)
    assert f"Expected: {accuracy} %" in (RECIPES_FOLDER / f"{name}.yaml").read_text()


def test_recipes_state_inconsistencies_of_the_scripts():
    for name, words in {
        "b16_activitynet": "script for B/16 on 5M",
        "b16_msrvtt": "assumes that of B/16 on 5M and 17M",
        "l16_msvd": "zoo",
    }.items():
        assert words in (RECIPES_FOLDER / f"umt_{name}_qa.yaml").read_text()
