"""How a workload is timed: alignment, warm-up, windows, diagnostics and noise.

Everything here drives a `Target` through a small protocol. It knows neither torch nor any device,
so that a fake clock and a fake workload can prove its figures to the last digit.
"""
