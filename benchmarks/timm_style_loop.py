"""A training step timed the way timm's public benchmark script does, written from a description.

One synthetic batch is made on the device and used again and again: there is no data loader.
10 steps warm up, 40 are timed as one stretch; a step is forward, backward and update. On the CPU
every call returns when its work is done, so nothing has to be waited for. It must not import the
harness; it prints one JSON object with its rate.
"""

from __future__ import annotations

import argparse
import json
import time

import timm
import torch

WARM_UP, TIMED = 10, 40


def main() -> None:
    """Time the steps that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--model-kwargs", type=json.loads, default={})
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    model = timm.create_model(args.model, num_classes=args.classes, **args.model_kwargs).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    criterion = torch.nn.CrossEntropyLoss()
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size)
    labels = torch.randint(args.classes, (args.batch_size,))

    def run(steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
        return time.perf_counter() - begin

    run(WARM_UP)
    seconds = run(TIMED)
    print(json.dumps({"samples_per_s": TIMED * args.batch_size / seconds, "seconds": seconds}))


if __name__ == "__main__":
    main()
