from __future__ import annotations


def libneuronpjrt_path() -> str:
    return "/nowhere/libneuronpjrt.so"
