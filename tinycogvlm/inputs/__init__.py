"""Words and pictures to arrays and back."""
