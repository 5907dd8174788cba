"""What this machine has: cores, GPUs, memory. Asks the kernel and the driver alone."""
