"""What the model runs on: the device, its number format, one process or several."""
import contextlib
import os
import platform
from typing import NamedTuple

import torch
import torch.distributed

from plumbing.flags import check_input

# ---- The device and its number format ------------------------------------------------------------

def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    processor = platform.processor() or platform.machine()
    return f"{processor} CPU, {torch.get_num_threads()} threads"


def processor_multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bf16 products: AMX, or AVX512-BF16."""
    # Private to torch, so perhaps not there; then no bf16 unless --bf16 asks for it.
    questions = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    known = [getattr(torch.cpu, name) for name in questions if hasattr(torch.cpu, name)]
    return any(is_supported() for is_supported in known)


def choose_bf16(requested: bool | None, device: torch.device, model_name: str) -> tuple[bool, str]:
    """(whether to compute in bf16, why). Weights that are trained stay float32."""
    if requested is not None:
        return requested, "as --bf16 says"
    if model_name == "tiny":
        return False, "bf16 would not speed up a tiny model, and results would differ between machines"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return True, "a GPU that has bf16"
        return False, "this GPU has no bf16"
    if processor_multiplies_bf16():
        return True, "a pretrained model, on a processor that multiplies bf16"
    return False, "a processor that does not multiply bf16"


def set_up_machine(model_name: str, bf16: bool | None) -> tuple[torch.device, bool, str]:
    """(device, whether to compute in bf16, a line that says where, in which format, and why)."""
    device = pick_device()
    # The tiny model is so small that two threads mostly wait for one another; and one repeats bit
    # for bit. The other core tokenises.
    if device.type == "cpu" and model_name == "tiny":
        torch.set_num_threads(1)
    bf16, why = choose_bf16(bf16, device, model_name)
    name = str(device)
    if device.type == "cpu":
        name = f"cpu, {torch.get_num_threads()} threads, no CUDA GPU found"
        if torch.backends.mps.is_available():
            name += " (Apple's GPU is not used)"
    return device, bf16, f"{name}; {'bf16' if bf16 else 'float32'}: {why}"


def autocast(device: torch.device, bf16: bool):
    """The context to compute in."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()


def peak_memory() -> str | None:
    """One line about the most GPU memory used since the start; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    return f"GPU memory at its peak: {torch.cuda.max_memory_allocated() / 2 ** 30:.1f} GiB"


# ---- Several processes ---------------------------------------------------------------------------

TORCHRUN_SETS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Team(NamedTuple):
    """The processes that train together (torchrun); nearly always one.

    Each takes its share of every step's lists; sums over all make the same step in each of them.
    """
    process: int = 0
    size: int = 1

    def share(self, lists: list) -> list:
        """This process's part of lists that all have: every n-th one."""
        return lists[self.process::self.size]

    def check_shares(self, n_lists: int, batch_size: int) -> None:
        """Each process needs a list in each step, the smallest one of an epoch included."""
        smallest_step = n_lists % batch_size or batch_size
        check_input(smallest_step >= self.size,
                    f"an epoch's smallest step has {smallest_step} lists for {self.size} "
                    "processes: another --batch_size")

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def means(self, parts: list[dict], count: int) -> dict:
        """{name: the sum over these dicts of tensors and over all processes, divided by count}."""
        names = list(parts[0])
        for part in parts:
            check_input(part.keys() == parts[0].keys(),
                        f"a loss function must return the same names each time, got {[*part]}")
        sums = [sum(part[name] for part in parts) for name in names]
        # One tensor of all, so that several processes exchange it once.
        means = self.sum(torch.stack(sums)) / count
        return dict(zip(names, means))

    def add_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Make each gradient the sum over all processes."""
        if self.size > 1:
            for weight in parameters:
                # Every process must take part in every sum, whether it has a gradient or not.
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                self.sum(weight.grad)

    def any(self, happened: bool, device: torch.device) -> bool:
        """Whether it is true in any process: all must leave a loop at the same step."""
        if self.size == 1:
            return happened
        return self.sum(torch.tensor(float(happened), device=device)).item() > 0

    def same(self, value):
        """The first process's value, in every process."""
        values = [value]
        if self.size > 1:
            torch.distributed.broadcast_object_list(values)
        return values[0]

    def leave(self) -> None:
        """Undo `join_processes`."""
        if self.size > 1:
            torch.distributed.destroy_process_group()


ALONE = Team()


def join_processes() -> Team:
    """The team that torchrun has started this process in; else a team of one.

    Raises: AlroError if only some of what torchrun sets is there.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    mend = "unset it, or start with torchrun --nproc_per_node=N train.py ..."
    check_input(world.isdecimal() and int(world) > 0,
                f"the environment says WORLD_SIZE={world!r}, no number of processes: {mend}")
    if int(world) == 1:
        return ALONE
    missing = [name for name in TORCHRUN_SETS if not os.environ.get(name)]
    check_input(not missing, f"the environment says WORLD_SIZE={world}, but not "
                             f"{', '.join(missing)}: {mend}")
    if not torch.distributed.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            backend = "nccl"
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group(backend)
    return Team(torch.distributed.get_rank(), int(world))
