"""Random numbers of token selection.

Randomness comes from a `torch.Generator`, or from one integer seed per sample. With seeds, a clip's mask depends on
its own seed alone: neither the other clips of the batch, nor the number of processes, nor a resume changes it. The
seeded path is plain integer arithmetic, so unlike a generator it also compiles into one graph.
"""

import torch


def uniform_noise(
    shape: tuple[int, int],
    device: torch.device,
    generator: torch.Generator | None = None,
    sample_seeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """Uniform values in `[0, 1)`: from `generator`, from PyTorch's default one, or row by row from `sample_seeds`.

    With seeds, value i of a row is a hash of (seed, i), the same on every device and in every batch.

    Args:
        shape (`tuple[int, int]`): `(batch, values)`.
        device (`torch.device`): Device of the values; the generator or the seeds must be on it.
        generator (`torch.Generator`, *optional*): Random generator.
        sample_seeds (`torch.Tensor` of shape `(batch,)`, int64, *optional*): One seed per row, any 64-bit value.

    Returns:
        `torch.Tensor` of shape `shape`, float32, multiples of 2^-24.

    Raises:
        ValueError: if both sources are given, or the seeds are not int64 of shape `(batch,)`.
    """
    if sample_seeds is None:
        return torch.rand(shape, generator=generator, device=device)
    if generator is not None:
        raise ValueError("Both `generator` and `sample_seeds` were given; pass one of them.")
    if sample_seeds.dtype != torch.int64 or sample_seeds.shape != shape[:1]:
        raise ValueError(
            f"`sample_seeds` must be int64 of shape ({shape[0]},), one seed per sample; "
            f"got {sample_seeds.dtype} of shape {tuple(sample_seeds.shape)}."
        )
    # one 32-bit word per sample from all 64 bits of its seed, one per position; the constants keep 0 from staying 0
    low, high = sample_seeds & _WORD, (sample_seeds >> 32) & _WORD
    sample = _mix_bits(_mix_bits(low ^ 0x9E3779B9) ^ high)
    position = _mix_bits(torch.arange(shape[1], device=device) ^ 0x85EBCA6B)
    bits = _mix_bits(_mix_bits(sample[:, None] ^ position))
    return (bits >> 8).float() * 2.0**-24


def sampling_scores(weights: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Scores whose k highest are a sample of k without replacement, in proportion to `weights`.

    They are log-probabilities plus Gumbel noise (Efraimidis & Spirakis, 2006; Kool et al., arXiv 1903.06059). Weights
    of 0 come after all others, in random order among themselves.

    Args:
        weights (`torch.Tensor`): Non-negative weights; they need not sum to one.
        noise (`torch.Tensor` of the same shape): Values of [`uniform_noise`].

    Returns:
        `torch.Tensor` of the same shape, float32.
    """
    # the clamps keep noise within [-3, 18] and log(0) at -87
    gumbel = -torch.log(-torch.log1p(-noise.clamp_min(2.0**-25)))
    return weights.float().clamp_min(torch.finfo(torch.float32).tiny).log() + gumbel


_WORD = 0xFFFFFFFF


def _mix_bits(word: torch.Tensor) -> torch.Tensor:
    """A multiply-xorshift bijection of 32-bit words held in int64; with factors below 2^31 nothing overflows."""
    word = ((word ^ (word >> 15)) * 0x2C1B3C6D) & _WORD
    word = ((word ^ (word >> 12)) * 0x297A2D39) & _WORD
    return word ^ (word >> 15)
