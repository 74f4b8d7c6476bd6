"""Modules without weights: what counts as use, and what they are afterwards."""

import copy
import pickle

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from ldm.deferred import HandedOver, deferred, is_deferred, known_buffers, shapes


class Part(nn.Module):
    """Weights with an initialisation of their own, a zero layer, and buffers of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.zero = nn.Linear(2, 2)
        nn.init.zeros_(self.zero.weight)
        self.register_buffer("configured", torch.arange(4.0, device="cpu"))
        self.scale = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.zero(self.linear(x)) + self.scale * self.configured.sum()


class Hidden(Part):
    """Has a buffer that no state dict shows."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("hidden", torch.ones(2), persistent=False)


def weights() -> dict[str, torch.Tensor]:
    return {name: tensor + 1 for name, tensor in Part().state_dict().items()}


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.state_dict())


def test_the_first_use_gives_what_building_gives():
    torch.manual_seed(3)
    built = Part()
    module = deferred(Part)
    torch.manual_seed(3)
    output = module(torch.ones(1, 3))
    assert type(module) is Part
    assert not is_deferred(module)
    assert torch.equal(output, built(torch.ones(1, 3)))
    assert all(torch.equal(a, b) for a, b in zip(values(module).values(), values(built).values(), strict=True))


@pytest.mark.parametrize(
    "use",
    [
        lambda m: m.state_dict(),
        lambda m: list(m.parameters()),
        lambda m: m.linear,
        lambda m: m.configured,
        lambda m: m.half(),
        lambda m: m.to(torch.float64),
        lambda m: list(m.modules()),
        lambda m: m.apply(lambda part: None),
        copy.deepcopy,
        pickle.dumps,
        lambda m: setattr(m, "linear", nn.Identity()),
        lambda m: m.register_buffer("more", torch.ones(1)),
        lambda m: m.load_state_dict({}, strict=False),
    ],
)
def test_every_look_inside_initialises(use):
    module = deferred(Part)
    use(module)
    assert type(module) is Part
    assert not any(t.is_meta for t in [*module.parameters(), *module.buffers()])


def test_what_needs_no_weights_does_not_initialise_and_is_kept():
    calls = []

    def build():
        calls.append(1)
        return Part()

    module = deferred(build)
    assert module.cpu() is module
    assert module.to("cpu") is module
    assert module.to(device=torch.device("cpu")) is module
    assert module.eval() is module
    assert module.requires_grad_(False) is module
    module.scale = 2.0
    assert "Linear" in repr(module)
    assert isinstance(module, Part)
    assert not hasattr(module, "nothing")
    assert shapes(module)["linear.weight"] == (2, 3)
    assert list(known_buffers(module)) == ["configured"]
    assert is_deferred(module)
    assert len(calls) == 1
    module.load_state_dict(weights())
    assert len(calls) == 1, "loading does not build a second time"
    assert not module.training
    assert module.scale == 2.0
    assert not any(p.requires_grad for p in module.parameters())


def test_settings_made_before_outlive_initialisation():
    module = deferred(Part).eval().requires_grad_(False)
    module.scale = 3.0
    assert module(torch.zeros(1, 3)).shape == (1, 2)
    assert not module.training
    assert module.scale == 3.0
    assert not any(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("given", [weights(), HandedOver(weights(), "a file")])
def test_loading_copies_what_others_may_hold(given):
    first, second = deferred(Part), deferred(Part)
    first.load_state_dict(given)
    second.load_state_dict(given)
    with torch.no_grad():
        first.linear.weight.zero_()
    assert torch.equal(second.linear.weight, given["linear.weight"])
    assert given["linear.weight"].any()


def test_assigned_weights_are_taken_without_a_copy():
    given, module = weights(), deferred(Part)
    module.load_state_dict(given, assign=True)
    assert module.linear.weight.data_ptr() == given["linear.weight"].data_ptr()


def test_handed_over_weights_are_saved_as_an_ordinary_dictionary(tmp_path):
    torch.save(HandedOver(weights(), "a file"), tmp_path / "w.pth")
    content = torch.load(tmp_path / "w.pth", weights_only=True)
    assert list(content) == list(weights())
    assert content["linear.bias"].shape == (2,)


def test_precision_is_the_modules_unless_assigned():
    half = {name: tensor.half() for name, tensor in weights().items()}
    copied, assigned = deferred(Part), deferred(Part)
    copied.load_state_dict(half)
    assigned.load_state_dict(half, assign=True)
    assert {p.dtype for p in copied.parameters()} == {torch.float32}
    assert {p.dtype for p in assigned.parameters()} == {torch.float16}


def test_hidden_buffers_have_their_values_after_loading():
    module, given = deferred(Hidden), weights()
    module.load_state_dict(given)
    assert module.hidden.tolist() == [1.0, 1.0]
    assert torch.equal(module.linear.weight, given["linear.weight"])


class Lightning(pl.LightningModule):
    """Remembers a device, and has no zero layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)


def test_lightning_modules_do_not_remember_the_meta_device():
    cpu = torch.device("cpu")
    initialised, loaded = deferred(Lightning), deferred(Lightning)
    assert initialised.device == cpu
    assert is_deferred(initialised)
    loaded.load_state_dict(initialised.state_dict())
    assert initialised.device == loaded.device == cpu
    assert type(initialised) is type(loaded) is Lightning


def test_a_failed_load_leaves_it_without_weights_but_usable():
    module = deferred(Part)
    given = weights()
    del given["zero.bias"]
    with pytest.raises(RuntimeError, match=r"zero\.bias"):
        module.load_state_dict(given)
    assert is_deferred(module)
    assert not module.zero.weight.any(), "initialised, not half loaded"
    assert not torch.equal(module.linear.weight, given["linear.weight"])


def test_a_loaded_module_can_be_copied_and_trained():
    module = deferred(Part)
    module.load_state_dict(weights())
    twin = copy.deepcopy(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(module.linear.weight, twin.linear.weight)
    assert type(pickle.loads(pickle.dumps(twin))) is Part
