"""What is read from the text of compiled programs, each as a TPU's compiler writes it, cut down."""

from tools import hlo

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
    found = hlo.collective_bytes(hlo.parse(HLO))
    # in the loop 5 x 256 bytes; channel 7 once, though its parts stand twice; a start's result, not its operand
    assert found["all-gather"] == {"count": 5 + 1 + 1, "bytes": 5 * 16 * 8 * 2 + 32 + 32}
    assert found["all-reduce"] == {"count": 1, "bytes": 12 + 4}
    assert hlo.loops(hlo.parse(HLO)) == [5]


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


def bytes_of(kind, sides, layout=""):
    return hlo.laid_out_bytes(hlo.Shape(kind, sides, layout))


def test_what_a_step_moves_is_what_lies_in_main_memory_padded_and_loops_included():
    wide, tall = 2 * 16 * 128, 2 * 128 * 64  # as rows of 128, and as columns of 128
    assert bytes_of("bf16", "16,64", "1,0:T(8,128)(2,1)") == wide
    assert bytes_of("bf16", "16,64", "0,1:T(8,128)(2,1)") == tall
    assert bytes_of("f32", "", ":T(128)") == 4 and bytes_of("pred", "3") == 3
    d, e, r = wide, tall + wide, tall + wide
    loop = 3 * 2 * 4 * 8 * 128
    assert hlo.hbm_bytes(hlo.parse(MOVES)) == d + e + r + 4 * 8 * 128 + 4 * 32 * 128 + loop


# A scan as a TPU's compiler writes it: the turns stand in the condition, and each reads a slice and updates one.
SCAN = """HloModule scan

%sliced (stack: f32[6,8,128], i: s32[]) -> f32[8,128] {
  %stack = f32[6,8,128]{2,1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)S(6)} parameter(1)
  %s = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%stack, %i), dynamic_slice_sizes={1,8,128}
  ROOT %b = f32[8,128]{1,0:T(8,128)} bitcast(%s)
}

%outer (whole: f32[6,8,128], j: s32[]) -> f32[8,128] {
  %whole = f32[6,8,128]{2,1,0:T(8,128)} parameter(0)
  %j = s32[]{:T(128)S(6)} parameter(1)
  %in = f32[8,128]{1,0:T(8,128)} fusion(%whole, %j), kind=kLoop, calls=%sliced
  ROOT %n = f32[8,128]{1,0:T(8,128)} negate(%in)
}

%updated (into: f32[6,8,128], row: f32[8,128], k: s32[]) -> f32[6,8,128] {
  %into = f32[6,8,128]{2,1,0:T(8,128)} parameter(0)
  %row = f32[8,128]{1,0:T(8,128)} parameter(1)
  %k = s32[]{:T(128)S(6)} parameter(2)
  %one = f32[1,8,128]{2,1,0:T(8,128)} bitcast(%row)
  ROOT %u = f32[6,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%into, %one, %k)
}

%condition (state: (s32[], f32[6,8,128], f32[6,8,128])) -> pred[] {
  %state = (s32[]{:T(128)}, f32[6,8,128]{2,1,0:T(8,128)}, f32[6,8,128]{2,1,0:T(8,128)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%state), index=0
  %six = s32[]{:T(128)} constant(6)
  ROOT %less = pred[]{:T(512)} compare(%count, %six), direction=LT
}

%turn (state.1: (s32[], f32[6,8,128], f32[6,8,128])) -> (s32[], f32[6,8,128], f32[6,8,128]) {
  %state.1 = (s32[]{:T(128)}, f32[6,8,128]{2,1,0:T(8,128)}, f32[6,8,128]{2,1,0:T(8,128)}) parameter(0)
  %t = s32[]{:T(128)S(6)} get-tuple-element(%state.1), index=0
  %p = f32[6,8,128]{2,1,0:T(8,128)} get-tuple-element(%state.1), index=1
  %q = f32[6,8,128]{2,1,0:T(8,128)} get-tuple-element(%state.1), index=2
  %x = f32[8,128]{1,0:T(8,128)} fusion(%p, %t), kind=kLoop, calls=%outer
  %y = f32[6,8,128]{2,1,0:T(8,128)} fusion(%q, %x, %t), kind=kLoop, calls=%updated
  %ar = f32[8,128]{1,0:T(8,128)S(1)} all-reduce(%x), channel_id=1, to_apply=%sliced
  ROOT %after = (s32[]{:T(128)}, f32[6,8,128]{2,1,0:T(8,128)}, f32[6,8,128]{2,1,0:T(8,128)}) tuple(%t, %p, %y)
}

ENTRY %main (a: (s32[], f32[6,8,128], f32[6,8,128])) -> (s32[], f32[6,8,128], f32[6,8,128]) {
  %a = (s32[]{:T(128)}, f32[6,8,128]{2,1,0:T(8,128)}, f32[6,8,128]{2,1,0:T(8,128)}) parameter(0)
  ROOT %loop = (s32[]{:T(128)}, f32[6,8,128]{2,1,0:T(8,128)}, f32[6,8,128]{2,1,0:T(8,128)}) while(%a), condition=%condition, body=%turn
}
"""  # noqa: E501


def test_a_scan_moves_slices_and_turns_as_often_as_its_condition_counts():
    program, row = hlo.parse(SCAN), 4 * 8 * 128
    assert hlo.loops(program) == [6]
    assert hlo.collective_bytes(program) == {"all-reduce": {"count": 6, "bytes": 6 * row}}
    # read a slice and write it; read that and write it as an update; read it for the sum
    assert hlo.hbm_bytes(program) == 6 * (2 * row + 2 * row + row)


# A gather that runs beside two fusions, which hand its buffer on, and transfers whose results name both ends.
BESIDE = """HloModule beside

%async_collective_fusion.1 (g: f32[64,128], h: f32[8,128]) -> (f32[64,128], f32[8,128]) {
  %g = f32[64,128]{1,0:T(8,128)} parameter(0)
  %h = f32[8,128]{1,0:T(8,128)} parameter(1)
  %m = f32[8,128]{1,0:T(8,128)} negate(%h)
  ROOT %both = (f32[64,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}) tuple(%g, %m)
}

%branch (r: f32[8,128]) -> f32[8,128] {
  %r = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %nr = f32[8,128]{1,0:T(8,128)} negate(%r)
}

%idle (z: f32[8,128]) -> f32[8,128] {
  ROOT %z = f32[8,128]{1,0:T(8,128)} parameter(0)
}

ENTRY %main (a: f32[64,128], b: f32[8,128], c: f32[], w: s32[]) -> f32[8,128] {
  %a = f32[64,128]{1,0:T(8,128)} parameter(0)
  %b = f32[8,128]{1,0:T(8,128)} parameter(1)
  %c = f32[]{:T(128)} parameter(2)
  %w = s32[]{:T(128)S(6)} parameter(3)
  %f = (f32[64,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}) fusion(%a, %b), kind=kCustom, output_to_operand_aliasing={{0}: (0, {})}, calls=%async_collective_fusion.1
  %s = (f32[]{:T(128)S(6)}, f32[]{:T(128)}, u32[]{:S(2)}) copy-start(%c)
  %ag = (f32[8,128]{1,0:T(8,128)}, f32[64,128]{1,0:T(8,128)}) all-gather-start(%b), channel_id=3, dimensions={0}
  %done = f32[64,128]{1,0:T(8,128)} all-gather-done(%ag)
  %update = f32[64,128]{1,0:T(8,128)} dynamic-update-slice(%done, %b, %w)
  ROOT %out = f32[8,128]{1,0:T(8,128)} conditional(%w, %b, %b), branch_computations={%branch, %idle}
}
"""  # noqa: E501


def test_buffers_that_are_handed_on_count_once_and_transfers_at_their_ends():
    row, gathered = 4 * 8 * 128, 4 * 64 * 128
    fusion, scalar, gather, update, branch = 2 * row, 4, row + gathered, 2 * row, 2 * row
    assert hlo.hbm_bytes(hlo.parse(BESIDE)) == fusion + scalar + gather + update + branch
