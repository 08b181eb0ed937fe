"""How far ONNX's own resizing is from Pillow's, which images are resized with in training.

    python benchmarks/onnx_resize.py

Random images are brought to 64 x 64 by Pillow, by PyTorch and by the operator ``Resize`` of ONNX (opset 18, antialias)
in onnxruntime. Each line has the largest difference to Pillow in grey levels of 256, and the share of differing values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from PIL import Image

SIZE = 64
MODES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "linear": (Image.Resampling.BILINEAR, "bilinear", {}),
    "cubic": (Image.Resampling.BICUBIC, "bicubic", {"cubic_coeff_a": -0.5, "exclude_outside": 1}),
}


def session(mode: str) -> Any:
    """Return a session with the one operator."""
    how = {"mode": mode, "antialias": 1, "coordinate_transformation_mode": "half_pixel", **MODES[mode][2]}
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **how)
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, None, None]),
        helper.make_tensor_value_info("sizes", TensorProto.INT64, [4]),
    ]
    graph = helper.make_graph([node], "resize", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString())


def grey(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.clip(np.rint(values), 0, 255)


def main() -> None:
    draw = np.random.default_rng(0)
    for mode, (filtering, name, _) in MODES.items():
        run = session(mode)
        for height, width in ((300, 200), (97, 131), (50, 40)):
            image = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
            x = image.transpose(2, 0, 1)[None].astype(np.float32)
            resized = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), filtering))
            pillow = resized.transpose(2, 0, 1)[None].astype(np.float32)
            onnx = grey(run.run(None, {"x": x, "sizes": np.array([1, 3, SIZE, SIZE], dtype=np.int64)})[0])
            own = torch.nn.functional.interpolate(torch.from_numpy(x), (SIZE, SIZE), mode=name, antialias=True)
            parts = [f"{mode:7}{height} x {width}:"]
            for library, values in (("onnxruntime", onnx), ("torch", grey(own.numpy()))):
                apart = np.abs(values - pillow)
                parts.append(f"{library} {apart.max():.0f} levels, {100 * (apart > 0).mean():.0f} % differ;")
            print(*parts)


if __name__ == "__main__":
    main()
