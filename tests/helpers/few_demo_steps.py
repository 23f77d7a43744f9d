"""Settings of `umt demo` and of the experiments on its clips that take seconds."""

from dataclasses import replace

from umt_training.demo.demo import DemoSettings

FEW = DemoSettings(
    seeds=1,
    long_seeds=0,
    unlabelled=64,
    labelled=2,
    validation=8,
    test=16,
    teacher_clips=32,
    teacher_steps=2,
    pretrain_steps=4,
    finetune_steps=2,
    rates=(1e-3,),
)
FEW_DEMO = replace(FEW, seeds=2, long_seeds=1, pretrain_steps=2, long_factor=2)
