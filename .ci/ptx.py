"""The PTX of the package's CUDA source: make it, and check it without a GPU.

    python .ci/ptx.py make FOLDER
    python .ci/ptx.py check FOLDER

NVIDIA's compilers are installed into FOLDER from PyPI where they are not there yet. PTX is made by the oldest NVRTC of
CUDA 12, for a driver takes no PTX of a newer CUDA than its own. ``check`` makes it again and compares; compiles the
source for each GPU by an NVRTC that knows them all; and assembles the shipped PTX for each, as a driver does that loads
it.
"""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "runtime/engines/taps.cu"
LOWEST = "compute_75"
GPUS = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_120", "sm_121")

MAKER = ("nvidia-cuda-nvrtc-cu12==12.0.140", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12")
COMPILER = ("nvidia-cuda-nvrtc-cu12==12.9.86", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12")
ASSEMBLER = ("nvidia-nvjitlink-cu12==12.9.86", "nvidia/nvjitlink/lib/libnvJitLink.so.12")

ASSEMBLER_PTX = 2
"""``NVJITLINK_INPUT_PTX``."""


def library(folder: Path, requirement: str, path: str) -> ctypes.CDLL:
    """A library of a wheel, which is installed below ``folder`` first where it is not there."""
    home = folder / requirement.replace("==", "-")
    if not (home / path).exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(home), requirement]
        subprocess.run(pip, check=True)
    # NVRTC finds its builtins beside itself only if they are loaded.
    for builtins in sorted((home / path).parent.glob("libnvrtc-builtins.so*")):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(home / path))


def compiled(nvrtc: ctypes.CDLL, target: str) -> bytes:
    """The source as PTX for a ``compute_…`` target, or as machine code for an ``sm_…`` one."""
    program = ctypes.c_void_p()
    source = SOURCE.read_bytes()
    made = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, SOURCE.name.encode(), 0, None, None)
    assert made == 0, f"nvrtcCreateProgram: {made}"
    options = [f"--gpu-architecture={target}".encode(), b"--fmad=false", b"--std=c++14"]
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    kind = "PTX" if target.startswith("compute") else "CUBIN"
    assert not failed, f"{target}: {_text(nvrtc, program, 'ProgramLog').decode()}"
    return _text(nvrtc, program, kind)


def _text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    content = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, content)
    return content.raw[: size.value]


def assembled(linker: ctypes.CDLL, ptx: bytes, gpu: str) -> bytes:
    """PTX as machine code for a GPU."""
    handle, size = ctypes.c_void_p(), ctypes.c_size_t()
    options = (ctypes.c_char_p * 1)(f"-arch={gpu}".encode())
    call = lambda name, *arguments: getattr(linker, f"__nvJitLink{name}_12_9")(*arguments)  # noqa: E731
    assert call("Create", ctypes.byref(handle), 1, options) == 0, gpu
    assert call("AddData", handle, ASSEMBLER_PTX, ptx, len(ptx), b"taps") == 0, gpu
    assert call("Complete", handle) == 0, gpu
    call("GetLinkedCubinSize", handle, ctypes.byref(size))
    content = ctypes.create_string_buffer(size.value)
    call("GetLinkedCubin", handle, content)
    return content.raw


def shipped(nvrtc: ctypes.CDLL) -> str:
    """PTX as the package ships it: with the hash of its source, and without NVRTC's own remarks and constants."""
    text = compiled(nvrtc, LOWEST).decode().rstrip("\0")
    body = "\n".join(line for line in text.splitlines() if line and not line.lstrip().startswith(("//", ".global ")))
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    return f"// {SOURCE.name} sha256 {digest}, by {MAKER[0]}; made by .ci/ptx.py\n{body}\n"


def check(folder: Path, ptx: str) -> None:
    """Compile and assemble for every GPU."""
    newest, linker = library(folder, *COMPILER), library(folder, *ASSEMBLER)
    for gpu in GPUS:
        sizes = len(compiled(newest, gpu)), len(assembled(linker, ptx.encode(), gpu))
        print(f"{gpu}: {sizes[0]} bytes of the source, {sizes[1]} of the shipped PTX")


def main(command: str, folder: Path) -> int:
    """Make or check; 1 where the shipped PTX is not its source's."""
    ptx, path = shipped(library(folder, *MAKER)), SOURCE.with_suffix(".ptx")
    if command == "make":
        path.write_text(ptx)
    elif path.read_text() != ptx:
        print(f"{path} is not what {SOURCE} compiles to: python .ci/ptx.py make FOLDER", file=sys.stderr)
        return 1
    check(folder, ptx)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
