"""The engines, by their device names. A new engine is one file and one line."""

from __future__ import annotations

from difflib import get_close_matches
from pkgutil import resolve_name

from medprompt.core.errors import EngineError
from medprompt.runtime.engines.base import DeviceEngine

ENGINES: dict[str, str] = {
    "ort-cpu": "medprompt.runtime.engines.ort:OnnxRuntime",
    "openvino": "medprompt.runtime.engines.openvino:OpenVino",
    "openvino-bf16": "medprompt.runtime.engines.openvino:OpenVinoBf16",
    "openvino-mixed": "medprompt.runtime.engines.openvino:OpenVinoMixed",
    "trt": "medprompt.runtime.engines.tensorrt:TensorRt",
    "trt-rtx": "medprompt.runtime.engines.tensorrt:TensorRtRtx",
    "ort-nv-trt-rtx": "medprompt.runtime.engines.ort_gpu:OrtNvTensorRtRtx",
    "ort-cuda": "medprompt.runtime.engines.ort_gpu:OrtCuda",
    "fake": "medprompt.runtime.engines.fake:Fake",
}

RETIRED = {
    "ort-trt": "ONNX Runtime's TensorRT provider compiles again at every new image size, on TensorRT 10 alone, and "
    "leaves to the CPU what it cannot do: compile an engine for trt, or take ort-cuda",
}
"""Devices of older bundles and scripts, and why they are not served any more."""


def engine_class(device: str) -> type[DeviceEngine]:
    """Import the engine of a device.

    Raises:
        EngineError: No such device.
    """
    if device in RETIRED:
        raise EngineError(
            f"{device} is not served any more.",
            where="device",
            got=RETIRED[device],
            fix="device=trt or device=ort-cuda",
        )
    if device not in ENGINES:
        known = [name for name in ENGINES if name != "fake"]
        near = [name for name in known if device.lower() in name] or get_close_matches(device.lower(), known)
        raise EngineError(
            "There is no such device.",
            where="device",
            expected=f"auto, {', '.join(known)}",
            got=device,
            fix=f"for this one: {', '.join(near)}" if near and device else "medprompt doctor lists what runs here",
        )
    found: type[DeviceEngine] = resolve_name(ENGINES[device])
    return found
