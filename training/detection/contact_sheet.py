"""A picture of the key frames of a video in rows, with the persons drawn."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..clock import clock
from ..pictures.drawing import FAINT, INK, PAPER
from .detections import DetectedVideo
from .drawing import draw_persons

COLUMNS = 3
LARGEST = (320, 320)  # width and height of a frame on the sheet, in pixels
MOST_FRAMES = 60
_GAP, _CAPTION, _TITLE = 6, 18, 28


class ContactSheet:
    """Collects small copies of key frames, so that the frames themselves need not stay in memory.

    Args:
        num_key_frames: number of key frames of the video. Of more than 60, 60 are shown, evenly spaced.
    """

    def __init__(self, num_key_frames: int):
        shown = np.linspace(0, num_key_frames - 1, min(num_key_frames, MOST_FRAMES)).round().astype(int)
        self._shown, self._thumbnails = set(shown.tolist()), {}

    def add(self, number: int, image: np.ndarray) -> None:
        """Adds the frame of key frame `number`, uint8 `(height, width, 3)`, if it is one of those shown."""
        if number in self._shown:
            height, width = image.shape[:2]
            scale = min(1.0, LARGEST[0] / width, LARGEST[1] / height)
            size = max(1, round(scale * width)), max(1, round(scale * height))
            picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
            self._thumbnails[number] = picture

    def draw(self, video: DetectedVideo, title: str) -> Image.Image:
        """The sheet of a video whose shown key frames were added.

        Args:
            video: its key frames, with tracks.
            title: text above the frames.
        """
        numbers = sorted(self._thumbnails)
        width, height = self._thumbnails[numbers[0]].size
        columns = min(COLUMNS, len(numbers))
        rows = -(-len(numbers) // columns)
        font, title_font = ImageFont.load_default(12), ImageFont.load_default(15)
        if len(numbers) < len(video.key_frames):
            title += f" ({len(numbers)} of {len(video.key_frames)} key frames)"
        sheet_width = max(columns * (width + _GAP), round(title_font.getlength(title)) + _GAP) + _GAP
        sheet = Image.new("RGB", (sheet_width, _TITLE + rows * (height + _CAPTION + _GAP)), PAPER)
        draw = ImageDraw.Draw(sheet)
        draw.text((_GAP, _TITLE / 2), title, fill=INK, font=title_font, anchor="lm")
        for place, number in enumerate(numbers):
            key_frame, picture = video.key_frames[number], self._thumbnails[number].copy()
            draw_persons(picture, key_frame.persons, picture.width / video.width)
            x = _GAP + place % columns * (width + _GAP)
            y = _TITLE + place // columns * (height + _CAPTION + _GAP)
            sheet.paste(picture, (x, y))
            draw.text((x, y + height + 2), f"{clock(key_frame.time)}  frame {key_frame.frame}", fill=FAINT, font=font)
        return sheet
