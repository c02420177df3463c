"""A model, not a measurement, of what reducing the gradients costs on many GPUs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["BUCKET_BYTES", "Cluster", "efficiency", "hierarchical_seconds", "measure_communication", "ring_seconds"]

BUCKET_BYTES = 25 * 2**20
"""What `DistributedDataParallel` reduces at once (its ``bucket_cap_mb``); the last waits for the last gradient."""


@dataclass(frozen=True)
class Cluster:
    """What the model assumes of the machines.

    Attributes:
        node_size: GPUs of a node.
        inside_bandwidth: bytes a second that a GPU sends to another of its node (that of NVLink, taken at less than
            its nominal 300 to 450 GB/s).
        between_bandwidth: bytes a second that a GPU sends to another node (a network adapter of 200 Gbit/s for each).
        inside_latency: seconds of a message within a node.
        between_latency: seconds of a message between nodes.
        backward_share: part of a step's computation that is the backward pass, in which reducing can be hidden.
    """

    node_size: int = 8
    inside_bandwidth: float = 200e9
    between_bandwidth: float = 25e9
    inside_latency: float = 5e-6
    between_latency: float = 20e-6
    backward_share: float = 2 / 3


def ring_seconds(count: int, size: float, bandwidth: float, latency: float) -> float:
    """An all-reduce round a ring: each process sends 2 (n - 1) messages of a n-th of the bytes.

    Args:
        count: processes.
        size: bytes to reduce.
        bandwidth: bytes a second from one process to the next.
        latency: seconds of a message.

    Raises:
        ValueError: if a number makes no sense.
    """
    if count < 1 or size < 0 or bandwidth <= 0 or latency < 0:
        raise ValueError(
            f"count={count}, size={size}, bandwidth={bandwidth}, latency={latency}: expected one process or more, a "
            "positive bandwidth, and neither bytes nor latency below 0."
        )
    return 2 * (count - 1) * (size / count / bandwidth + latency)


def hierarchical_seconds(count: int, size: float, cluster: Cluster) -> float:
    """An all-reduce in three parts: scatter within each node, ring between nodes of each GPU's part, gather within.

    Scatter and gather together send what a ring within the node sends.

    Args:
        count: GPUs, a multiple of the node's unless they are fewer.
        size: bytes to reduce.
        cluster: what is assumed.

    Raises:
        ValueError: if the GPUs do not fill their nodes, or as `ring_seconds`.
    """
    inside = min(count, cluster.node_size)
    if inside < 1 or count % inside:
        raise ValueError(f"count={count}: expected fewer than {cluster.node_size} GPUs, or a multiple of them.")
    within = ring_seconds(inside, size, cluster.inside_bandwidth, cluster.inside_latency)
    between = ring_seconds(count // inside, size / inside, cluster.between_bandwidth, cluster.between_latency)
    return within + between


def efficiency(step: float, reduce: float, size: float, backward_share: float) -> tuple[float, float]:
    """Computation as a part of the whole step, when reducing begins after the backward pass, and when within it.

    Within it, all but the last bucket can be hidden behind the backward pass, as far as that is long enough.

    Args:
        step: seconds of a step's computation.
        reduce: seconds of reducing all gradients.
        size: their bytes.
        backward_share: part of the computation that is the backward pass.
    """
    last = reduce * min(1.0, BUCKET_BYTES / size) if size else 0.0
    shown = max(reduce - backward_share * step, last)
    return step / (step + reduce), step / (step + shown)


def measure_communication(count: int, values: int, step_s: float) -> dict[str, Any]:
    """The model's figures for a training in which each GPU has a batch of its own.

    Only the gradients' reduction is modelled: no wait for the slowest process, none for data.

    Args:
        count: GPUs.
        values: tuned parameters, reduced as float32.
        step_s: seconds that a GPU computes for a step.

    Returns:
        ``ring_s`` (one ring over all, as fast as its slowest link), ``reduce_s`` (hierarchical), ``apart_share`` and
        ``overlap_share`` (efficiency with the hierarchical one, without and with overlap), and what was assumed.
    """
    cluster = Cluster()
    size = 4.0 * values
    alone = count <= cluster.node_size
    slowest = (
        (cluster.inside_bandwidth, cluster.inside_latency)
        if alone
        else (cluster.between_bandwidth, cluster.between_latency)
    )
    reduce_s = hierarchical_seconds(count, size, cluster)
    apart, overlap = efficiency(step_s, reduce_s, size, cluster.backward_share)
    return {
        "ring_s": ring_seconds(count, size, *slowest),
        "reduce_s": reduce_s,
        "apart_share": apart,
        "overlap_share": overlap,
        "assumed": {**asdict(cluster), "bucket_bytes": BUCKET_BYTES, "values": values, "step_seconds": step_s},
    }
