"""All-gather of embeddings with gradients, for a contrastive loss over the batches of all processes.

Every process computes the loss of the global batch from the embeddings of all processes. The backward pass sums the
gradients of all processes with respect to a process's own embeddings. Data parallelism then averages over processes,
which gives the gradient of the loss, as in a single process with the global batch.

Unusual: the official code does not sum. Its gradients through the embeddings are divided by the number of processes,
while that of the temperature is exact; `gather_official` does the same.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist


class _Gather(torch.autograd.Function):
    """All-gather along the first axis; the backward pass sums the gradients of all processes.

    `torch.distributed.nn.functional.all_gather` does the same, but is deprecated in favour of a function that older
    PyTorch versions lack.
    """

    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather_global(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a tensor `(batch, ...)` of every process as `(processes * batch, ...)`, in the order of processes; the
    gradient of a process's own part is the sum over all processes."""
    return _Gather.apply(tensor.contiguous())


def gather_official(tensor: torch.Tensor) -> torch.Tensor:
    """Gather as `gather_global`, with gradients divided by the number of processes."""
    if tensor.requires_grad:
        tensor = tensor.view_as(tensor)  # the hook must scale only the gradient that passes through the gather
        tensor.register_hook(lambda gradient: gradient / dist.get_world_size())
    return gather_global(tensor)


CONTRASTIVE_GRADIENTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "global": gather_global,
    "official": gather_official,
}
