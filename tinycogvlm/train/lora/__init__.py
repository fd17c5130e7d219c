"""LoRA fine-tuning on a task of your own."""
