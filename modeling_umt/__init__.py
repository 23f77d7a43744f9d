"""UMT models for Transformers. Importing this package registers them with the Auto classes."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForObjectDetection,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoModelForVisualQuestionAnswering,
)
from transformers.utils import is_av_available

from .configuration_internvideo2_umt import InternVideo2Config
from .configuration_umt import UMTConfig, UMTTeacherConfig, UMTTextConfig, UMTVideoTextConfig
from .configuration_umt_image_teacher import UMTImageTeacherConfig
from .convert_masked_autoencoders_umt import image_teacher_from_vit_mae, video_teacher_from_videomae
from .convert_umt_checkpoints import convert_umt_checkpoint
from .modeling_internvideo2_umt import (
    InternVideo2ForPreTraining,
    InternVideo2ForPreTrainingOutput,
    InternVideo2ForVideoClassification,
    InternVideo2Model,
)
from .modeling_umt import UMTForPreTraining, UMTForPreTrainingOutput, UMTForVideoClassification, UMTModel
from .modeling_umt_action_detection import UMTActionDetectionOutput, UMTForActionDetection
from .modeling_umt_dinov2_teacher import UMTDinov2Teacher
from .modeling_umt_dinov3_teacher import UMTDinov3Teacher
from .modeling_umt_image_teacher import UMTImageTeacherModel
from .modeling_umt_masked_modeling import UMTForMaskedModeling, UMTMaskedModelingOutput
from .modeling_umt_question_answering import UMTForVideoQuestionAnswering, UMTForVideoQuestionAnsweringOutput
from .modeling_umt_siglip_teacher import UMTSiglipTeacher
from .modeling_umt_teacher import UMTTeacherModel
from .modeling_umt_text import UMTTextModel
from .modeling_umt_video_text import UMTVideoTextModel, UMTVideoTextOutput
from .modeling_umt_video_text_pretraining import UMTForVideoTextPreTraining, UMTForVideoTextPreTrainingOutput
from .teacher_forward_umt import UMTTeacherOutput
from .vocabulary_umt import vocabulary_hash
from .zero_shot_pipeline_umt import UMTZeroShotVideoClassificationPipeline

# With `register_for_auto_class` every save writes the code beside the weights, so a repository loads without this
# package.
for config_class in (
    UMTConfig,
    UMTTeacherConfig,
    UMTImageTeacherConfig,
    UMTTextConfig,
    UMTVideoTextConfig,
    InternVideo2Config,
):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    config_class.register_for_auto_class()
for auto_class, model_class in (
    (AutoModel, UMTModel),
    (AutoModel, UMTTeacherModel),
    (AutoModel, UMTImageTeacherModel),
    (AutoModelForVideoClassification, UMTForVideoClassification),
    (AutoModelForPreTraining, UMTForPreTraining),
    (AutoModelForPreTraining, UMTForMaskedModeling),
    (AutoModelForObjectDetection, UMTForActionDetection),
    (AutoModel, UMTTextModel),
    (AutoModel, UMTVideoTextModel),
    (AutoModelForPreTraining, UMTForVideoTextPreTraining),
    (AutoModelForVisualQuestionAnswering, UMTForVideoQuestionAnswering),
    (AutoModel, InternVideo2Model),
    (AutoModelForVideoClassification, InternVideo2ForVideoClassification),
    (AutoModelForPreTraining, InternVideo2ForPreTraining),
):
    auto_class.register(model_class.config_class, model_class, exist_ok=True)
    model_class.register_for_auto_class(auto_class.__name__)
# two classes for one configuration, whose `architectures` names one of them
AutoModelForPreTraining.register(UMTConfig, (UMTForPreTraining, UMTForMaskedModeling), exist_ok=True)

if is_av_available():
    # registers the processors, without which `pipeline` finds none for these configurations
    import processing_umt  # noqa: F401

__all__ = [
    "InternVideo2Config",
    "InternVideo2ForPreTraining",
    "InternVideo2ForPreTrainingOutput",
    "InternVideo2ForVideoClassification",
    "InternVideo2Model",
    "UMTActionDetectionOutput",
    "UMTConfig",
    "UMTDinov2Teacher",
    "UMTDinov3Teacher",
    "UMTForActionDetection",
    "UMTForMaskedModeling",
    "UMTForPreTraining",
    "UMTForPreTrainingOutput",
    "UMTForVideoClassification",
    "UMTForVideoQuestionAnswering",
    "UMTForVideoQuestionAnsweringOutput",
    "UMTForVideoTextPreTraining",
    "UMTForVideoTextPreTrainingOutput",
    "UMTImageTeacherConfig",
    "UMTImageTeacherModel",
    "UMTMaskedModelingOutput",
    "UMTModel",
    "UMTSiglipTeacher",
    "UMTTeacherConfig",
    "UMTTeacherModel",
    "UMTTeacherOutput",
    "UMTTextConfig",
    "UMTTextModel",
    "UMTVideoTextConfig",
    "UMTVideoTextModel",
    "UMTVideoTextOutput",
    "UMTZeroShotVideoClassificationPipeline",
    "convert_umt_checkpoint",
    "image_teacher_from_vit_mae",
    "video_teacher_from_videomae",
    "vocabulary_hash",
]
