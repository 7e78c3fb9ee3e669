"""A trained STDP network as a plain snnTorch module, for everything that speaks snnTorch, step by step and dense."""

from __future__ import annotations

import torch
from snntorch import Leaky
from torch import Tensor, nn

from pipeline.nets.stdp import StdpNet
from pipeline.nets.stdp_cell import ALL, FIRST, RANDOM


class SnnTorchStdp(nn.Module):
    """`StdpNet` in inference: a Linear, snnTorch's `Leaky`, and inhibition as recurrent Linear layers.

    The threshold of neuron j is threshold + theta_j; `Leaky` spikes above it and the STDP network at it, so the bridge
    holds the float just below. Potentials are in mV above rest. Refractory neurons lose their input and who
    crosses is reset by hand (`reset_mechanism="none"`), because the reset goes to a level that is not 0 and losers
    of the competition are reset too. Without parameters that learn.
    """

    def __init__(self, net: StdpNet) -> None:
        """
        Raises:
            ValueError: winner is random (two programs cannot draw alike), or the membrane is quantized.
        """
        super().__init__()
        cell = net.spec.cell()
        if cell.winner == RANDOM:
            raise ValueError(
                "winner must be first, highest or all for the same spikes in snnTorch, but got 'random'."
            )
        if "membrane" in net.numerics:
            raise ValueError("membrane must be unquantized for the bridge, but numerics has a format for it.")
        self.cell, n = cell, net.spec.neurons
        bar = torch.tensor(cell.threshold, dtype=torch.float32) + net.theta
        self.input = nn.Linear(len(net.weight), n, bias=False)
        self.input.weight.data = net.weight.detach().T.contiguous() * cell.gain
        self.excitatory = Leaky(
            beta=torch.tensor(cell.decay, dtype=torch.float32),
            threshold=torch.nextafter(bar, torch.tensor(-torch.inf)),
            reset_mechanism="none",
        )
        self.lateral = nn.Linear(n, n, bias=False)
        self.lateral.weight.data = cell.w_inh * (torch.eye(n) - 1)
        if cell.layer:
            self.drive = nn.Linear(n, n, bias=False)
            self.drive.weight.data = cell.drive * torch.eye(n)
            bar = torch.tensor(cell.inh_threshold, dtype=torch.float32)
            self.inhibitory = Leaky(
                beta=torch.tensor(cell.inh_decay, dtype=torch.float32),
                threshold=torch.nextafter(bar, torch.tensor(-torch.inf)),
                reset_mechanism="none",
            )
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """[T, B, C, H, W] spikes -> [T, B, n] spikes, those of the `StdpNet`."""
        pixels = x.flatten(2)
        shape = (x.shape[1], self.lateral.in_features)
        current, spikes, silenced = (torch.zeros(shape) for _ in range(3))
        mem, inh_mem = torch.zeros(shape), torch.zeros(shape)
        deaf, inh_deaf = torch.zeros(shape), torch.zeros(shape)
        out = []
        for step in pixels:
            drive = torch.where(deaf > 0, 0.0, current + self.lateral(silenced))
            fired, mem = self.excitatory(drive, mem)
            # snnTorch knows no floor of the membrane: a floored potential is below every threshold, so it may come late
            mem = mem.clamp(min=self.cell.lowest)
            deaf = torch.where(fired > 0, float(self.cell.refractory), deaf - 1)
            before, spikes = spikes, self._winners(fired, mem)
            mem = torch.where(fired > 0, self.cell.reset, mem)
            if self.cell.layer:
                push = torch.where(inh_deaf > 0, 0.0, self.drive(before))
                silenced, inh_mem = self.inhibitory(push, inh_mem)
                inh_mem = torch.where(silenced > 0, self.cell.inh_reset, inh_mem)
                inh_deaf = torch.where(silenced > 0, float(self.cell.inh_refractory), inh_deaf - 1)
            else:
                silenced = spikes
            current = self.input(step)
            out.append(spikes)
        return torch.stack(out) if out else torch.zeros(0, *shape)

    def _winners(self, fired: Tensor, mem: Tensor) -> Tensor:
        """[B, n] -> the spikes that are heard."""
        if self.cell.winner == ALL:
            return fired
        over = (
            fired
            if self.cell.winner == FIRST
            else torch.where(fired > 0, mem - self.excitatory.threshold, -torch.inf)
        )
        chosen = nn.functional.one_hot(over.argmax(1), fired.shape[1]).to(fired.dtype)
        return chosen * fired
