"""The DeepSpeed configuration of a rank, every key resolved: `auto` values are for another library's use."""

from __future__ import annotations

from typing import Any

from orchestrator.config import Train


def computes_in_autocast(settings: Train) -> bool:
    """ZeRO 0 has no float32 master weights of its own in bfloat16, so there the weights stay float32
    and the forward runs under autocast."""
    return settings.precision == "bf16" and settings.stage == 0


def _zero(settings: Train, num_parameters: int) -> dict[str, Any]:
    # Buckets are allocated whole: no larger than the model needs.
    bucket = min(max(num_parameters, 2**16), 2 * 10**8)
    zero: dict[str, Any] = {
        "stage": settings.stage,
        # With micro-batches of varying number DeepSpeed has it for the stages that share out gradients.
        "overlap_comm": settings.overlap and settings.stage >= 2,
        "contiguous_gradients": True,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
    if settings.stage == 3:
        zero |= {
            "stage3_max_live_parameters": 10**9,
            "stage3_max_reuse_distance": 10**9,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_param_persistence_threshold": 10**5,
            "stage3_gather_16bit_weights_on_model_save": False,
        }
    return zero


def deepspeed_config(settings: Train, ranks: int, num_parameters: int) -> dict[str, Any]:
    """Configuration for training. The learning rate is set at every update by the trainer.

    `managed_gradient_accumulation: false` lets backward run any number of times, on micro-batches of
    any size, before the update that reduces and applies the sum. The sizes below only feed counters.
    """
    clip = settings.max_grad_norm or 0.0
    return {
        "train_batch_size": ranks,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "zero_optimization": _zero(settings, num_parameters),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": 0.0,
                "betas": list(settings.betas),
                "eps": settings.epsilon,
                "weight_decay": settings.weight_decay,
                "torch_adam": True,
                "adam_w_mode": True,
                # One kernel an update, on processors too; it differs by rounding.
                "fused": True,
            },
        },
        "bf16": {
            "enabled": settings.precision == "bf16" and settings.stage > 0,
            # Stage 1 adds a gradient to its float32 sum as soon as it is there, and gives it up, instead of all of them
            # after the backward pass: 2 bytes a parameter less, and the same bits.
            "immediate_grad_update": True,
        },
        "fp16": {"enabled": False},
        "data_types": {"grad_accum_dtype": "fp32"},
        # Sums of gradients are float32; in bfloat16, the default beside such weights, they would be rounded by up to
        # 0.4 % on the way to the update, on a single rank too.
        "communication_data_type": "fp32",
        # Stage 0 clips without telling the norm; there the trainer clips itself.
        "gradient_clipping": clip if settings.stage > 0 else 0.0,
        "prescale_gradients": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def inference_config(settings: Train, ranks: int, num_parameters: int) -> dict[str, Any]:
    """Configuration for scoring with weights sharded as in training (ZeRO 3), without an optimizer."""
    config = deepspeed_config(settings, ranks, num_parameters)
    del config["optimizer"]
    config["zero_optimization"].pop("offload_optimizer", None)
    return config
