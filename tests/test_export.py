"""Exports equal the model at any batch size and caption length; an exported folder works without torch."""

import copy
import json
import os
import re
import runpy
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CAPTIONS, IMAGE_SIZE, tiny_config
from PIL import Image

from modeling_amns import AMNSModel, AMNSProcessor, export
from modeling_amns.embedding import embed_texts
from modeling_amns.evaluation import evaluate_retrieval
from modeling_amns.retrieval.encoders import ExportedEncoder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from modeling_amns.export import amns_onnx, preprocessing  # noqa: E402
from modeling_amns.export.amns_onnx import OnnxRetrieval  # noqa: E402

ROOT = Path(__file__).parents[1]
MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]
VARIANTS = {
    "plain": {},
    "overlapping patches": {"vision_config": {"stride": 4}},
    "legacy end token": {"text_config": {"eos_token_id": 2}},
}
# Run before an example: importing torch or transformers is then an error, not only unused.
NO_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "modeling_amns"):
            raise AssertionError(name + " was imported")
sys.meta_path.insert(0, Refuse())
"""


def tiny_model(processor, **changes) -> AMNSModel:
    torch.manual_seed(0)
    text = {**processor.text_config_fields, **changes.pop("text_config", {})}
    return AMNSModel(tiny_config(text_config=text, **changes)).eval()


def tokens(model, batch, length):
    """Random captions, the second half of each other one padding."""
    end = model.config.text_config.vocab_size - 1
    ids = torch.randint(3, end - 1, (batch, length), generator=torch.Generator().manual_seed(batch * length))
    ids[:, -1], ids[::2, length // 2 :] = end, end
    mask = torch.ones_like(ids)
    mask[::2, length // 2 + 1 :] = 0
    return ids, mask


@torch.no_grad()
def want(model, **inputs):
    """L2-normalised features by the model's own methods."""
    features = model.get_image_features if "pixel_values" in inputs else model.get_text_features
    return torch.nn.functional.normalize(features(**inputs).pooler_output, dim=-1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, processor):
    """A folder with fp32 and int8 encoders, and the model."""
    model, folder = tiny_model(processor), tmp_path_factory.mktemp("exported")
    deviations = export.export_onnx(model, processor, folder, int8=True)
    assert all(0 <= value < 1e-5 for value in deviations.values())
    return folder, model


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for index in range(5):
        noise = np.random.default_rng(index).integers(0, 256, (90 + 7 * index, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request, tmp_path_factory, processor):
    """A folder with fp32 encoders of one kind of model, and the model."""
    model, folder = tiny_model(processor, **VARIANTS[request.param]), tmp_path_factory.mktemp("variant")
    export.export_onnx(model, processor, folder)
    return folder, model


@pytest.mark.parametrize("batch, length", [(1, 4), (3, 77), (7, 20)])
def test_onnx_equals_the_model_at_other_batch_sizes_and_lengths(variant, batch, length):
    folder, model = variant
    sessions = OnnxRetrieval(folder).sessions
    pixels = torch.randn(batch, 3, *IMAGE_SIZE)
    [image] = sessions["image"].run(None, {"pixel_values": pixels.numpy()})
    assert np.abs(image - want(model, pixel_values=pixels).numpy()).max() < 1e-5
    ids, mask = tokens(model, batch, length)
    [text] = sessions["text"].run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    assert np.abs(text - want(model, input_ids=ids, attention_mask=mask).numpy()).max() < 1e-5
    assert text.shape == (batch, model.config.projection_dim) and np.ptp(text) > 0.1


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_torch_export_equals_eager_at_other_batch_sizes(tmp_path, processor, changes):
    model = tiny_model(processor, **changes)
    for name, program in export.export_programs(model).items():
        torch.export.save(program, tmp_path / f"{name}.pt2")
        run = torch.export.load(tmp_path / f"{name}.pt2").module()
        for batch, length in ((1, 4), (6, 30)):
            ids, mask = tokens(model, batch, length)
            inputs = {"input_ids": ids, "attention_mask": mask}
            if name == "image":
                inputs = {"pixel_values": torch.randn(batch, 3, *IMAGE_SIZE)}
            assert (run(**inputs) - want(model, **inputs)).abs().max() < 1e-6


def test_int8_is_smaller_and_near(exported, photos):
    folder, _ = exported
    full, small = OnnxRetrieval(folder), OnnxRetrieval(folder, int8=True)
    paths = sorted(photos.iterdir())
    for a, b in (
        (full.embed_images(paths), small.embed_images(paths)),
        (full.embed_texts(CAPTIONS), small.embed_texts(CAPTIONS)),
    ):
        assert (a * b).sum(1).min() > 0.97 and np.abs(a - b).max() > 1e-6
    for name in ("image", "text"):
        graph = onnx.load(folder / f"{name}_encoder.int8.onnx").graph
        # Six matrices in each of three layers and the projection.
        assert sum(node.op_type == "MatMulInteger" for node in graph.node) == 19
        # The embedding of words too, the largest matrix of a text encoder.
        small = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
        words = [list(part.dims) for part in graph.initializer if part.data_type in small]
        assert ([tokens_of(folder), 32] in words) == (name == "text")
        assert (folder / f"{name}_encoder.int8.onnx").stat().st_size < (folder / f"{name}_encoder.onnx").stat().st_size


def tokens_of(folder):
    return len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])


@pytest.mark.parametrize("mode", MODES)
def test_pixels_without_torch_are_those_of_the_processor(exported, processor, mode):
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (90, 50, 3), dtype=np.uint8))
    if mode == "I;16":
        image = Image.fromarray(np.random.default_rng(3).integers(0, 65536, (90, 50), dtype=np.uint16))
    elif mode in ("La", "PA"):
        image = noise.convert("LA").convert(mode)
    elif mode == "LAB":
        image = Image.new(mode, noise.size, (120, 30, 60))
    else:
        image = noise.convert("L" if mode in ("I", "F") else mode).convert(mode)
    got = OnnxRetrieval(exported[0]).pixels(image)
    expected = processor(images=image, return_tensors="np").pixel_values[0]
    assert got.dtype == np.float32 and np.array_equal(got, expected)


GREY = np.tile(np.arange(0, 255, 5, dtype=np.uint8), (90, 1))


@pytest.mark.parametrize(
    "values",
    [GREY.astype(np.int32), GREY.astype(np.int32) * 300, GREY.astype(np.float32) / 255, GREY.astype(np.float32)],
    ids=["I of 8 bits", "I of 16 bits", "F in [0, 1]", "F in [0, 255]"],
)
def test_greys_of_every_depth_are_those_of_the_processor(exported, processor, values):
    image = Image.fromarray(values)
    got = OnnxRetrieval(exported[0]).pixels(image)
    assert np.array_equal(got, processor(images=image, return_tensors="np").pixel_values[0]) and np.ptp(got) > 2
    with pytest.raises(ValueError, match="values go from 0 to 3[0-9.e+]*; floats in"):
        amns_onnx.to_rgb(Image.fromarray(GREY.astype(np.float32) * 1.23e4))


@pytest.mark.parametrize("turn", range(1, 9))
def test_turned_photographs_are_those_of_the_processor(exported, processor, tmp_path, turn):
    # An exposure of type "signed", whose rational (-1, 0) Pillow reads and can't write.
    entries = struct.pack("<HHII", 0x0112, 3, 1, turn) + struct.pack("<HHII", 0x829A, 10, 1, 38)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<IiI", 0, -1, 0)
    Image.fromarray(GREY).resize((30, 90)).save(tmp_path / "1.jpg", exif=exif)
    got = OnnxRetrieval(exported[0]).pixels(tmp_path / "1.jpg")
    assert np.array_equal(got, processor(images=tmp_path / "1.jpg", return_tensors="np").pixel_values[0])
    turned = amns_onnx.to_rgb(Image.open(tmp_path / "1.jpg"))
    assert turned.size == ((30, 90) if turn < 5 else (90, 30)) and amns_onnx.to_rgb(turned).size == turned.size


@pytest.mark.parametrize("options", [{}, {"do_normalize": False}, {"rescale_factor": 1 / 127.5, "resample": 2}])
def test_settings_of_the_processor_are_exported(processor, options, tmp_path):
    own = AMNSProcessor.from_tokenizer(copy.deepcopy(processor.tokenizer), IMAGE_SIZE)
    for name, value in options.items():
        setattr(own.image_processor, name, value)
    own.max_tokens = 12
    parameters = preprocessing(tiny_model(processor), own, {})
    assert parameters["text"]["max_length"] == 12
    reader = object.__new__(OnnxRetrieval)
    reader.image = json.loads(json.dumps(parameters))["image"]
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (90, 50, 3), dtype=np.uint8))
    assert np.array_equal(reader.pixels(image), own(images=image, return_tensors="np").pixel_values[0])


def test_files_and_rotated_photographs_are_read_as_by_the_processor(exported, processor, tmp_path):
    image, exif = Image.linear_gradient("L").resize((60, 90)).convert("RGB"), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "rotated.jpg", exif=exif)
    got = OnnxRetrieval(exported[0]).pixels(tmp_path / "rotated.jpg")
    expected = processor(images=Image.open(tmp_path / "rotated.jpg"), return_tensors="np").pixel_values[0]
    assert np.abs(got - expected).max() < 1e-6
    upright = OnnxRetrieval(exported[0]).pixels(image)
    assert np.abs(got - upright).max() > 0.1


def test_tokens_without_torch_are_those_of_the_processor(exported, processor):
    captions = [*CAPTIONS, "word " * 200, "a <|endoftext|> man", "&amp;amp; é 你好 🙂 ﬁ", "  A  MAN\n", ""]
    got = OnnxRetrieval(exported[0]).tokens(captions)
    expected = processor(text=captions, return_tensors="np")
    for name in ("input_ids", "attention_mask"):
        assert got[name].dtype == np.int64 and np.array_equal(got[name], expected[name])


def test_the_example_searches_without_torch_and_ranks_as_the_model(exported, processor, photos, tmp_path):
    folder, model = exported
    (tmp_path / "exported").symlink_to(folder)
    (tmp_path / "photos").symlink_to(photos)
    example = re.search(r"```python\n(.*?)```", amns_onnx.__doc__, re.DOTALL).group(1)
    (tmp_path / "example.py").write_text(NO_TORCH + example)
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    images = processor(images=[Image.open(photos / f"{index}.png") for index in range(3)], return_tensors="pt")
    query = processor(text="a woman in a red coat with a black backpack", return_tensors="pt")
    scores = (want(model, **query) @ want(model, **images).T)[0]
    expected = [f"{scores[index]:.3f}  photos/{index}.png" for index in scores.argsort(descending=True)]
    assert done.stdout.split("\n")[:-1] == expected


def test_the_exported_folder_searches_from_the_command_line(exported, photos, tmp_path):
    folder, _ = exported
    command = [sys.executable, folder / "amns_onnx.py", photos, "a boy with green shorts", "--top", "2", "--int8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    model = OnnxRetrieval(folder, int8=True)
    paths = sorted(photos.iterdir())
    scores = model.embed_images(paths) @ model.embed_texts(["a boy with green shorts"])[0]
    best = np.argsort(-scores)[:2]
    assert done.stdout.splitlines() == [f"{scores[index]:.4f}  {paths[index]}" for index in best]
    done = subprocess.run([*command[:2], tmp_path, "a boy"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and f"there are no images in {tmp_path}" in done.stderr


def test_every_ending_that_pillow_reads_is_searched_and_the_others_are_counted(exported, tmp_path):
    """On a console of Windows' code page, where odd names are escaped and lose nothing."""
    image, names = Image.linear_gradient("L").convert("RGB"), ["a.jfif", "b.jpe", "c.avif", "D.PNG", "人.png"]
    for name in names:
        kind = {"jfif": "JPEG", "jpe": "JPEG", "avif": "AVIF"}.get(name[2:], "PNG")
        image.save(tmp_path / name, kind)
    (tmp_path / "人.txt").write_text("no image")
    (tmp_path / "e.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0")
    (tmp_path / "欠.jpg").write_text("no image either")
    command = [sys.executable, exported[0] / "amns_onnx.py", tmp_path, "a boy", "--top", "99"]
    env = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    assert {line.split("  ")[1] for line in done.stdout.splitlines()} == {
        str(tmp_path / name.replace("人", "\\u4eba")) for name in names
    }
    counted, broken = done.stderr.strip().splitlines()
    assert counted == "amns_onnx.py: left out 2 file(s) with endings of no image that can be read."
    assert "\\u6b20.jpg: UnidentifiedImageError" in broken


def test_a_broken_image_is_left_out_of_a_search_by_its_name(exported, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "dir.png").mkdir()
    broken = tmp_path / "photos" / "0.png"
    broken.write_bytes(broken.read_bytes()[:300])
    command = [sys.executable, exported[0] / "amns_onnx.py", tmp_path / "photos", "a boy", "--top", "99"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(list(photos.iterdir())) - 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"amns_onnx.py: left out. Cannot read image {broken}: ")


@pytest.mark.parametrize("name", ["preprocessing.json", "tokenizer.json", "text_encoder.onnx"])
def test_an_exported_folder_that_is_cut_off_is_one_line(exported, photos, tmp_path, name):
    folder = shutil.copytree(exported[0], tmp_path / "exported")
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    command = [sys.executable, folder / "amns_onnx.py", photos, "a boy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1 and line.startswith("amns_onnx.py: the models can't be read. ")


def test_one_caption_and_one_image_are_a_list_of_one(exported, photos):
    model = OnnxRetrieval(exported[0])
    assert np.array_equal(model.embed_texts("a man"), model.embed_texts(["a man"]))
    path = photos / "0.png"
    assert np.array_equal(model.embed_images(path), model.embed_images([path]))
    with Image.open(path) as image:
        assert np.array_equal(model.embed_images(image), model.embed_images([path]))


def test_sessions_run_on_the_providers_asked_for(exported, monkeypatch):
    asked = []
    monkeypatch.setattr(amns_onnx.onnxruntime, "InferenceSession", lambda file, providers: asked.append(providers))
    OnnxRetrieval(exported[0], providers=["CUDAExecutionProvider"])
    OnnxRetrieval(exported[0])
    assert asked == 2 * [["CUDAExecutionProvider"]] + 2 * [["CPUExecutionProvider"]]


def test_a_processor_that_does_not_fit_is_refused_before_any_work(tmp_path, processor):
    model = tiny_model(processor, vision_config={"image_size": [96, 32]})
    with pytest.raises(ValueError, match="makes .*64.*32.*, the model takes whole images resized to 96x32"):
        export.export_onnx(model, processor, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_preprocessing_is_written_as_numbers(exported, processor):
    parameters = json.loads((exported[0] / "preprocessing.json").read_text())
    assert parameters["image"]["resample"] == Image.Resampling.BICUBIC
    assert [parameters["image"][side] for side in ("height", "width")] == IMAGE_SIZE
    assert parameters["text"]["pad_token_id"] == processor.tokenizer.pad_token_id
    assert parameters["text"]["eos_token_id"] == processor.tokenizer.eos_token_id
    assert parameters["text"]["max_length"] == 77 and parameters["embedding"]["dimension"] == 16


def test_an_export_leaves_nothing_of_an_older_one_and_what_is_missing_is_named(tmp_path, processor):
    with pytest.raises(FileNotFoundError, match="has no preprocessing.json; write it with scripts/export.py"):
        OnnxRetrieval(tmp_path)
    for name in ("image_encoder.int8.onnx", "image_encoder.onnx.data", "text_encoder.pt2"):
        (tmp_path / name).touch()
    # What the caller's tokenizer remembers of its last call.
    processor = copy.deepcopy(processor)
    processor(text=["a man"], padding="max_length", max_length=33, truncation=True)
    before = processor.tokenizer.backend_tokenizer.padding, processor.tokenizer.backend_tokenizer.truncation
    export.export_onnx(tiny_model(processor), processor, tmp_path)
    assert before == (processor.tokenizer.backend_tokenizer.padding, processor.tokenizer.backend_tokenizer.truncation)
    assert sorted(path.name for path in tmp_path.glob("*_encoder*")) == ["image_encoder.onnx", "text_encoder.onnx"]
    with pytest.raises(FileNotFoundError, match="no int8 image encoder; it has fp32.*--int8"):
        OnnxRetrieval(tmp_path, int8=True)


def test_half_precision_is_exported_in_float32_and_left_as_it_was(tmp_path, processor):
    model = tiny_model(processor).bfloat16()
    export.export_onnx(model, processor, tmp_path)
    assert next(model.parameters()).dtype == torch.bfloat16 and next(model.parameters()).requires_grad
    ids, mask = tokens(model, 2, 9)
    session = OnnxRetrieval(tmp_path).sessions["text"]
    [text] = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    assert np.abs(text - want(model.float(), input_ids=ids, attention_mask=mask).numpy()).max() < 1e-5


def test_weights_beyond_one_file_lie_beside_the_graph(tmp_path, processor, photos, exported, monkeypatch):
    monkeypatch.setattr(export.onnx, "SINGLE_FILE_BYTES", 1000)
    export.export_onnx(exported[1], processor, tmp_path, int8=True)
    assert (tmp_path / "image_encoder.onnx.data").stat().st_size > 100_000
    paths = sorted(photos.iterdir())
    for int8 in (False, True):
        got, expected = (OnnxRetrieval(folder, int8).embed_images(paths) for folder in (tmp_path, exported[0]))
        assert np.abs(got - expected).max() < 1e-6


def test_an_export_that_differs_is_refused(tmp_path, processor, monkeypatch):
    original = export.TextEncoder.forward

    def different(self, input_ids, attention_mask):
        embeds = original(self, input_ids, attention_mask)
        return embeds + 0.01 if torch.compiler.is_exporting() else embeds

    monkeypatch.setattr(export.TextEncoder, "forward", different)
    with pytest.raises(RuntimeError, match="text_encoder.onnx, run by onnxruntime, differs from PyTorch by 0.01"):
        export.export_onnx(tiny_model(processor), processor, tmp_path)
    assert not (tmp_path / "preprocessing.json").exists()
    with pytest.raises(RuntimeError, match="torch.export of the text encoder differs from PyTorch by 0.01"):
        export.export_programs(tiny_model(processor))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(tmp_path, processor, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'needs the package {package},.*pip install "modeling_amns\[onnx\]"'):
        export.export_onnx(tiny_model(processor), processor, tmp_path)


def test_the_script_reports_every_variant_on_a_benchmark(tmp_path, processor):
    from modeling_amns import load_benchmark, make_synthetic_benchmark

    make_synthetic_benchmark(tmp_path, train_identities=2, val_identities=4, test_identities=8)
    model = tiny_model(processor)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    command = [sys.executable, ROOT / "scripts" / "export.py", tmp_path / "model", tmp_path / "out", "--int8"]
    command += ["--torch_export", "--benchmark", "synthetic-pedes", "--data_root", tmp_path, "--split", "val"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    rows = report["rows"]
    assert list(rows) == ["PyTorch fp32", "ONNX fp32", "ONNX int8"]
    figures = evaluate_retrieval(model, processor, load_benchmark("synthetic-pedes", tmp_path, "val"))
    for name, value in figures.items():
        assert rows["PyTorch fp32"][name] == pytest.approx(value, abs=1e-4)
    # Among embeddings of an untrained model, rounding may turn near ties round.
    assert rows["ONNX fp32"]["mAP"] == pytest.approx(figures["mAP"], abs=1)
    assert rows["ONNX int8"]["mAP"] == pytest.approx(figures["mAP"], abs=10)
    assert "| ONNX int8, " in done.stdout and "int8 changes Rank-1 by" in done.stdout
    assert torch.export.load(tmp_path / "out" / "image_encoder.pt2")


def test_each_row_of_the_comparison_is_the_encoder_that_it_names(exported, processor, monkeypatch):
    folder, model = exported
    ids, mask = tokens(model, 2, 9)

    def first_entry(encoder, *args, **kwargs):
        # Whatever the checkpoint's precision.
        assert {parameter.dtype for parameter in encoder.parameters()} <= {torch.float32}
        with torch.no_grad():
            embeds = encoder.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        return {"rank1": torch.nn.functional.normalize(embeds, dim=-1)[0, 0].item()}

    monkeypatch.setattr(export.onnx, "evaluate_retrieval", first_entry)
    assert export.compare(copy.deepcopy(model).bfloat16(), processor, folder, {})
    rows = export.compare(model, processor, folder, {})
    runs = [OnnxRetrieval(folder, int8).sessions["text"] for int8 in (False, True)]
    full, small = (
        run.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0][0, 0].item() for run in runs
    )
    assert rows["PyTorch fp32"]["rank1"] == pytest.approx(full, abs=1e-6)
    assert [rows["ONNX fp32"]["rank1"], rows["ONNX int8"]["rank1"]] == pytest.approx([full, small], abs=1e-7)
    assert abs(full - small) > 1e-6
    assert rows["ONNX int8"]["megabytes"] < rows["ONNX fp32"]["megabytes"]


def test_the_script_explains_bad_input_in_one_line(tmp_path, monkeypatch, capsys):
    for out, message in ((tmp_path / "out", f"export.py: {tmp_path}"), (tmp_path, "is the checkpoint itself")):
        monkeypatch.setattr(sys, "argv", ["export.py", str(tmp_path), str(out)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "scripts" / "export.py"), run_name="__main__")
        said = capsys.readouterr().err
        assert end.value.code == 1 and message in said.strip().splitlines()[-1] and "Traceback" not in said


@pytest.mark.parametrize("choice", ["cut", "windows", "refuse", None])
def test_long_captions_without_torch_are_those_of_the_model(exported, processor, tmp_path, choice):
    """What the folder says; one of before it said anything cuts."""
    folder, model = exported
    own = AMNSProcessor.from_tokenizer(copy.deepcopy(processor.tokenizer), processor.image_size)
    own.long_captions = choice or "cut"
    shutil.copytree(folder, tmp_path / "copy")
    parameters = json.loads((folder / "preprocessing.json").read_text())
    assert parameters["text"].pop("long_captions") == "cut"
    parameters["text"] |= {"long_captions": choice} if choice else {}
    (tmp_path / "copy" / "preprocessing.json").write_text(json.dumps(parameters))
    reader, captions = OnnxRetrieval(tmp_path / "copy"), ["", " ".join(CAPTIONS * 9), CAPTIONS[0], "a &amp; b " * 99]
    if choice == "refuse":
        with pytest.raises(ValueError, match="Caption 1 has more than the 77 tokens"):
            reader.embed_texts(captions)
        return
    got = reader.embed_texts(captions, batch_size=3)
    assert got.dtype == np.float32 and np.abs(got - embed_texts(model, own, captions).numpy()).max() < 1e-5
    assert reader.embed_texts([]).shape == (0, got.shape[1])
    encoder = ExportedEncoder(tmp_path / "copy")
    assert encoder.long_captions == own.long_captions and np.allclose(encoder.embed_texts(captions), got, atol=1e-6)
    encoder.long_captions = "cut" if choice == "windows" else "windows"
    assert not np.allclose(encoder.embed_texts(captions)[1], got[1], atol=1e-4)
