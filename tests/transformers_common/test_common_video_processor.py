"""Transformers' common tests of video processors."""

import unittest

from transformers_mixins import common

from processing_umt import UMTVideoProcessor

mixins = common("test_video_processing_common")


class VideoProcessorTester:
    """What the mixin asks for: random videos, and the shape of one after processing."""

    batch_size, num_frames, num_channels = 5, 8, 3

    def prepare_video_inputs(self, equal_resolution=False, return_tensors="pil"):
        return mixins.prepare_video_inputs(
            self.batch_size, self.num_frames, self.num_channels, 30, 80, equal_resolution, return_tensors
        )

    def expected_output_video_shape(self, videos):
        return self.num_frames, self.num_channels, 18, 18


class UMTVideoProcessorTest(mixins.VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = UMTVideoProcessor
    test_cast_dtype = True
    video_processor_dict = {"size": {"shortest_edge": 20}, "crop_size": {"height": 18, "width": 18}}

    def setUp(self):
        super().setUp()
        self.video_processor_tester = VideoProcessorTester()

    def test_call_sample_frames(self):
        """The parts that hold. A clip has `num_frames` frames whatever the length of the video, by repetition of a
        short one, as in the official code, and `fps` is not an option; the mixin expects an error and the rate."""
        self.video_processor_tester.num_frames = 8
        videos = self.video_processor_tester.prepare_video_inputs(return_tensors="torch")
        processor = UMTVideoProcessor(**self.video_processor_dict)
        for do_sample_frames, expected in ((False, 8), (True, 3)):
            processor.do_sample_frames = do_sample_frames
            for inputs, batch in ((videos[0], 1), (videos, 5)):
                encoded = processor(inputs, return_tensors="pt", num_frames=3)[self.input_name]
                self.assertEqual(encoded.shape[:2], (batch, expected))
