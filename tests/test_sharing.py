"""Votes, lengths and certificates by several processes are those of one; this file is also the program they run."""

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcfast import Cube, Gaussian, RegionClassifier, certify, learn_length, rounds
from rcfast.sharing import Sharing


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


def examples(count: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.rand(count, 1, 8, 8, generator=g)
    with torch.no_grad():
        return x, network()(x).argmax(1)


def exact_model(points: Tensor) -> Tensor:
    """Logits whose rounding does not depend on the number of rows: weights, unlike labels, feel the last bit."""
    flat = points.flatten(1)
    return flat[:, :5] * 3 - flat[:, 5:10]


def measure(group: Any = None) -> dict[str, Any]:
    """Everything that a group may share, with few and with many examples."""
    model, found = network(), {}
    for count in (0, 1, 3, 40):
        x, _ = examples(count)
        for stop in ("sequential", "exact", None):
            votes = RegionClassifier(model, 0.4, m=150, stop=stop, group=group).vote(x)
            tensors = (votes.counts, votes.label, votes.samples, votes.decided)
            found[f"{count} {stop}"] = [t.tolist() for t in tensors]
        for weights in ("softmax", "distance"):
            votes = RegionClassifier(exact_model, 0.4, m=150, weights=weights, group=group).vote(x)
            found[f"{count} {weights}"] = [votes.counts.tolist(), votes.samples.tolist()]
    x, y = examples(40)
    search = learn_length(model, x, y, step=0.2, r_max=1.0, m=60, group=group)
    found["length"] = [search.r, search.radii, search.accuracy]
    proven = certify(model, x[:5], region=Gaussian(0.1), n=400, n0=30, gain=0.1, group=group)
    found["certificates"] = [proven.label.tolist(), proven.radius.tolist(), proven.samples.tolist()]
    return found


def refusals(group: Any) -> list[str]:
    """What is refused, on every process."""
    said = []
    x, _ = examples(4)
    rank = torch.distributed.get_rank()
    for model, given in ((network(), x + 0.01 * rank), (lambda p: network()(p) * float("nan"), x)):
        try:
            RegionClassifier(model, 0.1, m=200, stop=None, group=group).vote(given.clamp(0, 1))
        except ValueError as error:
            said.append(str(error))
    return said


def main(rank: int, size: int) -> None:
    torch.distributed.init_process_group("gloo", rank=rank, world_size=size)
    group = torch.distributed.group.WORLD
    secret = RegionClassifier(network(), 0.4, m=50, stop=None, seed=None, group=group)
    own = {
        "shared": measure(group),
        "secret": secret.vote(examples(4)[0]).counts.tolist(),
        "refused": refusals(group),
        "pickled": secret.__getstate__().get("sharing") is None,
    }
    every: list[Any] = [None] * size
    torch.distributed.all_gather_object(every, own)
    if rank == 0:
        print(json.dumps(every))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_give_what_one_gives(size: int) -> None:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        port = own.getsockname()[1]
    command = [sys.executable, __file__, str(size)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    said = subprocess.run(command, check=True, env=env, stdout=subprocess.PIPE, text=True).stdout
    every = json.loads(said.splitlines()[-1])
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = json.loads(json.dumps(measure()))
    finally:
        torch.set_num_threads(before)
    for found in every:
        assert found["shared"] == alone
        assert found["secret"] == every[0]["secret"]
        assert found["pickled"]
        same, nan = found["refused"]
        assert f"x and example_ids must be the same in all {size} processes" in same
        assert "model must not return NaN" in nan


def test_parts_cover_everything_once() -> None:
    for size in (1, 2, 3, 7):
        for count in (0, 1, 5, 12, 100):
            shares = []
            for rank in range(size):
                own = Sharing()
                own.rank, own.size = rank, size
                shares.append(own.part(count))
            assert [a for a, _ in shares[1:]] == [b for _, b in shares[:-1]]
            assert (shares[0][0], shares[-1][1]) == (0, count)
            assert max(b - a for a, b in shares) - min(b - a for a, b in shares) <= 1


def test_what_is_no_group_is_refused() -> None:
    with pytest.raises(ValueError, match=r"call torch\.distributed\.init_process_group first"):
        RegionClassifier(network(), Cube(0.1), group=object())


def test_alone_nothing_is_asked() -> None:
    assert rounds.ALONE.first(7) == 7
    assert rounds.ALONE.part(9) == (0, 9)


if __name__ == "__main__":
    ranks = int(sys.argv[1])
    children = []
    for rank in range(1, ranks):
        if (child := os.fork()) == 0:
            main(rank, ranks)
            os._exit(0)
        children.append(child)
    main(0, ranks)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(any(codes))
