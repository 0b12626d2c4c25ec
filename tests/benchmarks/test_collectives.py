import pytest

from benchmarks.collectives import collectives, sent_bytes

# Lines as XLA writes them, each form of group and of result once.
PROGRAM = """
%region_1.clone (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%all-reduce-scatter.3 (param: bf16[8,16]) -> bf16[2,16] {
  %all-reduce.9 = bf16[8,16]{1,0:T(8,128)(2,1)} all-reduce(%param), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %slice = bf16[2,16]{1,0} dynamic-slice(%all-reduce.9, %i)
}

ENTRY %main.1_spmd (p0: f32[4]) -> f32[4] {
  %all-reduce.1 = (f32[10]{0:T(128)S(1)}, /*index=1*/bf16[2,3]{1,0:T(8,128)(2,1)}) all-reduce(%a, %b), \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}, to_apply=%region_1.clone
  %all-reduce.2 = f32[]{:T(128)} all-reduce(%c), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1':(1)2}
  %get = f32[10]{0} get-tuple-element(%all-reduce.1), index=0
  %all-gather.1 = pred[8,5]{1,0} all-gather(%d), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  %all-gather-start.2 = (s32[3]{0}, s32[24]{0}) all-gather-start(%e), replica_groups={}, dimensions={0}
  %all-gather-done.2 = s32[24]{0} all-gather-done(%all-gather-start.2)
  %reduce-scatter.1 = f32[2]{0} reduce-scatter(%f), replica_groups=[4,2]<=[8], dimensions={0}
  %all-to-all.1 = f8e4m3fn[16]{0} all-to-all(%g), replica_groups=[1,8]<=[8], dimensions={0}
  %permute-start = (s32[6]{0:S(1)}, s32[6]{0:S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%h), \
source_target_pairs={{0,1},{1,0}}
  %permute-done = s32[6]{0:S(1)} collective-permute-done(%permute-start)
}
"""

LOOP = """
%body.1 (p: f32[5]) -> f32[5] {
  ROOT %all-to-all.1 = f32[5]{0} all-to-all(%p), replica_groups=[1,2]<=[2]
}

ENTRY %main (p0: f32[5]) -> f32[5] {
  ROOT %while.1 = f32[5]{0} while(%p0), condition=%condition.1, body=%body.1, backend_config={KNOWN}
}
"""


def test_kinds_groups_and_bytes_of_each_form():
    found = {(entry["kind"], entry["group"]): (entry["count"], entry["bytes"]) for entry in collectives(PROGRAM, 8)}
    assert found == {
        ("reduce-scatter", 4): (1, 256),  # an all-reduce whose result is sliced
        ("all-gather", 8): (1, 96),
        ("all-reduce", 8): (1, 52),
        ("all-gather", 4): (1, 40),
        ("collective-permute", 8): (1, 24),
        ("reduce-scatter", 2): (1, 16),
        ("all-to-all", 8): (1, 16),
        ("all-reduce", 2): (1, 4),
    }


def test_a_loop_counts_as_often_as_it_runs():
    text = LOOP.replace("KNOWN", '"known_trip_count":{"n":"3"}')
    assert collectives(text, 2) == [{"kind": "all-to-all", "group": 2, "count": 3, "bytes": 60}]


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match=r"Received: all-to-all in body\.1"):
        collectives(LOOP.replace("KNOWN", ""), 2)


def test_bytes_sent_on_a_ring():
    found = [
        {"kind": "all-reduce", "group": 4, "count": 1, "bytes": 100},
        {"kind": "all-gather", "group": 2, "count": 1, "bytes": 100},
        {"kind": "collective-permute", "group": 8, "count": 1, "bytes": 10},
    ]
    assert sent_bytes(found) == 150 + 50 + 10
    assert sent_bytes(found, scale=2, fixed=(4,)) == 150 + 75 + 10
