"""Muon: momentum whose update of a weight matrix is made orthogonal.

It needs about half of AdamW's tokens on a model of this size. Embeddings and
norms have no use for it and stay with AdamW.
"""

from collections import defaultdict

import torch
import torch.distributed as dist


def orthogonal(updates: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz iteration on a stack of matrices of one shape."""
    x = (updates / (updates.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x if wide else x.mT).float()


class Muon(torch.optim.Optimizer):
    """The workers of a run each do their share of the matrices and exchange the results."""

    def __init__(self, params, rank: int, workers: int, lr=0.02, momentum=0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.rank, self.workers = rank, workers

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        shapes = defaultdict(list)
        for p in group["params"]:
            shapes[p.shape].append(p)
        stacks = []
        for params in shapes.values():
            updates = []
            for p in params:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                updates.append(p.grad.lerp(state["momentum"], group["momentum"]))
            share = torch.stack(updates[self.rank :: self.workers])
            stack = torch.zeros(len(params), *share.shape[1:])
            stack[self.rank :: self.workers] = orthogonal(share)
            stacks.append(stack)
        flat = torch.cat([stack.flatten() for stack in stacks])
        dist.all_reduce(flat)
        for (shape, params), stack in zip(shapes.items(), flat.split([stack.numel() for stack in stacks])):
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            for p, update in zip(params, stack.view(-1, *shape)):
                p.add_(update, alpha=-group["lr"] * scale)
