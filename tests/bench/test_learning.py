"""The bench of learning: its figures, and that both sides train the same networks."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from bench.learning import Run, finished, place, report
from bench.learning_sides import BASE, CONFIG, Course, Networks, take
from cldm.model import create_model
from cldm.training.starting import Start
from ldm.models.diffusion.draws import Draws

PLACE = {"code": "1", "torch": "2", "processor": "p", "threads": 2}


def a_run(iou: list[float], side: str = "ours", course: Course | None = None) -> Run:
    return Run(side, 0, asdict(course or Course()), PLACE, [50, 100, 150], [10.0, 20.0, 30.0], iou)


def test_where_a_goal_is_reached_is_read_between_two_judgements():
    assert a_run([0.2, 0.6, 1.0]).reached(0.8) == pytest.approx((125, 25))
    assert a_run([0.9, 0.6, 1.0]).reached(0.8) == (50, 10)
    assert a_run([0.2, 0.3, 0.4]).reached(0.8) is None


def test_only_runs_of_the_same_course_code_and_machine_count(tmp_path):
    file = tmp_path / "results.jsonl"
    assert finished(file, Course(), PLACE) == []
    runs = [
        a_run([0.1, 0.2, 0.3]),
        a_run([0.1, 0.2, 0.3], "diffusers"),
        a_run([0.1, 0.2, 0.3], course=Course(steps=20)),
        replace(a_run([0.1, 0.2, 0.3]), place={**PLACE, "code": "2"}),
    ]
    file.write_text("".join(json.dumps(asdict(each)) + "\n" for each in runs))
    assert finished(file, Course(), PLACE) == runs[:2]


def test_a_run_tells_its_code_and_machine():
    here = place()
    assert here == place()
    assert set(here) == {"code", "torch", "processor", "threads"}
    assert here["torch"] == torch.__version__
    assert here["threads"] == torch.get_num_threads()


@torch.no_grad()
@pytest.mark.slow
def test_both_sides_have_the_same_loss_and_give_the_judge_the_same_weights():
    model = Start(str(CONFIG), (BASE,), attach=True).model()
    for convolution in (*model.control_model.zero_convs, model.control_model.middle_block_out):
        torch.nn.init.normal_(convolution[0].weight, std=0.05)
    networks = Networks(model)
    weights = take(networks.controlnet, create_model(CONFIG).control_model)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.control_model.state_dict().items())

    draws, prompts = Draws(0, 0, [0, 1]), ["red circle with navy background", ""]
    image, hint = torch.rand(2, 128, 128, 3) * 2 - 1, torch.rand(2, 128, 128, 3).round()
    z, cond = model.get_input({"jpg": image, "txt": prompts, "hint": hint}, draws=draws)
    own = model.p_losses(z, cond, draws.timesteps(model.num_timesteps), draws.noise(z))
    torch.testing.assert_close(networks.loss(image, hint, prompts, draws), own, rtol=1e-4, atol=0)
    other = networks.loss(image, hint, prompts, Draws(1, 0, [0, 1]))
    assert abs(other - own) > 1e-3 * own


def test_the_report_compares_seconds_to_the_goal_and_iou_within_the_spread_of_seeds(capsys):
    ours = [a_run([0.2, 0.9, 0.9]), a_run([0.2, 0.95, 0.95])]
    slow = [replace(each, side="diffusers", seconds=[17.0, 34.0, 51.0]) for each in ours]
    assert report([*ours, *slow])
    told = capsys.readouterr().out
    assert "a step of ours takes 1.70 times less" in told
    assert "sooner at IoU 0.85, in seconds: 1.70x" in told
    better = [replace(each, iou=[0.5, 0.99, 0.99]) for each in slow]
    assert not report([*ours, *better])
    assert (
        "IoU, after the last step: ours 0.925, diffusers 0.990, spread of seeds 0.035: LESS" in capsys.readouterr().out
    )
    assert not report([*ours, *(replace(each, iou=[0.2, 0.3, 0.4]) for each in slow)])
    assert "not all runs reached IoU 0.85" in capsys.readouterr().out
