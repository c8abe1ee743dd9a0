"""What is refused as a base model before any process starts, and in which words."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.load import load_job
from orchestrator.errors import BadInput, Damaged
from orchestrator.ledger.artifacts import Artifacts
from orchestrator.ledger.uses import FileCheck
from orchestrator.ledger.uses import model as committed_model
from orchestrator.models.named import locate_model
from orchestrator.records.model_folder import TEMPLATES
from orchestrator.rounds.space import Disk, require_space, round_need
from tests.support.sample_run import job

BASE = Path(__file__).parents[3] / "jobs" / "demo" / "base"
HEADER = {
    "model.embed_tokens.weight": [12, 8],
    "model.layers.0.self_attn.q_proj.weight": [8, 8],
    "model.layers.0.self_attn.k_proj.weight": [4, 8],
    "model.layers.0.mlp.down_proj.weight": [8, 16],
    "model.layers.1.self_attn.q_proj.weight": [8, 8],
}
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 12,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
}


def write_weights(file: Path, shapes: dict[str, list[int]]) -> None:
    """A safetensors file of zeros, byte by byte as the format says."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def model(folder: Path, shapes: dict[str, list[int]] | None = None, **config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    write_weights(folder / "model.safetensors", HEADER if shapes is None else shapes)
    return folder


def locate(tmp_path: Path, name: object) -> str:
    job = {"name": "x", "model": str(name), "data": {"train": "a", "gate": "b", "test": "c"}}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return str(locate_model(load_job(path)).folder)


def test_a_folder_that_fits_is_taken(tmp_path: Path) -> None:
    assert locate(tmp_path, BASE) == str(BASE)
    assert locate(tmp_path, model(tmp_path / "m")) == str(tmp_path / "m")


def test_the_base_model_with_another_config_is_refused(tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path / "m")
    config = json.loads((BASE / "config.json").read_text())
    for key, value in (("vocab_size", 600), ("num_hidden_layers", 3), ("num_key_value_heads", 2), ("hidden_size", 96)):
        (tmp_path / "m" / "config.json").write_text(json.dumps(config | {key: value}))
        with pytest.raises(BadInput, match=r"job\.yaml: model: .*not those of its config\.json \(llama\)") as error:
            locate(tmp_path, tmp_path / "m")
        assert str(value) in str(error.value) or key == "num_key_value_heads"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, r"\*wte\.weight is missing"),
        ({"num_hidden_layers": 1}, "model.layers is 2 layers, the configuration says 1"),
        ({"intermediate_size": 32}, r"down_proj\.weight is \[8, 16\], the configuration says \[8, 32\]"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "writes no text"),
    ],
)
def test_another_architecture_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        locate(tmp_path, model(tmp_path / "m", **change))


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def no_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "bytes and its header says"),
        (lambda f: (f / "model.safetensors").write_bytes(b"version https://git-lfs"), "no safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "no safetensors file"),
        (
            lambda f: (f / "model.safetensors").write_bytes((9).to_bytes(8, "little") + b'{"a": {}}'),
            "header is damaged",
        ),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json: not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "a JSON object is needed, not list"),
        (lambda f: (f / "config.json").unlink(), r"no Hugging Face model folder \(it has no config\.json\)"),
        (no_safetensors, "loads no pickled weights"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}'),
            r"lacks model-2\.safetensors",
        ),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "no `weight_map`"),
    ],
)
def test_damaged_folders_are_named(tmp_path: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(model(tmp_path / "m"))
    with pytest.raises(BadInput, match=said):
        locate(tmp_path, tmp_path / "m")


ODD: list[Any] = [None, True, 1, -1.5, "x", "\ud800", [], ["x"], [1], {}, {"a": []}]


@pytest.mark.parametrize("key", [*CONFIG, "text_config", "dtype", "torch_dtype", "head_dim"])
def test_a_configuration_of_odd_values_is_taken_or_refused_in_words(tmp_path: Path, key: str) -> None:
    for number, value in enumerate(ODD):
        for place, config in (("whole", {key: value}), ("text", {"text_config": CONFIG | {key: value}})):
            folder = model(tmp_path / f"{place}-{number}", **config)
            try:
                assert locate(tmp_path, folder) == str(folder)
                require_space(tmp_path, round_need(job(), 1, folder, {}, Disk(lambda *_: (0, 0))), "round 1")
            except BadInput as error:
                assert str(folder) in str(error)


@pytest.mark.parametrize("field", ["shape", "data_offsets"])
@pytest.mark.parametrize(
    "value", ["null", '"x"', "{}", "[]", "[1e999, 1e999]", "[NaN, NaN]", '[null, "a"]', "[[1], [1]]"]
)
def test_a_header_of_odd_values_is_refused(tmp_path: Path, field: str, value: str) -> None:
    fields = {"dtype": '"F32"', "shape": "[12, 8]", "data_offsets": "[0, 384]"} | {field: value}
    inner = ", ".join(f'"{name}": {said}' for name, said in fields.items())
    text = f'{{"model.embed_tokens.weight": {{{inner}}}, "model.layers.{"9" * 5000}.x": {{{inner}}}}}'.encode()
    folder = model(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(384))
    with pytest.raises(BadInput, match=r"header is damaged|not those of its config"):
        locate(tmp_path, folder)


@pytest.mark.parametrize(
    "fields",
    ['"shape": [9223372036854775807, 9223372036854775807]', '"shape": [-1, -1]', '"data_offsets": [380, 4]'],
    ids=["large", "negative", "backwards"],
)
def test_a_shape_that_its_bytes_cannot_hold_is_refused(tmp_path: Path, fields: str) -> None:
    """Of a layer whose shape the configuration does not tell: sums over sizes would believe it."""
    good = '"dtype": "F32", "shape": [12, 8], "data_offsets": [0, 384]'
    odd = f'"dtype": "F32", "shape": [12, 8], "data_offsets": [0, 384], {fields}'
    folder = model(tmp_path / "m")
    text = f'{{"model.embed_tokens.weight": {{{good}}}, "model.layers.7.x": {{{odd}}}}}'.encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(384))
    with pytest.raises(BadInput, match=r"header is damaged"):
        locate(tmp_path, folder)


@pytest.mark.parametrize("names", ['{"a": null, "b": 1, "c": ["x"], "d": {}}', '{"a": ".."}', '{"a": "\\u0000"}'])
def test_an_index_of_odd_names_is_refused(tmp_path: Path, names: str) -> None:
    folder = model(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {names}}}')
    with pytest.raises(BadInput, match=r"which its index names|`weight_map` leads to"):
        locate(tmp_path, folder)


def json_of(file: str, **said: Any) -> Callable[[Path], object]:
    def put(folder: Path) -> None:
        known = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        (folder / file).write_text(json.dumps(known | said))

    return put


def template(make: Callable[[Path], object], name: str = "default.jinja") -> Callable[[Path], object]:
    def put(folder: Path) -> None:
        (folder / TEMPLATES).mkdir()
        make(folder / TEMPLATES / name)

    return put


INDEX, TOKENIZER, TOKENS = "model.safetensors.index.json", "tokenizer_config.json", "special_tokens_map.json"
DETOURS: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights above": (json_of(INDEX, weight_map={"a": "../other/model.safetensors"}), "`weight_map` leads to"),
    "weights elsewhere": (json_of(INDEX, weight_map={"a": "/other/model.safetensors"}), "`weight_map` leads to"),
    "hidden weights": (json_of(INDEX, weight_map={"a": ".model.safetensors"}), "`weight_map` leads to"),
    "weights of another name": (json_of("config.json", transformers_weights="a/b.safetensors"), "names other files"),
    "another configuration": (json_of("config.json", configuration_files=["config.4.0.json"]), "names other files"),
    "another model": (json_of("config.json", speculators_config={"verifier": {}}), "in place of this one"),
    "an adapter": (json_of("adapter_config.json", base_model_name_or_path="/other"), "makes the folder an adapter"),
    "tokenizer above": (json_of(TOKENIZER, fast_tokenizer_files=["../other/tokenizer.4.0.json"]), "leads to"),
    "tokenizer elsewhere": (json_of(TOKENIZER, fast_tokenizer_files=["/other/tokenizer.4.0.json"]), "leads to"),
    "vocabulary elsewhere": (json_of(TOKENIZER, vocab_file="/etc/passwd"), "`vocab_file` leads to '/etc/passwd'"),
    "GGUF elsewhere": (json_of(TOKENIZER, gguf_file="/etc/passwd"), "`gguf_file` leads to"),
    "vocabulary of a class": (json_of(TOKENIZER, tokenizer_class="GPT2Tokenizer", vocab="/etc/passwd"), "`vocab` lead"),
    "merges of a class": (json_of(TOKENIZER, merges="/etc/passwd"), "`merges` leads to '/etc/passwd'"),
    "what its class is made of": (json_of(TOKENIZER, init_inputs=[{"a": ["/etc/passwd"]}]), "`a` leads to"),
    "special tokens": (json_of(TOKENS, tokenizer_file="/etc/passwd"), "map.json: `tokenizer_file` leads"),
    "another template": (template(lambda file: file.write_text("{{ messages }}")), "instead of the model's own"),
    "a template of the user's": (template(lambda file: file.symlink_to("/etc/passwd")), "instead of the model's own"),
    "a template without end": (template(os.mkfifo, "tool_use.jinja"), "no regular file"),
}
"""How a model's files lead the libraries that load it to what no hash covers, and what is said."""


@pytest.mark.parametrize("name", DETOURS)
def test_a_model_whose_files_lead_out_of_it_is_refused(tmp_path: Path, name: str) -> None:
    lead_out, said = DETOURS[name]
    shutil.copytree(BASE, tmp_path / "m")
    (tmp_path / "other").mkdir()
    shutil.copy(BASE / "model.safetensors", tmp_path / "other")
    lead_out(tmp_path / "m")
    with pytest.raises(BadInput, match=said):
        locate(tmp_path, tmp_path / "m")


@pytest.mark.parametrize("name", DETOURS)
def test_a_committed_model_whose_files_lead_out_of_it_is_not_used(tmp_path: Path, name: str) -> None:
    lead_out, said = DETOURS[name]
    folder = tmp_path / "rounds/01/checkpoint"
    shutil.copytree(BASE, folder)
    lead_out(folder)
    files = Artifacts(tmp_path)
    artifact = files.describe(folder, folder)
    own = {name: said for name, said in artifact.files.items() if "/" not in name and not name.startswith(".")}
    used = committed_model("digest", replace(artifact, files=own))
    with pytest.raises(Damaged, match=said):
        FileCheck(tmp_path, {"policy": used})


def test_what_tokenizers_are_published_with_is_taken(tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path / "m")
    json_of(TOKENIZER, fast_tokenizer_files=["tokenizer.json"], special_tokens_map_file="/etc/passwd")(tmp_path / "m")
    json_of(TOKENIZER, tokenizer_file="/nobody/has/this.json", vocab_file=None)(tmp_path / "m")
    json_of(TOKENIZER, name_or_path="/etc", pad_token="/", added_tokens_decoder={"1": {"content": "/"}})(tmp_path / "m")
    json_of(TOKENS, eos_token={"content": "/"}, additional_special_tokens=["/"])(tmp_path / "m")
    template(lambda file: file.write_text("{{ messages }}"), "tool_use.jinja")(tmp_path / "m")
    assert locate(tmp_path, tmp_path / "m") == str(tmp_path / "m")


def test_a_link_among_the_templates_of_a_strangers_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run/ledger").mkdir(parents=True)
    (tmp_path / "run/ledger/00000000.json").touch()
    shutil.copytree(BASE, tmp_path / "run/m")
    template(lambda file: file.symlink_to("/etc/passwd"), "tool_use.jinja")(tmp_path / "run/m")
    with pytest.raises(BadInput, match="is a link"):
        locate(tmp_path, tmp_path / "run/m")


def large(file: Path) -> None:
    file.touch()
    os.truncate(file, 2**40)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda file: os.symlink("/dev/zero", file), large])
def test_what_is_no_file_of_a_model_is_not_waited_for(tmp_path: Path, name: str, put: Callable[[Path], object]) -> None:
    folder = model(tmp_path / "m")
    (folder / name).unlink(missing_ok=True)
    put(folder / name)
    with pytest.raises(BadInput, match=rf"job\.yaml: model: .*{name}.*(regular file|larger than|only a part of one)"):
        locate(tmp_path, folder)


def test_a_header_longer_than_the_file_is_not_read(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(BadInput, match="no safetensors file"):
        locate(tmp_path, folder)


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    names = list(HEADER)
    for number, part in enumerate((names[:2], names[2:])):
        write_weights(folder / f"model-{number}.safetensors", {name: HEADER[name] for name in part})
    where = {name: f"model-{int(name not in names[:2])}.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert locate(tmp_path, folder) == str(folder)


def test_a_wrong_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="'no-such-folder' does not exist"):
        locate(tmp_path, "no-such-folder")
