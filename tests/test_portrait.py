import snntorch as snn
import torch
from torch import nn

from pipeline.nets.feedforward import FeedForward
from pipeline.portrait import portrait
from pipeline.types import Dataset, Split


def data():
    x = torch.randint(0, 255, (12, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(x, torch.arange(12) % 3)
    return Dataset(
        "d", 3, (1, 4, 4), 5, split, split, split, lambda x, g: (x.float() / 64).expand(5, *x.shape), "digest"
    )


class StepByStep(nn.Module):
    """A user's network: snnTorch's own loop."""

    def __init__(self):
        super().__init__()
        self.fc, self.lif = nn.Linear(16, 3), snn.Leaky(0.9)

    def forward(self, x):
        mem, out = self.lif.reset_mem(), []
        for step in x:
            spikes, mem = self.lif(self.fc(step.flatten(1)), mem)
            out.append(spikes)
        return torch.stack(out)


def decode(spikes):
    return spikes.sum(0).argmax(1)


def test_rasters_show_every_spike_of_the_sample_and_confusion_counts_every_sample():
    for net in (FeedForward(hidden=6).build((1, 4, 4), 3, 0), StepByStep()):
        drawn = portrait(net, decode, data())
        assert sum(map(sum, drawn["confusion"])) == 12
        last = drawn["rasters"][-1]
        x, _ = next(iter(data().batches("validation", 1, 0)))
        assert (last["steps"], last["neurons"], last["of"]) == (5, 3, 3)
        assert len(last["spikes"]) == int(net(x).sum())
