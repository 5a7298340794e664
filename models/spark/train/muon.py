"""Muon: momentum whose update of a weight matrix is made orthogonal.

It needs about half of AdamW's tokens on a model of this size. Embeddings and
norms have no use for it and stay with AdamW.
"""

from collections import defaultdict

import torch


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
    def __init__(self, params, lr=0.02, momentum=0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = defaultdict(list)
            for p in group["params"]:
                shapes[p.shape].append(p)
            for shape, params in shapes.items():
                updates = []
                for p in params:
                    state = self.state[p]
                    if not state:
                        state["momentum"] = torch.zeros_like(p)
                    state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(state["momentum"], group["momentum"]))
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for p, update in zip(params, orthogonal(torch.stack(updates))):
                    p.add_(update, alpha=-group["lr"] * scale)
