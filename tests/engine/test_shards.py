"""Output files are cut by names and sizes alone."""

from hypothesis import given
from hypothesis import strategies as st

from deltakit.engine.shards import make_shards
from deltakit.tensors.header import TensorInfo

SIZES = st.dictionaries(st.text("ab.019", min_size=1), st.integers(0, 50), min_size=1)


@given(SIZES, st.integers(1, 500), st.randoms())
def test_shards_hold_each_tensor_once_within_the_limit_in_any_order_of_names(sizes, most, random):
    infos = {name: TensorInfo("F32", (size,)) for name, size in sizes.items()}
    shards = make_shards(infos, most)
    names = [name for shard in shards for name in shard.infos]
    assert sorted(names) == sorted(infos)
    assert all(shard.nbytes <= most or len(shard.infos) == 1 for shard in shards)
    shuffled = list(infos)
    random.shuffle(shuffled)
    assert make_shards({name: infos[name] for name in shuffled}, most) == shards


def test_layer_two_comes_before_layer_ten():
    infos = {f"layers.{i}.w": TensorInfo("U8", (1,)) for i in (10, 2, 1)}
    assert [list(s.infos) for s in make_shards(infos, 1)] == [
        ["layers.1.w"],
        ["layers.2.w"],
        ["layers.10.w"],
    ]
