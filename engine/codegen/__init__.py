"""From a kernel's description to machine code: targets, the kernel language, compiler, code store."""
