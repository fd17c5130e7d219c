"""Training: the loop, the stages of the bundled model, the ablation, and LoRA fine-tuning."""
