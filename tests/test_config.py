"""Config layers and their precedence, error messages for users, and the hash that identifies a run."""

import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

import console
from distracted.config import load_config, load_data_config, load_runtime_config
from distracted.errors import ConfigError
from distracted.paths import CONFIGS
from distracted.schema import BlockRange, RunConfig, TrainPhase, check_name


@cache  # configs are frozen
def load(*overrides: str, model: str = "resnet50", data: str = "sample") -> RunConfig:
    return load_config(model=model, data=data, overrides=overrides)


def train_phase(config: RunConfig, name: str) -> TrainPhase:
    phase = config.phases[name]
    assert isinstance(phase, TrainPhase)
    return phase


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A copy of configs/ that a test may change."""
    return shutil.copytree(CONFIGS, tmp_path / "configs")


def add_layer(configs: Path, file: str, **content: object) -> None:
    path = configs / file
    merged = yaml.safe_load(path.read_text()) or {}
    path.write_text(yaml.safe_dump(merged | content, sort_keys=False))


class TestLayers:
    def test_the_later_layer_wins(self, configs: Path) -> None:
        """Each layer in turn sets a value over all the layers below it."""

        def load_with(*overrides: str) -> RunConfig:
            return load_config(model="resnet50", data="sample", overrides=overrides, configs=configs)

        assert load_with().training.ema == 0.0
        files = ["recipes/full.yaml", "models/resnet50.yaml", "data/sample.yaml"]
        for number, file in enumerate(files, start=1):
            add_layer(configs, file, training={"ema": number / 10})
            assert load_with().training.ema == number / 10
        assert load_with("training.ema=0.5").training.ema == 0.5
        assert load_with("training.ema=0.5", "training.ema=0.6").training.ema == 0.6
        assert load_with().training.seed == 0  # a value that no layer sets stays

    def test_mappings_merge_key_by_key(self) -> None:
        plain, changed = load(), load("training.seed=7")
        assert changed.training == plain.training.model_copy(update={"seed": 7})
        assert changed.model == plain.model

    def test_lists_are_replaced(self) -> None:
        config = load("augment.policies.light=[{GaussNoise: {p: 0.5}}]")
        assert config.augment.policies["light"] == ({"GaussNoise": {"p": 0.5}},)

    def test_the_recipe_is_resolved_first(self, configs: Path) -> None:
        """An override beats the model's file, and the phases are those of the recipe that won."""
        assert list(load("recipe=feature_extraction").phases) == ["scratch", "features", "head"]
        add_layer(configs, "models/resnet50.yaml", recipe="feature_extraction")
        config = load_config(model="resnet50", data="sample", configs=configs)
        assert (config.recipe, list(config.phases)) == (
            "feature_extraction",
            ["scratch", "features", "head"],
        )
        config = load_config(model="resnet50", data="sample", overrides=["recipe=fine_tune"], configs=configs)
        assert list(config.phases) == ["scratch", "features", "finetune"]

    def test_a_model_tunes_only_the_phases_that_the_recipe_has(self) -> None:
        assert train_phase(load(), "finetune").lr == 3e-4  # resnet50.yaml over full.yaml
        assert train_phase(load(model="efficientnet_lite0"), "finetune").lr == 5e-4
        assert "finetune" not in load("recipe=feature_extraction").phases

    def test_null_removes_a_phase(self) -> None:
        assert list(load("phases.features=null").phases) == ["scratch", "finetune"]

    def test_a_new_phase_comes_last(self) -> None:
        config = load("phases.polish={kind: train, epochs: 1, unfreeze: {blocks: 2}, lr: 1.0e-5}")
        assert list(config.phases) == ["scratch", "features", "finetune", "polish"]
        assert train_phase(config, "polish").epochs == 1

    def test_a_later_freeze_or_unfreeze_replaces_the_earlier_one_entirely(self) -> None:
        first = load("recipe=fine_tune")
        assert train_phase(first, "finetune").unfreeze == BlockRange(blocks=3)
        for text, expected in (("{from: layer3}", BlockRange(from_="layer3")), ("all", "all")):
            changed = train_phase(load("recipe=fine_tune", f"phases.finetune.unfreeze={text}"), "finetune")
            assert (changed.unfreeze, changed.freeze) == (expected, None)
        changed = train_phase(load("recipe=fine_tune", "phases.finetune.freeze={layers: 4}"), "finetune")
        assert (changed.unfreeze, changed.freeze) == (None, BlockRange(layers=4))

    def test_a_recipe_extends_another(self) -> None:
        full, gradual = load(), load("recipe=gradual")
        assert train_phase(gradual, "finetune").unfreeze == "gradual"
        assert gradual.phases["features"] == full.phases["features"]

    def test_a_recipe_that_extends_itself_is_refused(self, configs: Path) -> None:
        add_layer(configs, "recipes/full.yaml", extends="gradual")
        with pytest.raises(ConfigError, match=r"full\.yaml: extends itself \(full > gradual > full\)"):
            load_config(model="resnet50", data="sample", configs=configs)

    @pytest.mark.parametrize("phases", [{}, None])
    def test_a_recipe_without_phases_is_refused(self, configs: Path, phases: object) -> None:
        add_layer(configs, "recipes/full.yaml", phases=phases)
        with pytest.raises(ConfigError, match=r"full\.yaml: expected at least one phase under `phases`"):
            load_config(model="resnet50", data="sample", configs=configs)

    def test_no_phase_left_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="all of them are null"):
            load("phases={features: null, finetune: null, scratch: null}")

    def test_early_stopping_on_the_scored_fold_needs_leaky(self) -> None:
        config = load_config(
            model="resnet50", data="sample", overrides=["phases.finetune.patience=3"], leaky=True
        )
        assert config.training.leaky and config.hash != load("training.holdout=0.1").hash

    @pytest.mark.parametrize("text", ["3e-4", "0.0003", "3.0e-4", ".0003"])
    def test_numbers_in_any_notation(self, text: str) -> None:
        assert train_phase(load(f"phases.scratch.lr={text}"), "scratch").lr == 3e-4

    def test_quotes_keep_values_with_spaces_together(self) -> None:
        settings = console.overrides("training.seed=1 model.weights='my weights.pth' \"augment.policy=none\"")
        assert settings == ["training.seed=1", "model.weights=my weights.pth", "augment.policy=none"]
        assert load(*settings).model.weights == "my weights.pth"

    def test_a_bracketed_value_with_spaces(self) -> None:
        (setting,) = console.overrides("'augment.policies.mine=[{ToGray: {p: 0.1}}, {GaussNoise: null}]'")
        assert load(setting).augment.policies["mine"] == ({"ToGray": {"p": 0.1}}, {"GaussNoise": None})

    def test_the_result_is_frozen(self) -> None:
        config = load()
        with pytest.raises(ValidationError, match="frozen"):
            config.training.seed = 1
        with pytest.raises(ValidationError, match="frozen"):
            config.recipe = "other"


class TestData:
    def test_a_name_with_a_slash_is_a_folder(self, tmp_path: Path) -> None:
        config = load_data_config(str(tmp_path / "my_data"))
        assert (config.name, config.folder) == ("my_data", tmp_path / "my_data")

    def test_a_named_folder_lies_below_the_root(self, tmp_path: Path) -> None:
        assert load_data_config("sample", root=tmp_path).folder == tmp_path / "input/sample"
        assert load_data_config("sample_random_split", root=tmp_path).folder == tmp_path / "input/sample"

    def test_columns_can_be_renamed(self, configs: Path) -> None:
        columns = {"img": "file", "label": "kind", "group": None}
        (configs / "data/mine.yaml").write_text(yaml.safe_dump({"data": {"columns": columns}}))
        config = load_data_config("mine", configs=configs)
        assert config.columns.model_dump() == columns
        assert config.train_list == "driver_imgs_list.csv"

    @pytest.mark.parametrize(
        "box", [[0, 0, 1], [0, 0, 1, 1.1], [0.5, 0, 0.5, 1], [0, 0.6, 1, 0.5], [-0.1, 0, 1, 1], "left", None]
    )
    def test_a_region_lies_in_the_picture(self, configs: Path, box: object) -> None:
        (configs / "data/mine.yaml").write_text(yaml.safe_dump({"data": {"regions": {"feet": box}}}))
        with pytest.raises(ConfigError, match=r"data\.regions\.feet: expected \[x0, y0, x1, y1\] as shares"):
            load_data_config("mine", configs=configs)

    def test_another_camera_has_its_own_regions(self, configs: Path) -> None:
        boxes = {"head": [0, 0, 1, 0.5], "feet": [0.5, 0.5, 1, 1]}
        (configs / "data/mine.yaml").write_text(yaml.safe_dump({"data": {"regions": boxes}}))
        regions = load_data_config("mine", configs=configs).regions
        assert (regions["head"], regions["feet"]) == ((0, 0, 1, 0.5), (0.5, 0.5, 1, 1))
        overrides = ["model.regions=[feet,head]"]
        config = load_config(model="resnet50", data="mine", overrides=overrides, configs=configs)
        assert config.model.regions == ("feet", "head")


class TestErrors:
    @pytest.mark.parametrize(
        ("setting", "parts"),
        [
            ("training.sede=1", ["unknown key training.sede", "training.seed"]),
            ("trainin.seed=1", ["unknown key trainin", "training"]),
            ("model.head.dropuot=0.1", ["unknown key model.head.dropuot", "model.head.dropout"]),
            ("phases.scratch.epoch=3", ["unknown key phases.scratch.epoch", "phases.scratch.epochs"]),
            (
                "phases.features.max_itr=3",
                ["unknown key phases.features.max_itr", "phases.features.max_iter"],
            ),
            ("phases.fine_tune.epochs=3", ["unknown phase phases.fine_tune", "scratch, features, finetune"]),
            ("xyz=1", ["unknown key xyz", "docs/config.md"]),
            ("training.batch_size=many", ["training.batch_size: ", "integer", "'many'"]),
            ("training.seed=1.5", ["training.seed: ", "integer", "1.5"]),
            ("training.num_folds=0", ["training.num_folds: ", "greater than 0", "got 0"]),
            ("model.head.dropout=1", ["model.head.dropout: ", "less than 1", "got 1"]),
            ("model.image_size=big", ["model.image_size: ", "'auto'", "'big'"]),
            ("model.image_size=0", ["model.image_size: ", "got 0"]),
            ("model.backbone=", ["model.backbone: ", "string", "None"]),
            ("phases.scratch.epochs=two", ["phases.scratch.epochs: ", "integer", "'two'"]),
            ("phases.scratch.optimizer=lion", ["phases.scratch.optimizer: ", "'adamw', 'adam'", "'lion'"]),
            (
                "phases.scratch.unfreeze=half",
                ["phases.scratch.unfreeze: ", "'all' or 'gradual'", "'half'"],
            ),
            (
                "phases.finetune.unfreeze={blocks: 2, layers: 3}",
                ["phases.finetune.unfreeze: expected one of {blocks: 2}, {layers: 20} and {from: "],
            ),
            (
                "phases.finetune.unfreeze={block: 2}",
                ["unknown key phases.finetune.unfreeze.block", "unfreeze.blocks"],
            ),
            ("phases.finetune.freeze={layers: 0}", ["phases.finetune.freeze.layers: ", "got 0"]),
            (
                "phases.finetune.freeze={from: layer3}",
                ["phases.finetune: freeze takes {blocks: 2} or {layers: 10}"],
            ),
            ("phases.finetune.patience=3", ["phases.finetune: patience", "training.holdout=0.1"]),
            ("phases.finetune.keep=best", ["phases.finetune: patience", "training.holdout=0.1"]),
            ("phases.finetune.schedule=plateau", ["phases.finetune: patience", "training.holdout=0.1"]),
            ("mixing.mixup.prob=1.5", ["mixing.mixup.prob: ", "less than or equal to 1", "got 1.5"]),
            ("mixing.cutmix.prob=-0.1", ["mixing.cutmix.prob: ", "greater than or equal to 0"]),
            ("mixing.mixup.alpha=0", ["mixing.mixup.alpha: ", "greater than 0", "got 0"]),
            ("mixing.stitch.alpha=1", ["unknown key mixing.stitch.alpha", "mixing.stitch"]),
            ("mixing.mixup=0.5", ["mixing.mixup: ", "got 0.5"]),
            (
                "mixing={stitch: {prob: 0.5}, mixup: {prob: 0.4}, cutmix: {prob: 0.3}}",
                ["mixing: a batch is mixed in one way at most", "add up to 1.2; expected at most 1"],
            ),
            ("training.label_smoothing=1", ["training.label_smoothing: ", "less than 1", "got 1"]),
            ("training.label_smoothing=-0.1", ["training.label_smoothing: ", "greater than or equal to 0"]),
            ("training.sampling=drivers", ["training.sampling: ", "'subjects' or 'classes'", "'drivers'"]),
            ("training.leaky=true", ["training.leaky: ", "LEAKY=1"]),
            ("phases.features.kind=foo", ["phases.features: ", "'features', 'head', 'train'", "'foo'"]),
            ("phases.polish.kind=train", ["phases.polish.epochs: ", "required"]),
            ("training=3", ["training: ", "got 3"]),
            ("phases=3", ["phases: ", "got 3"]),
            ("data=3", ["SET: data cannot be set for one command", "configs/data/<name>.yaml"]),
            ("data.columns.group=null", ["SET: data cannot be set", "DATA=<name>"]),
            ("augment.policy=hevy", ["augment.policy: ", "'hevy'", "none, light, heavy"]),
            ("phases.scratch.augment=x", ["phases.scratch.augment: ", "'x'", "none, light, heavy"]),
            ("model.regions=[feet]", ["model.regions: unknown region 'feet'", "holds: head, hands"]),
            ("model.regions=[head,head]", ["model.regions: a region is named twice"]),
            ("model.regions=head", ["model.regions: ", "'head'"]),
            ("training.tuned_share=0", ["training.tuned_share: ", "greater than 0", "got 0"]),
            ("phases.finetune.soup=0", ["phases.finetune.soup: ", "greater than 0", "got 0"]),
            ("phases.finetune.soup=5", ["phases.finetune: soup averages the last 5 epochs of 4"]),
            (
                "phases.finetune={soup: 2, keep: best}",
                ["phases.finetune: keep=best is one epoch and soup averages several"],
            ),
            ("recipe=fine", ["unknown recipe 'fine'", "features, features_dense, fine_tune"]),
            ("recipe=../train", ["unknown recipe '../train'", "features, features_dense, fine_tune"]),
            ("recipe=${nope}", ["recipe: ", "nope"]),
            ("training.seed=${nope}", ["nope"]),
            ("training.seed=${", ["SET='training.seed=${'"]),
            ("training.seed=[1", ["SET='training.seed=[1'", "expected ',' or ']'"]),
            ("training.seed", ["SET: expected key=value", "'training.seed'"]),
            ("=3", ["SET: expected key=value", "'=3'"]),
        ],
    )
    def test_a_wrong_setting(self, setting: str, parts: list[str]) -> None:
        """The message names the key as it was typed and what is expected, in one line."""
        with pytest.raises(ConfigError) as info:
            load(setting)
        message = str(info.value)
        assert all(part in message for part in parts), message
        assert "\n" not in message

    def test_an_invalid_phase_and_an_unknown_phase_are_both_reported(self) -> None:
        with pytest.raises(
            ConfigError, match=r"phases.finetune: .*unknown phase phases.foo; there are scratch, features "
        ):
            load("phases.finetune=3", "phases.foo.epochs=1")

    def test_mixing_needs_batches_of_two_and_stitch_no_regions(self) -> None:
        with pytest.raises(ConfigError, match=r"mixing: .*training\.batch_size is 1; expected 2 or more"):
            load("mixing.mixup.prob=0.5", "training.batch_size=1")
        with pytest.raises(ConfigError, match=r"mixing.stitch: .*model\.regions=\[\], got \[head\]"):
            load("mixing.stitch.prob=0.5", "model.regions=[head]")
        assert load("training.batch_size=1").training.batch_size == 1

    def test_probabilities_may_add_up_to_one(self) -> None:
        probs = (0.7, 0.2, 0.1)
        settings = [
            f"mixing.{way}.prob={p}" for way, p in zip(("stitch", "mixup", "cutmix"), probs, strict=True)
        ]
        assert load(*settings).mixing.probs == probs

    def test_all_wrong_settings_are_reported_together(self) -> None:
        with pytest.raises(ConfigError, match=r"(?s)training\.seed.*training\.batch_size"):
            load("training.seed=x", "training.batch_size=y")

    def test_a_quote_that_is_not_closed(self) -> None:
        with pytest.raises(ConfigError, match=r"SET=.*seed='1.*[Nn]o closing quotation"):
            console.overrides("training.seed='1")

    @pytest.mark.parametrize("model", ["resnet5", "", "../train", "models/resnet50", ".hidden"])
    def test_an_unknown_model(self, model: str) -> None:
        with pytest.raises(ConfigError, match=r"unknown model .*inception_v3, .*resnet50, .*vgg16.*backbone"):
            load(model=model)

    @pytest.mark.parametrize("data", ["stat_farm", "", "..", "~"])
    def test_unknown_data(self, data: str) -> None:
        with pytest.raises(ConfigError, match=r"unknown data .*sample, sample_random_split, state_farm"):
            load(data=data)
        with pytest.raises(ConfigError, match=r"unknown data .*sample, sample_random_split, state_farm"):
            load_data_config(data)

    @pytest.mark.parametrize(
        ("folder", "name"),
        [
            ("/kaggle/input/state farm (2)/", "state_farm_2"),
            ("/tmp/my  data", "my_data"),
            ("/tmp/.hidden", "hidden"),
            ("/tmp/-x", "x"),
            ("/tmp/données", "donnees"),
            ("/tmp/數據", "data_bd8ac7f3"),
            ("/tmp/Ok-1.5+x", "Ok-1.5+x"),
        ],
    )
    def test_a_folder_gets_a_safe_name(self, folder: str, name: str) -> None:
        assert load_data_config(folder).name == name
        assert load_data_config(folder).folder == Path(folder)

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", ".x", "-x", "a b", "a\n", "ä"])
    def test_a_name_that_cannot_name_a_folder_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match=r"NAME .*expected letters"):
            check_name(name, "NAME")

    @pytest.mark.parametrize("name", ["vgg16", "ResNet-50_v1.5+ema", "0"])
    def test_a_valid_name_is_accepted(self, name: str) -> None:
        assert check_name(name, "NAME") == name

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"a: [1", "not valid YAML"), (b"- a\n- b\n", "expected a mapping"), (b"\x80", "not valid YAML")],
    )
    def test_a_broken_file(self, configs: Path, content: bytes, message: str) -> None:
        (configs / "models/resnet50.yaml").write_bytes(content)
        with pytest.raises(ConfigError, match=rf"models/resnet50\.yaml: {message}"):
            load_config(model="resnet50", data="sample", configs=configs)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "recipe: none is named"),
            ("recipe: full\n", "model.weights: field required"),
            ("recipe: full\nphases: 3\n", "cannot be merged|config "),
        ],
    )
    def test_incomplete_defaults_are_refused(self, configs: Path, content: str, message: str) -> None:
        (configs / "train.yaml").write_text(content)
        with pytest.raises(ConfigError, match=message):
            load_config(model="resnet50", data="sample", configs=configs)

    @pytest.mark.parametrize("setting", ["phases.finetune=[]", "phases=[1]", "augment.policies.heavy={a: 1}"])
    def test_a_list_in_place_of_a_mapping_is_refused(self, setting: str) -> None:
        key = setting.partition("=")[0]
        with pytest.raises(ConfigError, match=f"^{re.escape(key)}: a list here, a mapping there"):
            load_config(model="resnet50", data="sample", overrides=[setting])


class TestHash:
    @pytest.mark.parametrize(
        "setting",
        [
            "runtime.device=cpu",
            "runtime.num_workers=3",
            "runtime.prediction_batch_size=64",
            "runtime.tracking=none",
            "runtime.project=other",
            "runtime.validate_every_epoch=false",
            "runtime.checkpoint_steps=100",
            "runtime.num_gpus=0.5",
        ],
    )
    def test_runtime_settings_do_not_enter_the_hash(self, setting: str) -> None:
        assert load(setting).hash == load().hash

    @pytest.mark.parametrize(
        "setting",
        [
            "training.seed=1",
            "training.precision=bf16",
            "training.sampling=subjects",
            "mixing.stitch.prob=0.5",
            "model.image_size=128",
            "model.head.dropout=0.5",
            "augment.policies.heavy=[]",
            "phases.finetune.lr=0.1",
            "phases.features=null",
            "inference.batch_size=5",
            "recipe=feature_extraction",
        ],
    )
    def test_settings_that_change_predictions_enter_the_hash(self, setting: str) -> None:
        assert load(setting).hash != load().hash

    def test_the_columns_enter_the_hash_and_the_kaggle_name_does_not(self) -> None:
        config = load()
        grouped = config.data.columns.model_copy(update={"group": None})
        for update, counts in (({"columns": grouped}, True), ({"kaggle": "other"}, False)):
            other = config.model_copy(update={"data": config.data.model_copy(update=update)})
            assert (other.hash != config.hash) is counts

    def test_the_order_of_phases_enters_the_hash(self) -> None:
        config = load()
        reordered = config.model_copy(update={"phases": dict(reversed(config.phases.items()))})
        assert reordered.phases == config.phases  # dicts are equal in any order
        assert reordered.hash != config.hash

    def test_the_order_of_settings_does_not_enter_the_hash(self) -> None:
        assert (
            load("training.seed=1", "training.ema=0.9").hash
            == load("training.ema=0.9", "training.seed=1").hash
        )

    def test_the_folder_of_the_data_does_not_enter_the_hash(self, tmp_path: Path) -> None:
        here, there = load(data=str(tmp_path / "a/data")), load(data=str(tmp_path / "b/data"))
        assert here.data.folder != there.data.folder
        assert here.hash == there.hash
        assert load(data=str(tmp_path / "a/data2")).hash != here.hash

    def test_the_folder_of_the_workspace_does_not_enter_the_hash(self, tmp_path: Path) -> None:
        elsewhere = load_config(model="resnet50", data="sample", root=tmp_path)
        assert elsewhere.data.folder == tmp_path / "input/sample"
        assert elsewhere.hash == load().hash

    def test_the_resolved_config_holds_no_runtime_and_no_folder(self, tmp_path: Path) -> None:
        resolved = load(data=str(tmp_path / "data")).resolved()
        assert "runtime" not in resolved
        assert "folder" not in resolved["data"]
        assert str(tmp_path) not in str(resolved)

    def test_the_resolved_config_reads_back_to_the_same_hash(self) -> None:
        config = load()
        back = RunConfig.model_validate(
            config.resolved()
            | {"runtime": config.runtime.model_dump()}
            | {"data": config.resolved()["data"] | {"folder": config.data.folder}}
        )
        assert back == config
        assert back.hash == config.hash


class TestRuntime:
    def test_the_runtime_section_alone_equals_that_of_a_run(self) -> None:
        runtime = load_config(model="resnet50", data="sample", overrides=["runtime.device=cpu"]).runtime
        assert load_runtime_config(["runtime.device=cpu"]) == runtime
        assert load_runtime_config().device == "auto"

    @pytest.mark.parametrize("override", ["model.image_size=64", "recipe=full", "inference.batch_size=1"])
    def test_settings_of_other_sections_are_refused(self, override: str) -> None:
        with pytest.raises(ConfigError, match=rf"SET: {override.split('.')[0].split('=')[0]} is as the run"):
            load_runtime_config(["runtime.device=cpu", override])
