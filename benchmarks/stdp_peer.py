"""BindsNET's side of benchmarks/stdp.py: reads one JSON command per line, answers one JSON line. Runs in .venv-peers.

{"do": "build", "file": npz, "batch": 1}    its DiehlAndCook2015 with our initial weights; spikes from the file
{"do": "show", "first": 0, "count": 5, "learn": true}    seconds and spike counts of those images
"""

import json
import sys
import time

import numpy as np
import torch
from bindsnet.models import DiehlAndCook2015
from bindsnet.network.monitors import Monitor

torch.set_num_threads(1)


def first_wins(weights, num_samples):
    """BindsNET draws the winner among neurons that cross together; for exact comparison: the lowest index."""
    assert num_samples == 1
    return weights.argmax(1, keepdim=True)


def build(file, batch, ties):
    with np.load(file, allow_pickle=False) as saved:
        w, spikes = saved["w"], saved["spikes"]
    if ties == "first":
        torch.multinomial = first_wins
    net = DiehlAndCook2015(
        n_inpt=784, n_neurons=w.shape[1], exc=22.5, inh=120, dt=1.0, norm=78.4, theta_plus=0.05,
        inpt_shape=(1, 28, 28), batch_size=batch, nu=(1e-4, 1e-2),
    )  # fmt: skip
    weight = net.connections[("X", "Ae")].pipeline[0]
    weight.value.data.copy_(torch.from_numpy(w))
    monitor = Monitor(net.layers["Ae"], ["s"], time=spikes.shape[1])
    net.add_monitor(monitor, "Ae")
    return net, torch.from_numpy(spikes), monitor


def show(net, spikes, monitor, first, count, learn, batch):
    """spikes [S, T, 784]; one `run` per batch, state reset after each."""
    net.train(learn)
    counts, seconds = [], 0.0
    for start in range(first, first + count, batch):
        x = spikes[start : start + batch].transpose(0, 1).reshape(spikes.shape[1], -1, 1, 28, 28).contiguous()
        begin = time.process_time()
        net.run(inputs={"X": x}, time=spikes.shape[1])
        counts.append(monitor.get("s").sum(0).reshape(x.shape[1], -1).numpy().astype(int))
        net.reset_state_variables()
        seconds += time.process_time() - begin
    counts = np.concatenate(counts)
    return {
        "seconds": seconds,
        "counts": [{int(j): int(row[j]) for j in np.flatnonzero(row)} for row in counts],
    }


def main():
    state = None
    for line in sys.stdin:
        command = json.loads(line)
        if command.pop("do") == "build":
            batch = command["batch"]
            state = build(**command)
            answer = {"built": True}
        else:
            answer = show(*state, **command, batch=batch)
        print("ANSWER " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    with torch.no_grad():
        main()
