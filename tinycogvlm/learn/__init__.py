"""tinycogvlm learn: exercises copied, checked, explained, and put into the model."""
