"""The embeddings of all processes in each, with gradients, for a contrast among the whole batch (method, 15.1).

Every process computes the loss of the whole batch from its own embeddings and those of the others. What the others'
losses say of its own embeddings comes back in the backward pass and is added up; data parallelism then averages over
processes, which makes the gradient of the one loss, as a single process with the whole batch would have it.

Unusual: the official code does not add up. Its gradients through the embeddings are smaller by the number of processes
while the temperature's is exact; `gather_official` does the same.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist


class _Gather(torch.autograd.Function):
    """Parts of all processes in their order; backward, the sum over processes of what each says of the own part.

    `torch.distributed.nn.functional.all_gather` is this too, but deprecated for a function that older PyTorch lacks.
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
    """A tensor of every process, `(batch, ...)`, as `(processes * batch, ...)` in the order of processes; the gradient
    of a process's own part is the sum over all processes."""
    return _Gather.apply(tensor.contiguous())


def gather_official(tensor: torch.Tensor) -> torch.Tensor:
    """As `gather_global`, with gradients divided by the number of processes."""
    if tensor.requires_grad:
        tensor = tensor.view_as(tensor)  # so that the hook sees what comes back through the gather alone
        tensor.register_hook(lambda gradient: gradient / dist.get_world_size())
    return gather_global(tensor)


CONTRASTIVE_GRADIENTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "global": gather_global,
    "official": gather_official,
}
