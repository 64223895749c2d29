"""What a scenario may say: the versioned model of every knob, and of how it is measured.

This module knows names, types and the combinations that cannot mean anything on any device. It
does not know devices: what a backend cannot honour is that backend's refusal. A value is added
here together with the code that honours it.

Every field carries the identity it belongs to (`work`, `treatment` or `protocol`), so that what may
be compared by ratio is written once, beside the field.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    field_validator,
    model_validator,
)

SCHEMA_VERSION: Literal[1] = 1
DEFAULT_POOL = 8
SMALLEST_PILOT = 3
"""Launches that Stein's first stage needs for a variance worth the name."""
FLOAT8 = ("fp8-tensorwise", "fp8-rowwise")
"""Precisions whose linear layers multiply in float8."""
AUTOCAST = {"amp-bf16": "bfloat16", "amp-fp16": "float16"} | dict.fromkeys(FLOAT8, "bfloat16")
"""Precisions whose forward pass runs under autocast, by the type of torch that it casts to."""


class Identity(enum.Enum):
    """Which identity a field belongs to (see `bench.scenarios.identity`)."""

    WORK = "work"
    """What is computed for a sample: rows that differ here are never divided by one another."""
    TREATMENT = "treatment"
    """How it is computed: the settings whose effect the table is about."""
    PROTOCOL = "protocol"
    """How it is measured: part of the fingerprint only."""


WORK, TREATMENT, PROTOCOL = Identity.WORK, Identity.TREATMENT, Identity.PROTOCOL


class Strict(BaseModel):
    """A frozen model that refuses unknown keys and silent type conversion."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


def _fill(model: BaseModel, **defaults: Any) -> None:
    """Set what is null to its default without marking it as asked for.

    A later rung or `--set` must be able to change what the default depends on. A null that was
    written asks for the default, so it does not count as asked for either.
    """
    for name, value in defaults.items():
        if getattr(model, name) is None:
            model.__dict__[name] = value
            model.__pydantic_fields_set__.discard(name)


_NVME_STAGE = 3
"""Where DeepSpeed keeps anything in files; below, it takes the setting and uses memory."""
_ENGINE_GROUPS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "fsdp": (("fsdp",), {"offload": "none"}),
    "accelerate": (("accelerate",), {}),
    "spmd": (("spmd",), {"devices": 2}),
    "zero": (
        ("deepspeed",),
        {"stage": 2, "offload_optimizer": "none", "offload_param": "none"},
    ),
}
"""Groups of knobs that only some engines have: which, and what null means there."""
ENGINE_GROUPS = tuple(_ENGINE_GROUPS)


class DataKnobs(Strict):
    """Where a sample comes from, and who prepares it."""

    source: Annotated[str, WORK, Field(pattern=r"^(random|cached|device|jpeg|folder:.+)$")] = (
        "random"
    )
    """`random`: drawn per sample, as a naive loader does. `cached`: host batches from a pool.
    `device`: a pool that already lies on the device. `jpeg`: a generated JPEG corpus, decoded and
    augmented by timm's transforms. `folder:PATH`: an image folder of yours, the same way."""
    pool: Annotated[int | None, WORK, Field(ge=1)] = None
    """Distinct batches in the pool of `cached` and `device`; null means 8, and for `device` at
    least one more than a graph holds. Unit: batches."""
    images: Annotated[int | None, WORK, Field(ge=1)] = None
    """Images in the corpus that `jpeg` generates; null means 256. Unit: images."""
    workers: Annotated[int, TREATMENT, Field(ge=0)] = 0
    """Loader worker processes per rank; 0 loads in the training process."""
    prefetch: Annotated[int | None, TREATMENT, Field(ge=1)] = None
    """Batches each worker prepares ahead; null leaves the DataLoader's default. Unit: batches."""
    pin_memory: Annotated[bool, TREATMENT] = False
    """Page-lock host batches for a faster copy to a device with its own memory."""

    @model_validator(mode="after")
    def _settings_belong_to_the_source(self) -> DataKnobs:
        for name, sources, default in (
            ("pool", ("cached", "device"), DEFAULT_POOL),
            ("images", ("jpeg",), 256),
        ):
            if self.source in sources:
                _fill(self, **{name: default})
            elif getattr(self, name) is not None:
                raise ValueError(
                    f"{name} has no meaning for source={self.source}: remove it, or set source to "
                    f"{' or '.join(sources)}"
                )
        return self

    @model_validator(mode="after")
    def _workers_can_act(self) -> DataKnobs:
        if self.prefetch is not None and self.workers == 0:
            raise ValueError(
                "prefetch needs a worker to prepare batches: set workers >= 1 or prefetch to null"
            )
        if self.source == "device" and (self.workers or self.pin_memory):
            raise ValueError(
                "source=device has no host loader: set workers to 0 and pin_memory to false"
            )
        return self


class LoaderKnobs(Strict):
    """How batches travel to a device that executes graphs (the device loader)."""

    batches_per_execution: Annotated[int, TREATMENT, Field(ge=1)] = 1
    """Micro-batches traced into one graph before it is cut and executed. Unit: micro-batches.

    Above 1, torch's Adam changes its graph a few times in the first hundreds of steps (its bias
    corrections become equal numbers), and the windows in which that happens are voided."""
    prefetch: Annotated[int | None, TREATMENT, Field(ge=1)] = None
    """Host batches queued for the transfer; null is the device loader's default. Unit: batches."""
    device_prefetch: Annotated[int | None, TREATMENT, Field(ge=1)] = None
    """Batches queued on the device; null is the device loader's default. Unit: batches."""
    transfer_threads: Annotated[int | None, TREATMENT, Field(ge=1)] = None
    """Threads that copy host batches to the device; null is the device loader's default."""


class NeuronKnobs(Strict):
    """Settings of AWS's Neuron compiler and runtime; null is theirs to choose, or what a knob says.

    Null stays null, but for `auto_cast_type` beside a cast: `auto_cast=none` does the same work as
    null and is another series, with another fingerprint.
    """

    auto_cast: Annotated[Literal["none", "matmult", "all"] | None, TREATMENT] = None
    """Which float32 operations the compiler casts: none, products, or all. Null means `none`, and
    is said to the compiler, whose own default has changed."""
    auto_cast_type: Annotated[Literal["bf16", "fp16", "tf32", "fp8_e4m3"] | None, TREATMENT] = None
    """What `auto_cast` casts to; null means bf16 there."""
    model_type: Annotated[Literal["generic", "transformer", "unet-inference"] | None, TREATMENT] = (
        None
    )
    """The kind of model that the compiler optimises for."""
    optlevel: Annotated[Literal[1, 2, 3] | None, TREATMENT] = None
    """How hard the compiler tries."""
    target: Annotated[Literal["inf2", "trn1", "trn1n", "trn2"] | None, TREATMENT] = None
    """The instance family that is compiled for."""
    lnc: Annotated[Literal[1, 2] | None, TREATMENT] = None
    """Physical cores that make up one logical core, for the compiler and the runtime alike."""
    mixed_precision_accumulation: Annotated[bool | None, TREATMENT] = None
    """Whether sums inside softmax, layer norm and the like are kept in float32."""
    stochastic_rounding: Annotated[bool | None, TREATMENT] = None
    """Whether a cast to fewer bits rounds by chance; null means yes where weights are bfloat16,
    whose small updates are else lost."""
    functionalization: Annotated[bool | None, TREATMENT] = None
    """Whether torch_xla removes updates in place from the graph; null means no, as torch-neuronx
    sets it."""

    @model_validator(mode="after")
    def _a_type_needs_a_cast(self) -> NeuronKnobs:
        if self.auto_cast in ("matmult", "all"):
            _fill(self, auto_cast_type="bf16")
        elif self.auto_cast_type is not None:
            raise ValueError(
                "auto_cast_type has no meaning without a cast: set auto_cast to matmult or all, or "
                "remove auto_cast_type"
            )
        return self


class FsdpKnobs(Strict):
    """Settings of `engine=fsdp`, torch's fully sharded data parallelism; null elsewhere."""

    reshard_after_forward: Annotated[bool | None, TREATMENT] = None
    """Let a block's gathered weights go after its forward pass, and gather them again for its
    backward pass. Null is torch's own choice: the blocks do, what is outside of them does not."""
    offload: Annotated[Literal["none", "cpu"] | None, TREATMENT] = None
    """Keep each rank's part of weights, gradients and optimizer state in the host's memory, where
    the update is then computed. Null means none."""


class AccelerateKnobs(Strict):
    """Settings of `engine=accelerate`; null elsewhere."""

    config: Annotated[str | None, TREATMENT, Field(min_length=1)] = None
    """A file that `accelerate config` has written. What it says is a setting, wherever it lies.
    What contradicts a knob is refused, and so is what would act otherwise: FSDP and DeepSpeed are
    engines of their own here (`fsdp`, `deepspeed`), which drive the same libraries directly. With
    `distributed_type: NO` accelerate leaves the model of one process unwrapped. Null: no file, and
    it wraps the model in DistributedDataParallel."""


class ZeroKnobs(Strict):
    """Settings of `engine=deepspeed`, Microsoft's ZeRO; null elsewhere."""

    stage: Annotated[Literal[0, 1, 2, 3] | None, TREATMENT] = None
    """What is shared out over the ranks. 0: nothing. 1: the optimizer's state. 2: gradients, too.
    3: weights, too. Null means 2."""
    offload_optimizer: Annotated[Literal["none", "cpu", "nvme"] | None, TREATMENT] = None
    """Where the optimizer's state is kept between updates, which the host then computes: `cpu` is
    its memory, `nvme` files (stage 3). Null means none: on the device."""
    offload_param: Annotated[Literal["none", "cpu", "nvme"] | None, TREATMENT] = None
    """Where each rank's part of the weights is kept, which only stage 3 shares out: in the host's
    memory (`cpu`), or in files (`nvme`). Null means none: on the device.

    DeepSpeed writes no tensor to a file of which a rank has less than 1 MiB: the host's memory
    keeps it. The record has the bytes of both (`actual`)."""
    nvme_path: Annotated[str | None, TREATMENT, Field(min_length=1)] = None
    """The folder on the drive that `nvme` is to use, on each machine; a launch makes a folder in it
    and removes it. Null: in the launch's own folder for temporary files."""
    config: Annotated[str | None, TREATMENT, Field(min_length=1)] = None
    """A JSON file of yours with more of DeepSpeed's settings of speed: buckets, prefetching,
    thresholds, files. What it holds counts as a setting, too. What contradicts a knob, or trains
    otherwise, is refused by name; sections that are off, and `auto`, say nothing."""

    @property
    def uses_nvme(self) -> bool:
        """Whether anything is kept in files."""
        return "nvme" in (self.offload_optimizer, self.offload_param)


class SpmdKnobs(Strict):
    """Settings of `engine=spmd`, by which XLA divides a graph over devices; null elsewhere."""

    devices: Annotated[int | None, TREATMENT, Field(ge=1)] = None
    """Devices of the process, each with `batch_size` samples of its batch; null means 2. On the
    host's processors so many virtual devices are made, which share them. An accelerator has its
    own, and takes part with all that the process sees. Unit: devices."""


class Knobs(Strict):
    """One value of every knob: what a case is made of."""

    task: Annotated[Literal["train", "infer"], WORK] = "train"
    """`train`: forward, backward and update. `infer`: forward only."""
    model: Annotated[str, WORK, Field(min_length=1)] = "vit_tiny_patch16_224"
    """A timm model name, or `module:factory` of a callable that returns a `torch.nn.Module`."""
    model_kwargs: Annotated[dict[str, JsonValue], WORK] = {}
    """Keyword arguments of the model's factory."""
    image_size: Annotated[int | None, WORK, Field(ge=1)] = None
    """Height and width of the square input; null is the model's own. Unit: pixels."""
    classes: Annotated[int, WORK, Field(ge=2)] = 1000
    """Number of labels."""
    optimizer: Annotated[Literal["adam", "adamw", "sgd"] | None, WORK] = None
    """The update rule; null means adamw when training, and is the only value for `infer`."""
    learning_rate: Annotated[float | None, WORK, Field(gt=0)] = None
    """Null means 1e-3 when training. It is never scaled with the number of processes, nor with the
    batch: what a larger global batch needs is yours to set."""
    weight_decay: Annotated[float | None, WORK, Field(ge=0)] = None
    """Null means 0 when training."""
    momentum: Annotated[float | None, WORK, Field(ge=0, lt=1)] = None
    """Only for sgd, where null means 0.9."""
    data: DataKnobs = DataKnobs()

    batch_size: Annotated[int, TREATMENT, Field(ge=1)] = 8
    """Samples in one micro-batch on one device; never changed silently. An update is made of
    batch_size x gradient_accumulation x devices of them, the global batch. Unit: samples."""
    precision: Annotated[
        Literal[
            "fp32",
            "tf32",
            "amp-bf16",
            "amp-fp16",
            "bf16",
            "bf16-env",
            "fp8-tensorwise",
            "fp8-rowwise",
        ],
        TREATMENT,
    ] = "fp32"
    """`fp32`: products of all 24 bits, where a device could also round them. `tf32`: float32
    numbers, whose products NVIDIA's tensor cores round to 11 bits. `amp-bf16`: fp32 weights under
    autocast. `amp-fp16`: the same in fp16, in training with a scaled loss. `bf16`: weights,
    gradients and inputs in bfloat16. `bf16-env`: torch_xla's XLA_USE_BF16, which changes the type
    behind torch's back. `fp8-tensorwise`, `fp8-rowwise`: amp-bf16 whose linear layers, all but the
    classifier, multiply in float8 by torchao, with one scale for a tensor or for each row."""
    compile: Annotated[Literal["none", "inductor", "openxla", "neuron"], TREATMENT] = "none"
    """The `torch.compile` backend."""
    compile_mode: Annotated[
        Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None,
        TREATMENT,
    ] = None
    """The `torch.compile` mode of inductor; null means `default` there."""
    optimizer_impl: Annotated[
        Literal["auto", "for-loop", "foreach", "fused", "capturable"] | None, TREATMENT
    ] = None
    """How torch runs the update; null means `auto` (torch's own choice) when training.
    `capturable`: foreach, with the count of steps on the device, as CUDA graphs need it."""
    gradient_accumulation: Annotated[int, TREATMENT, Field(ge=1)] = 1
    """Micro-batches of each process per optimizer update, whose gradients are their mean. Unit:
    micro-batches."""
    activation_checkpointing: Annotated[bool, TREATMENT] = False
    """Recompute activations in the backward pass instead of keeping them."""
    channels_last: Annotated[bool, TREATMENT] = False
    """Keep image tensors and convolution weights in NHWC memory order."""
    loader: LoaderKnobs = LoaderKnobs()
    neuron: NeuronKnobs = NeuronKnobs()
    engine: Annotated[
        Literal["plain", "ddp", "fsdp", "accelerate", "deepspeed", "spmd"] | None, TREATMENT
    ] = None
    """Who drives the step; null means plain for one process and ddp for more. `plain`: one process.
    `ddp`: torch's DistributedDataParallel, every rank with the whole model. `fsdp`: torch's
    fully_shard (FSDP2), every rank with a part of it. `accelerate`: what Hugging Face's accelerate
    makes of the model. `deepspeed`: DeepSpeed's ZeRO over torch's own optimizer. `spmd`: one
    process, whose graph XLA divides over several devices, each with the whole model and a part of
    the batch. A batch is per device in each, and gradients are the mean over the devices."""
    fsdp: FsdpKnobs = FsdpKnobs()
    accelerate: AccelerateKnobs = AccelerateKnobs()
    zero: ZeroKnobs = ZeroKnobs()
    spmd: SpmdKnobs = SpmdKnobs()
    processes: Annotated[int, TREATMENT, Field(ge=1)] = 1
    """Ranks, one device each but for `spmd`; not set, there is one on each node. Unit: processes.
    """
    nodes: Annotated[int, TREATMENT, Field(ge=1)] = 1
    """Machines that the ranks are spread over, as many on each. Unit: machines."""
    threads: Annotated[int | None, TREATMENT, Field(ge=1)] = None
    """Compute threads of one process; null shares the visible cores among the ranks."""
    seed: Annotated[int, PROTOCOL, Field(ge=0, lt=2**31)] = 0
    """Each launch derives its own, logged seed from this one."""

    @field_validator("model")
    @classmethod
    def _model_is_a_name(cls, value: str) -> str:
        if ":" in value and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value):
            raise ValueError(
                "write a timm model name, or module:factory as in mypackage.nets:build"
            )
        return value

    @model_validator(mode="after")
    def _nodes_have_equal_shares(self) -> Knobs:
        if "processes" not in self.model_fields_set:
            self.__dict__["processes"] = self.nodes
        if self.processes % self.nodes:
            raise ValueError(
                f"nodes={self.nodes} cannot have equal shares of processes={self.processes}: set "
                "processes to a multiple of nodes"
            )
        return self

    @model_validator(mode="after")
    def _combinations_mean_something(self) -> Knobs:
        if self.task == "train":
            _fill(self, optimizer="adamw", learning_rate=1e-3, weight_decay=0.0)
            _fill(self, optimizer_impl="auto")
            if self.optimizer == "sgd":
                _fill(self, momentum=0.9)
            elif self.momentum is not None:
                raise ValueError(
                    f"momentum has no meaning for optimizer={self.optimizer}: remove it"
                )
            if self.optimizer == "sgd" and self.optimizer_impl == "capturable":
                raise ValueError(
                    "optimizer_impl=capturable has no meaning for optimizer=sgd, which counts no "
                    "steps: choose another implementation"
                )
        else:
            self._refuse_training_knobs()
        if self.compile == "inductor":
            _fill(self, compile_mode="default")
        elif self.compile_mode is not None:
            raise ValueError(
                f"compile_mode has no meaning for compile={self.compile}: set compile=inductor or "
                "remove compile_mode"
            )
        self._fill_pool()
        _fill(self, engine="plain" if self.processes == 1 else "ddp")
        if self.engine == "plain" and self.processes > 1:
            raise ValueError(
                f"engine=plain drives one process, not {self.processes}: set engine=ddp or "
                "processes=1"
            )
        if self.engine == "spmd" and self.processes > 1:
            raise ValueError(
                f"engine=spmd drives the devices of one process, not of {self.processes}: set "
                "processes=1 (and nodes=1) and spmd.devices to their number, or choose another "
                "engine"
            )
        self._fill_engine()
        return self

    @property
    def local_processes(self) -> int:
        """The ranks on one machine."""
        return self.processes // self.nodes

    @property
    def devices_per_process(self) -> int:
        """The devices of one rank."""
        return self.spmd.devices or 1

    @property
    def devices(self) -> int:
        """The devices of all ranks, over which the throughput is counted."""
        return self.processes * self.devices_per_process

    @property
    def process_batch(self) -> int:
        """The samples in one micro-batch of a rank, over all its devices."""
        return self.batch_size * self.devices_per_process

    @property
    def offloaded(self) -> dict[str, str]:
        """What is kept outside of the device's memory: where, by knob."""
        return {
            f"{group}.{knob}": value
            for group in _ENGINE_GROUPS
            for knob in type(getattr(self, group)).model_fields
            if knob.startswith("offload")
            and (value := getattr(getattr(self, group), knob)) not in (None, "none")
        }

    @property
    def offloads(self) -> str | None:
        """What is kept outside of the device's memory, in words; null: nothing is."""
        return ", ".join(f"{knob}={where}" for knob, where in self.offloaded.items()) or None

    @property
    def least_resident_pool(self) -> int:
        """The fewest batches of a pool on the device: one more than a graph holds.

        A compiler that finds the same tensor twice in a graph may merge the work on it.
        """
        return self.loader.batches_per_execution + 1

    def _fill_engine(self) -> None:
        """Fill the settings of the engine, and refuse those of another."""
        for name, (engines, defaults) in _ENGINE_GROUPS.items():
            group: Strict = getattr(self, name)
            if self.engine in engines:
                # A copy, since the group may have been handed in ready-made.
                self.__dict__[name] = group = group.model_copy()
                _fill(group, **defaults)
                continue
            for knob in type(group).model_fields:
                if getattr(group, knob) is not None:
                    raise ValueError(
                        f"{name}.{knob} has no meaning for engine={self.engine}: set engine="
                        f"{' or '.join(engines)}, or remove {name}.{knob}"
                    )
        if self.engine == "deepspeed":
            self._refuse_what_zero_ignores()

    def _refuse_what_zero_ignores(self) -> None:
        """Refuse what DeepSpeed would take and do nothing about, or something else."""
        if self.task == "infer":
            raise ValueError(
                "engine=deepspeed has no meaning for task=infer: ZeRO shares out what training "
                "keeps; set engine=ddp or fsdp"
            )
        zero = self.zero
        for name, least in (("offload_optimizer", 1), ("offload_param", 3)):
            where = getattr(zero, name)
            if where != "none" and (zero.stage or 0) < least:
                raise ValueError(
                    f"zero.{name}={where} does nothing at zero.stage={zero.stage}, where that is "
                    f"not shared out: set zero.stage to {least} or more, or zero.{name} to none"
                )
            if where == "nvme" and zero.stage != _NVME_STAGE:
                raise ValueError(
                    f"zero.{name}=nvme at zero.stage={zero.stage} would be kept in the host's "
                    f"memory: set zero.stage={_NVME_STAGE}, or zero.{name}=cpu"
                )
        if zero.nvme_path is not None and not zero.uses_nvme:
            raise ValueError(
                "zero.nvme_path has no meaning where nothing is kept in files: set "
                "zero.offload_optimizer or zero.offload_param to nvme, or remove zero.nvme_path"
            )

    def _fill_pool(self) -> None:
        data = self.data
        chosen = data.source == "device" and "pool" not in data.model_fields_set
        if chosen and (data.pool or 0) < self.least_resident_pool:
            # A copy, since the group may have been handed in ready-made.
            self.__dict__["data"] = data = data.model_copy()
            data.__dict__["pool"] = self.least_resident_pool

    def _refuse_training_knobs(self) -> None:
        for name in ("optimizer", "learning_rate", "weight_decay", "momentum", "optimizer_impl"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} has no meaning for task=infer: remove it or set it to null"
                )
        if self.gradient_accumulation != 1:
            raise ValueError("gradient_accumulation has no meaning for task=infer: set it to 1")
        if self.activation_checkpointing:
            raise ValueError("activation_checkpointing has no meaning for task=infer: set it false")


class Measure(Strict):
    """How a case is measured; none of it changes what runs."""

    launches: Annotated[int, PROTOCOL, Field(ge=1, le=100)] = 3
    """Fresh process groups per case: the unit of statistics. Unit: launches."""
    precision_target: Annotated[float | None, PROTOCOL, Field(gt=0, le=50)] = None
    """Half-width of the 95 % interval to reach by Stein's two stages; `launches` is then the pilot
    (at least 3). Unit: percent."""
    max_launches: Annotated[int, PROTOCOL, Field(ge=1, le=1000)] = 30
    """The most launches a precision target may ask for. Unit: launches."""
    budget_s: Annotated[float, PROTOCOL, Field(gt=0)] = 30.0
    """Time inside windows for the whole case, shared equally by its launches; start-up, compilation
    and warm-up come on top. Unit: seconds."""
    timeout_s: Annotated[float, PROTOCOL, Field(gt=0)] = 3600.0
    """Wall time of all launches of a case, after which it is stopped; the health pass gets what is
    left of it. Unit: seconds."""
    hang_s: Annotated[float, PROTOCOL, Field(gt=0)] = 120.0
    """Silence of a rank that has been stepping, after which it counts as hung (raised to ten times
    its longest step group). Unit: seconds."""
    windows: Annotated[int, PROTOCOL, Field(ge=3, le=1000)] = 20
    """Windows per launch that the budget is cut into (fewer when one period is longer)."""
    warmup_steps: Annotated[int, PROTOCOL, Field(ge=1)] = 15
    """The least warm-up; a fresh process gets faster over its first dozen steps, while the
    allocator settles, by more than two neighbouring groups of steps show. Unit: steps."""
    warmup_s: Annotated[float, PROTOCOL, Field(ge=0)] = 1.0
    """Unit: seconds."""
    warmup_cap_s: Annotated[float, PROTOCOL, Field(gt=0)] = 600.0
    """Warm-up that has found no steady state by then stops, and the row is suspect. Unit: seconds
    after the first step."""
    diagnostics: Annotated[bool, PROTOCOL] = True
    """Run the diagnostic pass (loader share, device-resident twin, latencies) in the first
    launch. Whether ranks hear of each other is looked at without it, too."""
    health: Annotated[bool, PROTOCOL] = True
    """After the launches of a training case, look in a process group of its own whether it still
    trains: updates on one fixed batch, against fp32 from the same seed. Untimed."""
    health_steps: Annotated[int, PROTOCOL, Field(ge=1, le=1000)] = 10
    """Updates of the health pass; a small learning rate needs more. Unit: updates."""

    @model_validator(mode="after")
    def _a_pilot_has_a_variance(self) -> Measure:
        if self.precision_target is not None and self.launches < SMALLEST_PILOT:
            raise ValueError(
                f"precision_target needs a pilot of at least {SMALLEST_PILOT} launches: "
                f"set launches >= {SMALLEST_PILOT}"
            )
        if self.precision_target is not None and self.max_launches < self.launches:
            raise ValueError("max_launches is below launches: raise it or lower launches")
        return self


class Rung(Strict):
    """One step of a ladder: the settings it adds to the rung it stands on."""

    rung: Annotated[str, Field(min_length=1)]
    on: str | None = None
    """The rung to build on; null is the last one that the backend does not refuse."""
    set: dict[str, JsonValue] = {}
    """Knob (dotted) to value."""
    remark: str | None = None


class CaseEntry(Strict):
    """One named case: the settings it changes in the scenario."""

    case: Annotated[str, Field(min_length=1)]
    set: dict[str, JsonValue] = {}
    """Knob (dotted) to value."""
    remark: str | None = None


@dataclass(frozen=True)
class Origin:
    """What composition leaves behind for the messages of those who come later."""

    place: str
    """What the scenario is called in messages: its file, where it has one."""
    referenced: frozenset[str] = frozenset()
    """Keys whose value another key took by interpolation, once, for the whole scenario."""


class Scenario(Knobs):
    """A scenario file after composition: the knobs, and the cases to make of them."""

    schema_version: Annotated[Literal[1], PROTOCOL, Field(alias="schema")]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    measure: Measure = Measure()
    matrix: dict[str, list[JsonValue]] = {}
    """Knob (dotted) to the values it takes: the cases are the cross product."""
    ladder: list[Rung] = []
    """Rungs, each on the one before unless it names another."""
    cases: list[CaseEntry] = []
    """Cases by name."""
    _origin: Origin | None = PrivateAttr(default=None)

    @property
    def origin(self) -> Origin:
        """Where the scenario comes from; never a part of what is stored."""
        return self._origin or Origin(f"scenario {self.name}")

    def with_origin(self, origin: Origin) -> Scenario:
        """Return the same scenario, knowing where it comes from."""
        copy = self.model_copy()
        copy._origin = origin
        return copy

    @model_validator(mode="after")
    def _one_way_to_make_cases(self) -> Scenario:
        used = [name for name in ("matrix", "ladder", "cases") if getattr(self, name)]
        if len(used) > 1:
            raise ValueError(f"choose one of matrix, ladder and cases, not {' and '.join(used)}")
        return self


class Case(Strict):
    """A resolved case: one value of every knob. What a record stores, and `bench run` repeats."""

    schema_version: Annotated[Literal[1], PROTOCOL, Field(alias="schema")] = SCHEMA_VERSION
    scenario: str
    case: str
    on: str | None = None
    """The rung this one was built on."""
    remark: str | None = None
    knobs: Knobs
    measure: Measure
