"""Settings of a training run and their messages."""

from dataclasses import replace

import pytest

from cldm.training import Settings, changed


def test_every_kind_of_setting_can_be_changed():
    given = ["batch_size=2", "learning_rate=2e-6", "sd_locked=false", "only_mid_control=True", "dataset=./my data"]
    settings = changed(Settings(), given)
    expected = replace(
        Settings(), batch_size=2, learning_rate=2e-6, sd_locked=False, only_mid_control=True, dataset="./my data"
    )
    assert settings == expected


@pytest.mark.parametrize(("given", "cache"), [("true", True), ("False", False), ("./my cache", "./my cache")])
def test_a_cache_is_switched_on_or_put_somewhere(given, cache):
    assert changed(Settings(), [f"cache={given}"]).cache == cache


@pytest.mark.parametrize(("given", "devices"), [("2", 2), ("auto", "auto"), ("0,2", "0,2")])
def test_devices_are_a_number_or_a_text(given, devices):
    assert changed(Settings(), [f"devices={given}"]).devices == devices


def test_a_text_is_emptied():
    assert changed(Settings(base="./a.ckpt"), ["base="]).base == ""


def test_a_cache_of_shards_is_refused():
    with pytest.raises(ValueError, match="cache needs a dataset in a folder"):
        changed(Settings(), ["dataset=https://example.org/shards", "cache=true"])


def test_half_of_the_prompts_are_dropped_as_in_the_paper():
    assert Settings().prompt_dropout == 0.5


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("batchsize=2", r"name=value with a name of .*batch_size.*, got 'batchsize=2'"),
        ("batch_size", "name=value"),
        ("batch_size=two", "two"),
        ("batch_size=0", "batch_size must be at least 1, got 0"),
        ("learning_rate=-1", "learning_rate must be positive"),
        ("max_steps=0", "max_steps must be at least 1, or -1"),
        ("num_workers=-1", "num_workers must be 0 or more"),
        ("prompt_dropout=1.5", "prompt_dropout must be between 0 and 1, got 1.5"),
        ("seed=-1", "seed must be from 0 to 4294967295, got -1"),
        ("size=65", "size must have sides that are multiples of 64 up to 8192, got 65x65"),
        ("framing=stretch", "framing must be one of resize, crop, pad, got 'stretch'"),
        ("worker_timeout=-1", "worker_timeout must be 0 or more seconds, got -1"),
        ("shard_lanes=0", "lanes must be at least 1, got 0"),
        ("validation=a/shard-{0..9}.tar", "validation must be a folder with prompt.json, not shards, got a/shard"),
        ("validation_freq=-1", "validation_freq must be 0 or more, got -1"),
        ("validation_pairs=0", "validation_pairs must be at least 1, got 0"),
        ("fidelity=ssim", "fidelity must be one of auto, shape, edges, hint_edges, got 'ssim'"),
        ("ema_decay=1", "ema_decay must be 0 or more and below 1, got 1"),
        ("min_snr_gamma=-5", "min_snr_gamma must be 0 or more, got -5"),
        ("noise_offset=nan", "noise_offset must be 0 or more, got nan"),
        ("parameterization=x0", "parameterization must be one of config, eps, v, got 'x0'"),
        ("nan_patience=0", "nan_patience must be at least 1, got 0"),
        ("precision=bf16-true", "precision must be one of 32-true, bf16-mixed, 16-mixed, got 'bf16-true'.*locked_prec"),
        ("save_precision=half", "save_precision must be one of float32, float16, bfloat16, got 'half'"),
        ("keep_last=-1", "keep_last must be 0 or more, got -1"),
        ("keep_states=0", "keep_states must be at least 1, got 0"),
        ("num_nodes=0", "num_nodes must be at least 1, got 0"),
        ("devices=0", "devices must be a number from 1 on, a list such as 0,2, or auto, got 0"),
    ],
)
def test_a_wrong_assignment_is_one_message(assignment, message):
    with pytest.raises(ValueError, match=message):
        changed(Settings(), [assignment])
