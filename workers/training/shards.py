"""What a rank holds of a training, whatever the ZeRO stage: float32 weights and both moments of AdamW, in pieces.

    parameter    |  0 ............ start ......... stop ......... |   flattened, in the order of its elements
    home tensor  |  ........ offset ........ |                        what the optimizer updates, flattened

A piece is a run of a parameter's elements, and where this rank keeps them. Stage 0 keeps each parameter whole on every
rank, stages 1 and 2 (and DeepSpeed's BF16_Optimizer, which serves stage 1 in bfloat16) all parameters in one flat
tensor that is cut at any element, stage 3 each parameter cut into as many equal parts as there are ranks, padded at the
end. Where the optimizer is offloaded, the home tensors are in the host's memory. Pieces by name and element fit one
another across all of these; nothing else of a training depends on how it is shared out.

It reads what DeepSpeed 0.19 keeps of this: `_hp_mapping` (deepspeed/utils/tensor_fragment.py) for stages 1 and 2, and
`grad_position` and `fp32_partitioned_groups_flat` for stage 3. tests/real/test_states_real.py holds it to that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = (WEIGHT, *MOMENTS)


@dataclass(frozen=True, eq=False)
class Piece:
    """Elements `start` to `stop` of a parameter's flattened tensor, kept from `offset` on in the flattened `home`."""

    name: str
    start: int
    stop: int
    home: Tensor
    offset: int

    def of(self, tensor: Tensor) -> Tensor:
        """The piece's part, [stop - start], of a tensor of the home's shape; a view."""
        return tensor.detach().view(-1).narrow(0, self.offset, self.stop - self.start)

    def part(self, number: int, parts: int) -> Piece:
        """Its part `number`, from 0, where it is cut into `parts`."""
        size = self.stop - self.start
        first, last = size * number // parts, size * (number + 1) // parts
        return Piece(self.name, self.start + first, self.start + last, self.home, self.offset + first)


class Shard:
    """This rank's part of the training of a DeepSpeed engine with torch's AdamW."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._stage: int = engine.zero_optimization_stage()
        self._states: dict[Tensor, dict[str, Tensor]] = engine.basic_optimizer.state

    def held(self) -> list[Piece]:
        """All pieces that this rank keeps: together, those of all ranks cover every parameter."""
        return list(self._pieces())

    def own(self, rank: int, ranks: int) -> list[Piece]:
        """Those that this rank answers for: every element of every parameter is one rank's own."""
        if self._stage > 0:
            return self.held()
        parts = [piece.part(rank, ranks) for piece in self.held()]
        return [piece for piece in parts if piece.start < piece.stop]

    def tensors(self, piece: Piece) -> dict[str, Tensor]:
        """The piece's float32 values by kind (KINDS), [stop - start] each; views, so that writing to them counts."""
        state = self._states[piece.home]
        return {WEIGHT: piece.of(piece.home)} | {kind: piece.of(state[kind]) for kind in MOMENTS}

    def updates(self) -> int:
        """How many updates the optimizer has done."""
        return int(next(iter(self._states.values()))["step"].item())

    def begin(self, updates: int) -> None:
        """Give the optimizer moments to write to, as after so many updates; it makes its own at its first update."""
        for group in self._engine.basic_optimizer.param_groups:
            on_device = group.get("fused") or group.get("capturable")
            for home in self._homes(group):
                step = torch.tensor(float(updates), device=home.device if on_device else "cpu")
                self._states[home] = {"step": step} | {kind: torch.zeros_like(home) for kind in MOMENTS}

    def finish(self) -> None:
        """Let the forward pass have the weights that were written. Collective."""
        optimizer = self._engine.optimizer
        if self._stage in (1, 2):
            optimizer.update_lp_params()
        elif self._stage == 3:
            for _, parameter in self._trained():
                group, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
                home = optimizer.fp32_partitioned_groups_flat[group]
                parameter.ds_tensor.data.copy_(home.detach().narrow(0, offset, size))
            if kept := optimizer.persistent_parameters:  # small ones, which every rank has whole
                kept[0].partition(kept)
                kept[0].all_gather(kept)

    def _trained(self) -> Iterator[tuple[str, Any]]:
        """Parameters that are trained, by name; what is frozen is in the model's folder."""
        named = self._engine.module.named_parameters()
        return ((name, parameter) for name, parameter in named if parameter.requires_grad)

    def _homes(self, group: dict[str, Any]) -> list[Tensor]:
        # Stage 3 shows its optimizer the parameters only while it updates them; there is one group.
        return list(self._engine.optimizer.fp32_partitioned_groups_flat if self._stage == 3 else group["params"])

    def _pieces(self) -> Iterator[Piece]:
        optimizer = self._engine.optimizer
        for name, parameter in self._trained():
            if self._stage == 0:
                yield Piece(name, 0, parameter.numel(), parameter, 0)
            elif self._stage == 3:
                group, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
                start = size * torch.distributed.get_rank()
                stop = min(start + size, parameter.ds_numel)
                if start < stop:
                    yield Piece(name, start, stop, optimizer.fp32_partitioned_groups_flat[group], offset)
            elif (mapping := parameter._hp_mapping) is not None:
                here, there = mapping.lp_fragment_address, mapping.get_hp_fragment_address()
                home = optimizer.param_groups[mapping.param_group_index]["params"][0]
                yield Piece(name, here.start, here.start + here.numel, home, there.start)
