"""The MLP that all servers serve. Imports only torch, because the peers have their own environments."""

import torch

FEATURES = 256


def network() -> torch.nn.Module:
    """256 → 512 → 512 → 10, on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    layers = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 512),
        torch.nn.ReLU(),
        torch.nn.Linear(512, 512),
        torch.nn.ReLU(),
        torch.nn.Linear(512, 10),
    )
    return layers.eval().requires_grad_(False)
