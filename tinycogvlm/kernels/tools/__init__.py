"""Step through a kernel, and count what each of its lines costs."""
