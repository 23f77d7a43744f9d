"""Averaging of views: the mean of the views' predictions, as logits."""

import pytest
import torch

from modeling_umt import UMTConfig, UMTForVideoClassification
from modeling_umt.view_averaging_umt import average_views


@pytest.mark.parametrize("scale", [1.0, 80.0])  # without overflow
@pytest.mark.parametrize(
    "problem_type", [None, "single_label_classification", "multi_label_classification", "regression"]
)
def test_the_average_is_that_of_the_predictions(problem_type, scale):
    logits = scale * torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    predict = {"multi_label_classification": torch.sigmoid, "regression": lambda x: x}.get(
        problem_type, lambda x: x.softmax(dim=-1)
    )
    averaged = average_views(logits, 3, problem_type)
    assert averaged.shape == (2, 5) and averaged.dtype == logits.dtype
    torch.testing.assert_close(predict(averaged), predict(logits).unflatten(0, (2, 3)).mean(dim=1))
    assert average_views(logits.bfloat16(), 3, problem_type).dtype == torch.bfloat16


def test_a_classifier_averages_grouped_views():
    torch.manual_seed(0)
    config = UMTConfig(
        image_size=32, num_frames=2, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        num_aligned_layers=1, num_labels=3,
    )  # fmt: skip
    model = UMTForVideoClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight, std=3.0)
    views = torch.randn(2, 3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([2, 0])
    with torch.no_grad():
        single = model(views.flatten(0, 1)).logits
        outputs = model(views, labels=labels)
    probabilities = single.softmax(dim=-1).unflatten(0, (2, 3)).mean(dim=1)
    torch.testing.assert_close(outputs.logits.softmax(dim=-1), probabilities)
    torch.testing.assert_close(outputs.loss, -probabilities[range(2), labels].log().mean())
