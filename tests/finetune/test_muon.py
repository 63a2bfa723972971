"""Our Muon takes the steps of torch's, in the precision of the weights."""

import torch

from medmim.finetune.muon import Muon, orthogonalize


def test_takes_the_same_steps_as_torch_up_to_bfloat16():
    torch.manual_seed(0)
    shapes = [(32, 32), (32, 32), (48, 32), (32, 48)]
    start = [torch.randn(shape) for shape in shapes]
    ours, theirs = ([torch.nn.Parameter(w.clone()) for w in start] for _ in range(2))
    optimizers = (
        Muon(ours, lr=0.01, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q, w in zip(ours, theirs, start, strict=True):
        assert (p - q).abs().max() < 0.03 * (p - w).abs().max()


def test_brings_singular_values_close_to_one_whatever_their_scale():
    torch.manual_seed(0)
    for shape in [(2, 16, 16), (2, 16, 40), (2, 40, 16)]:
        values = torch.linalg.svdvals(orthogonalize(1e-4 * torch.randn(shape)))
        assert values.min() > 0.2
        assert values.max() < 1.4


def test_does_not_change_matrices_without_gradient():
    moved, still = (torch.nn.Parameter(torch.eye(4)) for _ in range(2))
    moved.grad = torch.ones(4, 4)
    Muon([moved, still], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(still, torch.eye(4))
    assert not torch.equal(moved, torch.eye(4))
