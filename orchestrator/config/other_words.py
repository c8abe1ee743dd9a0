"""What papers and other programs call the settings of a job: for whom writes one of their words into a job file.

The words are those of the papers in docs/job-file.md and of the settings of TRL, transformers' `TrainingArguments`,
DeepSpeed, inference engines, verl, OpenRLHF and Axolotl.
"""

from __future__ import annotations

_WORDS = {
    "name": "run_name job_name exp_name experiment_name project_name",
    "method": "algorithm algo recipe trainer",
    "rounds": "iterations iters num_iterations n_iterations num_rounds n_rounds total_iterations",
    "seed": "random_seed data_seed",
    "run_dir": "output_dir save_dir checkpoint_dir work_dir out_dir",
    "model": "model_name model_name_or_path model_path base_model pretrain pretrained_model policy_model actor_model",
    "reference": "ref_model reference_model ref_model_name_or_path ref_policy",
    "data.train": "train_file train_data train_files dataset dataset_name dataset_path train_dataset prompt_data",
    "data.gate": "validation validation_file val_data val_files dev dev_file valid eval_file eval_data eval_dataset",
    "data.test": "test_file test_data test_dataset",
    "data.answer": "gold label target answer_key answer_field ground_truth reference_answer",
    "data.solution": "rationale solution_field",
    "data.template": "prompt_template",
    "data.chat": "chat_template apply_chat_template",
    "data.system": "system_prompt system_message",
    "data.examples": "few_shot fewshot shots num_fewshot",
    "data.prompts_per_round": "rollout_batch_size prompts_per_iteration max_prompts num_prompts max_samples",
    "generate.samples": "num_generations n num_samples n_samples num_return_sequences n_samples_per_prompt rollouts_n "
    "best_of samples_per_prompt num_candidates",
    "generate.temperature": "temp sampling_temperature",
    "generate.max_tokens": "max_new_tokens max_completion_length max_response_length generate_max_len",
    "generate.stop": "stop_strings stop_sequences stop_words",
    "generate.engines": "num_engines data_parallel_size data_parallel replicas num_workers",
    "generate.tensor_parallel": "tensor_parallel_size tp tp_size",
    "generate.max_model_len": "max_model_length context_length max_seq_len max_seq_length model_max_length",
    "generate.engine.gpu_memory_utilization": "gpu_memory_utilization",
    "generate.engine.enforce_eager": "enforce_eager",
    "grade.graders": "reward_fn reward_funcs reward_function scorer verifier",
    "reward.models": "reward_model reward_models reward_model_path reward_pretrain rm rm_path",
    "pairs.per_prompt": "pairs_per_prompt k num_pairs",
    "lora": "use_peft peft peft_config use_lora adapter",
    "loss.form": "loss_type",
    "loss.smoothing": "label_smoothing",
    "loss.penalty": "dpop_lambda lambda_dpop",
    "loss.target_margin": "simpo_gamma gamma",
    "loss.score_scale": "gt_reward_scale",
    "loss.nll": "alpha nll_weight nll_alpha nll_coef nll_loss_coef rpo_alpha sft_weight",
    "train.ranks": "num_gpus n_gpus world_size num_processes nproc_per_node gpus",
    "train.zero": "zero_stage deepspeed_stage",
    "train.offload_optimizer": "adam_offload offload offload_optimizer_device cpu_offload",
    "train.precision": "bf16 fp16 mixed_precision torch_dtype amp",
    "train.learning_rate": "lr actor_learning_rate peak_lr max_lr",
    "train.schedule": "lr_scheduler lr_scheduler_type scheduler",
    "train.warmup_steps": "num_warmup_steps lr_warmup_steps",
    "train.warmup_ratio": "lr_warmup_ratio warmup warmup_fraction",
    "train.final_ratio": "min_lr_ratio min_lr",
    "train.batch_pairs": "batch_size train_batch_size global_batch_size mini_batch_size ppo_mini_batch_size "
    "per_device_train_batch_size gradient_accumulation_steps gradient_accumulation",
    "train.epochs": "num_epochs num_train_epochs max_epochs n_epochs ppo_epochs",
    "train.max_steps": "num_steps max_train_steps train_steps",
    "train.eval_every": "eval_steps eval_interval test_freq",
    "train.betas": "adam_betas beta1 beta2 adam_beta1 adam_beta2",
    "train.epsilon": "eps adam_epsilon adam_eps",
    "train.weight_decay": "wd l2",
    "train.max_grad_norm": "max_norm grad_clip gradient_clipping clip_grad_norm",
    "train.tokens_per_microbatch": "micro_batch_size micro_train_batch_size ppo_max_token_len_per_gpu micro_batch",
    "train.max_tokens": "max_length max_len cutoff_len sequence_len max_target_length",
    "train.activation_checkpointing": "gradient_checkpointing recompute activation_recompute",
    "train.attention": "attn_implementation attn_impl flash_attention flash_attn",
    "train.compile": "torch_compile use_torch_compile",
    "train.overlap": "overlap_comm",
    "train.save_every": "save_steps save_interval save_freq",
    "lora.rank": "lora_r lora_rank lora_dim",
    "lora.alpha": "lora_alpha",
    "lora.targets": "lora_target_modules target_modules lora_target",
    "keep.checkpoints": "save_total_limit max_ckpt_num max_checkpoints",
    "promotion.alpha": "significance p_value",
    "cluster.address": "ray_address",
    "cluster.env": "env_vars environment",
    "tracking.uri": "tracking_uri mlflow_uri mlflow_tracking_uri",
    "tracking.experiment": "mlflow_experiment wandb_project",
    "tracking.enabled": "use_mlflow",
    "tracking.sinks": "report_to logger use_wandb use_tensorboard",
}
_KEYS = {word: key for key, words in _WORDS.items() for word in words.split()}


def key_for(word: str) -> str | None:
    """The key of the job, dotted, that another program calls `word`; None where no other does."""
    return _KEYS.get(word.lower().replace("-", "_"))
