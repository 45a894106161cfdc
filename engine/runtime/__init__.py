"""Running programs: native gangs of threads, jobs, completion, memory, fallback segments."""
