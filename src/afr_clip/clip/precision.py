"""Which precision a machine is faster in: measured, and never assumed."""

import time
from typing import Any

import torch
from torch import Tensor, nn

AUTO = "auto"
FULL, HALF = "32-true", "bf16-mixed"

MARGIN = 1.2
"""How many times as fast bfloat16 must be on a CPU; less is not worth its eight bits."""

NUM_TOKENS, WIDTH = 256, 768
REPETITIONS, TURNS = 3, 3
"""Runs in a row, and how often both precisions have their turn: a machine may be busy for a moment."""


def choose_precision(asked: str, accelerator: str) -> dict[str, Any]:
    """Choose Lightning's precision.

    A GPU gets bfloat16 where it computes in it. A CPU gets it where a block as those of the towers takes clearly less
    time in it: some CPUs have units for it, others imitate it and are several times slower.

    Args:
        asked: ``trainer.precision``; only ``auto`` leaves anything to choose.

    Returns:
        For the manifest: what was ``asked`` and ``chosen``, and for a CPU the seconds that were measured.
    """
    if asked != AUTO:
        return {"asked": asked, "chosen": asked}
    if torch.cuda.is_available() and accelerator != "cpu":
        has_half = torch.cuda.is_bf16_supported(including_emulation=False)
        return {"asked": asked, "chosen": HALF if has_half else FULL}
    types = {FULL: torch.float32, HALF: torch.bfloat16}
    turns = [{name: _seconds_of_block(dtype) for name, dtype in types.items()} for _ in range(TURNS)]
    seconds = {name: min(turn[name] for turn in turns) for name in types}
    return {"asked": asked, "chosen": faster(seconds[FULL], seconds[HALF]), "seconds": seconds}


def faster(full: float, half: float) -> str:
    """Choose the faster precision from the measured seconds.

    Args:
        full: Of float32.
        half: Of bfloat16.

    Returns:
        bfloat16 if it is faster by `MARGIN`.

    Example:
        >>> faster(full=3.0, half=1.0), faster(full=3.0, half=2.9), faster(full=1.0, half=4.0)
        ('bf16-mixed', '32-true', '32-true')
    """
    return HALF if half * MARGIN < full else FULL


def _seconds_of_block(dtype: torch.dtype) -> float:
    """Time the two linear layers of a transformer block, at best of some runs; the first one warms up."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(NUM_TOKENS, WIDTH, generator=generator)
    up, down = torch.randn(4 * WIDTH, WIDTH, generator=generator), torch.randn(WIDTH, 4 * WIDTH, generator=generator)
    seconds = [_seconds(dtype, tokens, up, down) for _ in range(REPETITIONS + 1)]
    return min(seconds[1:])


def _seconds(dtype: torch.dtype, tokens: Tensor, up: Tensor, down: Tensor) -> float:
    started = time.perf_counter()
    with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
        nn.functional.linear(nn.functional.gelu(nn.functional.linear(tokens, up)), down)
    return time.perf_counter() - started
