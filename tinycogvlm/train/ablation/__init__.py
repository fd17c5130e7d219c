"""The paper's ablation in miniature."""
