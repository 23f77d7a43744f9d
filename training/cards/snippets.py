"""Python code on the model cards; `{model}` is a model's id or folder, `{folder}` an expression for its folder."""

CLASSIFY = """from transformers import pipeline

classifier = pipeline("video-classification", model="{model}", trust_remote_code=True)
print(classifier("clip.mp4", top_k=5))
"""

CLASSIFY_WITH_ADAPTER = """from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

folder = {folder}
base = AutoModelForVideoClassification.from_pretrained(f"{{folder}}/base", trust_remote_code=True)
processor = AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True)
model = PeftModel.from_pretrained(base, folder).eval()
logits = model(**processor("clip.mp4", return_tensors="pt")).logits
print(base.config.id2label[logits.argmax().item()])
"""

DETECT = """from transformers import AutoModelForObjectDetection, AutoVideoProcessor

processor = AutoVideoProcessor.from_pretrained("{model}", trust_remote_code=True)
model = AutoModelForObjectDetection.from_pretrained("{model}", trust_remote_code=True).eval()
boxes = [[[12, 8, 40, 44]]]  # for each video, x1, y1, x2, y2 of each person in the key frame, in pixels
inputs = processor("clip.mp4", key_times=[0.5], boxes=boxes, return_tensors="pt")
actions = processor.post_process_action_detection(model(**inputs), boxes, threshold=0)[0]
for score, label in zip(actions["scores"][:5], actions["labels"][:5]):
    print(f"{{score:.2f}} {{model.config.id2label[label.item()]}}")
"""

EMBED = """import torch
from transformers import AutoModel, AutoVideoProcessor

processor = AutoVideoProcessor.from_pretrained("{model}", trust_remote_code=True)
model = AutoModel.from_pretrained("{model}", trust_remote_code=True)
with torch.inference_mode():
    outputs = model(**processor("clip.mp4", return_tensors="pt"))
print(outputs.pooler_output.shape)

from sentence_transformers import SentenceTransformer  # pip install sentence-transformers

encoder = SentenceTransformer("{model}", trust_remote_code=True)
print(encoder.encode(["clip.mp4"]).shape)  # the same vectors
"""

TEACH = """import torch
from transformers import AutoModel, AutoVideoProcessor

processor = AutoVideoProcessor.from_pretrained("{model}", trust_remote_code=True)
teacher = AutoModel.from_pretrained("{model}", trust_remote_code=True).eval()
with torch.inference_mode():
    outputs = teacher(**processor("clip.mp4", return_tensors="pt"))
print(outputs.features.shape)  # (1, aligned layers, tokens, dim)
print(outputs.cls_attention.shape)  # (1, frames, tokens per frame)
"""

TEACH_IMAGES = """import torch
from transformers import AutoModel

teacher = AutoModel.from_pretrained("{model}", trust_remote_code=True).eval()
frames = torch.randn(1, 8, 3, 224, 224)  # every second frame of the student's clip
with torch.inference_mode():
    targets = teacher(frames).last_hidden_state
print(targets.shape)  # (1, frames * patches per frame, hidden_size)
"""

SEARCH = """import torch
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained("{model}", trust_remote_code=True)
model = AutoModel.from_pretrained("{model}", trust_remote_code=True).eval()
texts = ["a person is cooking", "a dog runs on the beach"]
inputs = processor(text=texts, videos="clip.mp4", return_tensors="pt")
with torch.inference_mode():
    outputs = model(**inputs)
    video_states = model.get_video_features(inputs["pixel_values_videos"]).last_hidden_state
    text_states = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    logits = model.match(text_states, inputs["attention_mask"], video_states.expand(len(texts), -1, -1))
print(outputs.video_embeds @ outputs.text_embeds.T)  # (1 video, 2 texts): cosine similarity, to find candidates
print(logits[:, 1])  # match logits, to re-rank the candidates

from sentence_transformers import SentenceTransformer  # pip install sentence-transformers

encoder = SentenceTransformer("{model}", trust_remote_code=True)
print(encoder.similarity(encoder.encode(["clip.mp4"]), encoder.encode(texts)))  # the same cosine similarities
"""

COMPARE = """from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained("{model}", trust_remote_code=True)
model = AutoModel.from_pretrained("{model}", trust_remote_code=True).eval()
texts = ["a dog runs", "a cat sleeps"]
inputs = processor(text=texts, videos="clip.mp4", return_tensors="pt")
print(model(**inputs).logits_per_video.softmax(dim=-1))

from sentence_transformers import SentenceTransformer  # pip install sentence-transformers

encoder = SentenceTransformer("{model}", trust_remote_code=True)
print(encoder.similarity(encoder.encode(["clip.mp4"]), encoder.encode(texts)))  # cosine similarities
"""

ASK = """import torch
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

processor = AutoProcessor.from_pretrained("{model}", trust_remote_code=True)
model = AutoModelForVisualQuestionAnswering.from_pretrained("{model}", trust_remote_code=True).eval()
answers = ["dog", "cat", "guitar"]
question = processor(text="what is on the beach?", videos="clip.mp4", return_tensors="pt")
candidates = processor.encode_answers(answers, return_tensors="pt")
with torch.inference_mode():
    order, scores = model.rank_answers(**question, candidate_ids=candidates["input_ids"])
print(answers[order[0, 0].item()], scores[0, 0].item())
"""

ANSWER = """from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

processor = AutoProcessor.from_pretrained("{model}", trust_remote_code=True)
model = AutoModelForVisualQuestionAnswering.from_pretrained("{model}", trust_remote_code=True).eval()
question = processor(videos="clip.mp4", text="what is the man doing?", return_tensors="pt")
print(processor.tokenizer.batch_decode(model.generate(**question), skip_special_tokens=True))
answers = ["dancing", "running", "singing"]
candidates = processor.encode_answers(answers, return_tensors="pt")
order, scores = model.rank_answers(**question, candidate_ids=candidates["input_ids"])
print([answers[index] for index in order[0]], scores[0])
"""
