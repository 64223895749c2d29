"""A training step timed the way timm's public benchmark script does, written from a description.

One synthetic batch of images is made on the device and used again and again: there is no data
loader. 10 steps warm up, 40 are timed as one stretch. A step is forward, new labels drawn on the
device, backward (inside autocast, where that is on) and update; on a GPU the host waits for it to
end before it begins the next. All that is as in that script. It must not import the harness; it
prints one JSON object with its rate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from typing import Any

import timm
import torch

WARM_UP, TIMED = 10, 40


def main() -> None:
    """Time the steps that the command line describes."""
    args = _arguments()
    torch.manual_seed(args.seed)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    on_gpu = device.type == "cuda"
    # What the script sets; only the convolution of the patches is touched by it.
    torch.backends.cudnn.benchmark = on_gpu
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    model = timm.create_model(args.model, num_classes=args.classes, **args.model_kwargs)
    model = model.train().to(device=device, memory_format=layout)
    optimizer = _optimizer(args, model)
    stepped: Any = torch.compile(model) if args.compile else model
    criterion = torch.nn.CrossEntropyLoss()
    size = (args.batch_size, 3, args.image_size, args.image_size)
    images = torch.randn(size, device=device).contiguous(memory_format=layout)

    def autocast() -> contextlib.AbstractContextManager[Any]:
        if not args.amp:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    def run(steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            with autocast():
                outputs = stepped(images)
                labels = torch.randint(args.classes, (args.batch_size,), device=device)
                criterion(outputs, labels).backward()
            optimizer.step()
            if not args.wait_once:
                wait()
        wait()
        return time.perf_counter() - begin

    run(WARM_UP)
    seconds = run(TIMED)
    print(json.dumps({"samples_per_s": TIMED * args.batch_size / seconds, "seconds": seconds}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--model-kwargs", type=json.loads, default={})
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--momentum", type=float, default=0.9, help="of sgd")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true", help="torch.compile with its defaults")
    parser.add_argument("--wait-once", action="store_true", help="for the device, after all steps")
    return parser.parse_args()


def _optimizer(args: argparse.Namespace, model: torch.nn.Module) -> torch.optim.Optimizer:
    rate, decay = args.learning_rate, args.weight_decay
    if args.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=rate, momentum=args.momentum, weight_decay=decay
        )
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)


if __name__ == "__main__":
    main()
