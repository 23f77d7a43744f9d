"""Names of video and image files where a text is expected: a misspelt path would be encoded as a caption."""

import os
from collections.abc import Sequence

from .image_frames_umt import IMAGE_SUFFIXES

# as in umt_training.data.video_files, which is not copied to the Hub
VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".flv", ".gif", ".ivf", ".m2ts", ".m4v", ".mj2", ".mkv", ".mov", ".mp4", ".mpeg",
    ".mpg", ".mts", ".mxf", ".nut", ".ogg", ".ogv", ".rm", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip


def require_no_file_names(texts: Sequence[str]) -> None:
    """Raises a ValueError for a text that is a URL, or the name of a video or image: one that exists, or that has no
    spaces."""
    for text in texts:
        is_word = len(text.split()) == 1
        is_media = text.strip().lower().endswith(VIDEO_SUFFIXES + IMAGE_SUFFIXES)
        is_url = text.startswith(("http://", "https://"))
        if (is_word and (is_media or is_url)) or (is_media and os.path.isfile(text)):
            raise ValueError(
                f"{text[:200]!r} was given as a text, but is the name of a file or a URL; check that it exists, and "
                'give a video as {"video": name}, an image as {"image": name}.'
            )
