"""Plans: what is known is exact, what is estimated moves as it must, and mistakes are one line before anything runs."""

import importlib.metadata
import re
import sys

import pytest

from configs import digits
from tools import ahead, plan
from tools.estimate import estimate

TINY = ("--config=configs/digits.py:tiny", "--config.model.multipliers=1,", "--config.model.attention=()")


def config(**sections):
    made = digits.get_config("tiny")
    made.model.update(channels=32, multipliers=(1,), blocks=1, attention=(), groups=4, num_heads=2)
    for section, values in sections.items():
        made[section].update(values)
    return made


def test_what_is_known_is_exact():
    found = estimate(config(), 4)
    assert found.parameters == 163_585 and found.averages == 1
    assert 0 < found.state - 4 * 4 * found.parameters < 64  # parameters, average, two moments, and counters
    assert found.gradients == 4 * found.parameters
    assert found.operations == estimate(config(model={"remat": "blocks"}), 4).operations


def test_a_data_parallel_step_sends_every_gradient_twice_around_a_ring():
    assert estimate(config(), 4).sent == pytest.approx(2 * 3 / 4 * 4 * 163_585, rel=1e-3)


def test_activations_follow_the_batch_the_chips_and_what_is_recomputed():
    base = estimate(config(train={"batch_size": 16}), 1)
    double = estimate(config(train={"batch_size": 32}), 1)
    assert double.activations == pytest.approx(2 * base.activations, rel=0.02)
    assert estimate(config(train={"batch_size": 32}), 2).activations == base.activations
    assert estimate(config(train={"batch_size": 16}, model={"remat": "blocks"}), 1).activations < base.activations
    halves = estimate(config(train={"batch_size": 32}, optim={"accumulate": 2}), 1)
    assert base.activations <= halves.activations < 0.7 * double.activations


def test_fsdp_divides_the_state_and_its_traffic_is_counted():
    whole, split = (estimate(config(mesh={"data": 1, "fsdp": n}), n) for n in (1, 8))
    assert split.state < 0.25 * whole.state and split.gradients < 0.25 * whole.gradients
    assert split.sent > 2 * estimate(config(), 8).sent * 0.7  # two gathers and a scatter against one sum


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs the tool with arguments -> what it says, on stdout or, failing, on stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["plan", *TINY, *arguments])  # where config flags look
        plan.main(sys.argv)
        return capsys.readouterr().out

    return run


def test_a_plan_says_what_it_needs_and_what_is_estimated(command):
    said = command("--topology=v5e:2x2")
    for part in ("v5e:2x2: 4 chips on 1 host", "mesh: data 4, fsdp 1, tensor 1", "parameters", "model FLOPs", "fits",
                 "~activations", "at the peaks", "chip-hours", "nothing compiled"):  # fmt: skip
        assert part in said
    assert "Traceback" not in said


def test_what_does_not_fit_comes_with_what_would_make_it_fit(command, monkeypatch):
    small = plan.CHIPS["v5e"]._replace(memory=3 * 2**20)
    monkeypatch.setitem(plan.CHIPS, "v5e", small)
    said = command("--topology=v5e:2x2")
    assert "does NOT fit" in said and "--config.mesh.fsdp=4" in said


MISTAKES = {
    "there is no such slice of v5e": ("--topology=v5e:3x3",),
    "no chip 'v99'": ("--topology=v99:2x2",),
    "train.batch_size=8 does not divide over 16": ("--topology=v5e:4x4",),
    "multiply to 3, which does not divide the 4 devices": ("--topology=v5e:2x2", "--config.mesh.fsdp=3"),
    "works for TPU slices alone": ("--topology=h100:2", "--compile"),
    "config key 'mesh.fsdpp' is unknown": ("--topology=v5e:2x2", "--config.mesh.fsdpp=2"),
    "--topology": (),
    "unexpected argument": ("--topology=gpu", "stray"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_one_line(command, capsys, message):
    with pytest.raises(SystemExit) as left:
        command(*MISTAKES[message])
    said = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2 and message in said[-1] and said[-1].startswith("error: ")


HLO = """HloModule jit_step

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %ag = bf16[16,8]{1,0:T(8,128)} all-gather(%x), channel_id=1, dimensions={0}
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %y)
}

%fused (q: f32[4]) -> f32[8] {
  ROOT %again = f32[8]{0} all-gather(%q), channel_id=7, dimensions={0}
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %loop = (s32[], f32[8]{0}) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %f = f32[8]{0} fusion(%a), kind=kCustom, calls=%fused
  %g = f32[8]{0} all-gather(%a), channel_id=7, dimensions={0}
  %s = (f32[4]{0}, f32[8]{0}) all-gather-start(%b), channel_id=3, dimensions={0}
  %r = (f32[3]{0}, u8[2,2]{1,0}) all-reduce(%c, %d), channel_id=2, to_apply=%sum
  ROOT %out = f32[8]{0} add(%a, %b)
}
"""


def test_collectives_are_read_from_a_program_loops_and_parts_included():
    found = ahead.collectives(HLO)
    # in the loop 5 x 256 bytes; channel 7 once, though its parts stand twice; a start's result, not its operand
    assert found["all-gather"] == {"count": 5 + 1 + 1, "bytes": 5 * 16 * 8 * 2 + 32 + 32}
    assert found["all-reduce"] == {"count": 1, "bytes": 12 + 4}
    assert ahead.loops(HLO) == [5]


# Arrays as a TPU's compiler lays them: S(1) is on the chip, S(6) scalar memory, S(2) flags; the rest is main memory.
MOVES = """HloModule moves

%fused (p: bf16[16,64]) -> bf16[16,64] {
  %p = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %n = bf16[16,64]{1,0:T(8,128)(2,1)} negate(%p)
}

%body (state: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %state = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %y = f32[8,128]{1,0:T(8,128)S(1)} fusion(%x), kind=kLoop, calls=%fused
  %z = f32[8,128]{1,0:T(8,128)} fusion(%y), kind=kLoop, calls=%fused
  ROOT %next = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%i, %z)
}

ENTRY %main (a: bf16[16,64], b: f32[32,128], c: (s32[], f32[8,128])) -> bf16[16,64] {
  %a = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(0)
  %b = f32[32,128]{1,0:T(8,128)} parameter(1)
  %c = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(2)
  %d = bf16[16,64]{1,0:T(8,128)(2,1)S(1)} fusion(%a), kind=kLoop, calls=%fused
  %e = bf16[16,64]{0,1:T(8,128)(2,1)} fusion(%d, %a), kind=kLoop, calls=%fused
  %f = ((f32[32,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%b), slice={[0:8], [0:128]}
  %g = f32[8,128]{1,0:T(8,128)S(1)} slice-done(%f)
  %h = f32[8,128]{1,0:T(8,128)S(1)} custom-call(%g), custom_call_target="ConcatBitcast"
  %j = (f32[32,128]{1,0:T(8,128)S(1)}, f32[32,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%b)
  %k = f32[32,128]{1,0:T(8,128)S(1)} copy-done(%j)
  %w = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%c), body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %r = bf16[16,64]{1,0:T(8,128)(2,1)} fusion(%e, %h, %k), kind=kLoop, calls=%fused
}
"""


def test_what_a_step_moves_is_what_lies_outside_of_the_chip_padded_and_loops_included():
    wide, tall = 2 * 16 * 128, 2 * 128 * 64  # as rows of 128, and as columns of 128
    assert ahead.laid_out_bytes("bf16", "16,64", "1,0:T(8,128)(2,1)") == wide
    assert ahead.laid_out_bytes("bf16", "16,64", "0,1:T(8,128)(2,1)") == tall
    assert ahead.laid_out_bytes("f32", "", ":T(128)") == 4 and ahead.laid_out_bytes("pred", "3", "") == 3
    d, e, r = wide, tall + wide, tall + wide
    loop = 3 * 2 * 4 * 8 * 128
    assert ahead.hbm_bytes(MOVES) == d + e + r + 4 * 8 * 128 + 4 * 32 * 128 + loop


def test_without_libtpu_compiling_says_what_to_install(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(ahead.importlib.metadata, "version", absent)
    with pytest.raises(ValueError, match=re.escape("pip install 'jax[tpu]'")):
        ahead.compiled(config(), plan.parse_slice("v5e:2x2"), 1.0, "unused")


def test_a_compilation_is_stopped_in_time_and_kept_by_program(tmp_path):
    pytest.importorskip("libtpu")
    slice_ = plan.parse_slice("v5e:2x2")
    with pytest.raises(ValueError, match="not compiled in 1 s"):
        ahead.compiled(config(), slice_, 1.0, str(tmp_path))
    facts = ahead.compiled(config(), slice_, 300.0, str(tmp_path))
    assert facts["memory"]["arguments"] > 4 * 4 * 163_585 and facts["bytes_accessed"] > 1e6
    assert facts["memory"]["arguments"] < facts["hbm_bytes"]
    assert facts["collectives"]["all-reduce"]["bytes"] >= 4 * 163_585
    assert ahead.compiled(config(), slice_, 60.0, str(tmp_path)) == facts
    assert len(list(tmp_path.glob("*.json"))) == 1
