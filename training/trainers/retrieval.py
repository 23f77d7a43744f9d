"""Fine-tuning for text-video retrieval (arXiv 2303.16058, section 4.3) as a Transformers Trainer.

The objectives are contrast and matching, as in stage 2, without masks and without a teacher. Evaluation scores the
model over all processes, as `umt evaluate --task retrieval` does, and reports the re-ranked recall.
"""

import torch

from ..evaluation.retrieval import RetrievalSet, evaluate_retrieval
from .video_text import UMTVideoTextTrainer


class UMTRetrievalTrainer(UMTVideoTextTrainer):
    """Fine-tunes a [`UMTForVideoTextPreTraining`] with contrast and matching; evaluation measures re-ranked recall.

    Args:
        eval_dataset ([`RetrievalSet`], *optional*): Videos and texts, in place of a data set of clips.
        num_reranked (`int`, defaults to 128): Number of candidates of a query that the cross-encoder re-ranks.
        trim_seconds (`float`, *optional*): Evaluation samples frames from the first `trim_seconds` of a video.
        args, kwargs: Arguments of [`UMTVideoTextTrainer`], except `teacher`.
    """

    def __init__(
        self,
        *args,
        eval_dataset: RetrievalSet | None = None,
        num_reranked: int = 128,
        trim_seconds: float | None = None,
        **kwargs,
    ):
        super().__init__(*args, teacher=None, eval_dataset=eval_dataset, **kwargs)
        self.num_reranked, self.trim_seconds = num_reranked, trim_seconds

    def evaluate(
        self,
        eval_dataset: RetrievalSet | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Recall in percent: `eval_text_to_video_r1` … and `eval_mean_recall` after re-ranking, `eval_dual_encoder_…`
        before it; `eval_chance_r1`: the chance level of recall at rank 1, averaged over both directions."""
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16}
        scores = evaluate_retrieval(
            self.accelerator.unwrap_model(self.model).video_text,
            self.processing_class,
            data,
            num_reranked=self.num_reranked,
            trim_seconds=self.trim_seconds,
            batch_size=self.args.per_device_eval_batch_size,
            num_workers=self.args.dataloader_num_workers,
            autocast_dtype=dtypes.get(self.args.mixed_precision),
        )
        for video, reason, _ in scores.skipped if self.is_world_process_zero() else ():
            print(f"evaluation: {video} cannot be read ({reason}); it is not counted", flush=True)
        match = scores.data.match
        metrics = {"chance_r1": 50.0 * float(match.mean(axis=0).mean() + match.mean(axis=1).mean())}
        metrics |= {f"dual_encoder_{name}": value for name, value in scores.metrics["dual_encoder"].items()}
        metrics |= scores.metrics.get("reranked", scores.metrics["dual_encoder"])
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
