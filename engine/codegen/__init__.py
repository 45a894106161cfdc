"""From a kernel's description to machine code: targets, kernel language, compiler, code store."""
