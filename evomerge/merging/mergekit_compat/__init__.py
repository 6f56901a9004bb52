"""mergekit 0.1.5 on a CPU, bit for bit: its arithmetic, its dtypes and its random numbers."""
