import dataclasses
from textwrap import dedent

import pytest
import torch
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.ir.passes import Skip, run_passes
from fxedge.compiler.ir.shapes import annotate
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.compiler.quant.plan import Group, IntegerOp, Plan, activation_inputs, plan_quantization
from fxedge.compiler.quant.qparams import QSpec
from fxedge.compiler.quant.target import TargetSpec
from fxedge.passes.fold_batch_norm import FoldBatchNorm
from support import Calls, Calls2
from torch import nn
from torch.nn import functional as F
from toy_target import PROBABILITY, TOY, TOY_SHARED_CAT, UINT8, WEIGHT, captured

X = torch.randn(2, 4, 8, 8)


def conv(inputs: int = 4, outputs: int = 4) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def plan_of(model: nn.Module, *inputs: torch.Tensor, spec: TargetSpec = TOY, **options) -> Plan:
    return plan_quantization(captured(model, *(inputs or (X,))), spec, **options)


def text(model: nn.Module, *inputs: torch.Tensor, spec: TargetSpec = TOY, **options) -> str:
    return plan_of(model, *inputs, spec=spec, **options).format() + "\n"


def with_rule(op, **changes) -> TargetSpec:
    return dataclasses.replace(TOY, ops={**TOY.ops, op: dataclasses.replace(TOY.ops[op], **changes)})


def test_conv_bn_relu_is_one_op():
    gm = captured(Calls(lambda m, x: m.bn(m.c(x)).relu(), c=conv(), bn=nn.BatchNorm2d(4)), X)
    run_passes(gm, [FoldBatchNorm()])
    annotate(gm)
    plan = plan_quantization(gm, TOY)
    assert plan == Plan(
        "toy",
        "float32",
        {"conv2d": IntegerOp("conv2d", ("relu",), ("x",), ("relu",), WEIGHT)},
        (Group(("x",), ("x",), UINT8), Group(("relu",), ("relu",), UINT8)),
    )
    assert plan.format() == dedent("""\
        plan for toy: 1 integer ops, 0 float
          int8   conv2d + relu: x -> relu""")


def test_residual_add_with_relu():
    model = Calls(lambda m, x: (m.b(m.a(x).relu()) + x).relu(), a=conv(), b=conv())
    assert text(model) == dedent("""\
        plan for toy: 3 integer ops, 0 float
          int8   conv2d + relu: x -> relu
          int8   conv2d_1: relu -> conv2d_1
          int8   add + relu_1: conv2d_1, x -> relu_1
        """)


def test_an_activation_is_fused_only_if_nothing_else_reads_the_op():
    def function(m, x):
        y = m.a(x)
        return y.relu() + y

    assert text(Calls(function, a=conv())) == dedent("""\
        plan for toy: 3 integer ops, 0 float
          int8   conv2d: x -> conv2d
          int8   relu: conv2d -> relu
          int8   add: relu, conv2d -> add
        """)


def test_a_chain_of_clamps_is_fused():
    model = Calls(lambda m, x: F.hardtanh(m.a(x).relu(), 0.0, 6.0), a=conv())
    assert text(model) == dedent("""\
        plan for toy: 1 integer ops, 0 float
          int8   conv2d + relu + hardtanh: x -> hardtanh
        """)


def test_bounds_by_channel_are_part_of_the_region_or_share_its_parameters():
    def function(m, x):
        y = torch.clamp(m.a(x).relu(), max=m.u)
        return m.b(torch.clamp(F.max_pool2d(y, 2), max=m.u))

    assert text(Calls(function, a=conv(), b=conv(), u=torch.ones(4, 1, 1))) == dedent("""\
        plan for toy: 4 integer ops, 0 float
          int8   conv2d + relu + clamp: x -> clamp
          int8   max_pool2d: clamp -> max_pool2d
          int8   clamp_1: max_pool2d -> clamp_1
          int8   conv2d_1: clamp_1 -> conv2d_1
          shared clamp, max_pool2d, clamp_1
        """)


def test_computed_bounds_stay_float():
    model = Calls(lambda m, x: torch.clamp(m.a(x), max=x.mean((2, 3), keepdim=True)), a=conv())
    assert "float  clamp: its bounds are computed, not constant\n" in text(model)


CONCAT = Calls(lambda m, x: m.c(torch.cat([m.a(x), m.b(x), x], 1)), a=conv(), b=conv(), c=conv(12))


def test_concat_has_parameters_of_its_own_where_the_target_requantizes():
    assert text(CONCAT) == dedent("""\
        plan for toy: 4 integer ops, 0 float
          int8   conv2d: x -> conv2d
          int8   conv2d_1: x -> conv2d_1
          int8   cat: conv2d, conv2d_1, x -> cat
          int8   conv2d_2: cat -> conv2d_2
        """)


def test_concat_shares_parameters_where_the_target_demands_it():
    plan = plan_of(CONCAT, spec=TOY_SHARED_CAT)
    assert plan.format() == dedent("""\
        plan for toy-shared-cat: 4 integer ops, 0 float
          int8   conv2d: x -> conv2d
          int8   conv2d_1: x -> conv2d_1
          int8   cat: conv2d, conv2d_1, x -> cat
          int8   conv2d_2: cat -> conv2d_2
          shared x, conv2d, conv2d_1, cat""")
    assert plan.groups[0] == Group(("x", "conv2d", "conv2d_1", "cat"), ("x", "conv2d", "conv2d_1"), UINT8)


def test_pools_pads_and_views_share_with_their_input():
    def function(m, x):
        y = F.pad(F.max_pool2d(m.a(x), 2), (1, 1))
        return m.b(y.permute(0, 1, 3, 2)[:, 1:].reshape(-1, 72))

    plan = plan_of(Calls(function, a=conv(), b=nn.Linear(72, 5)))
    assert plan.format() == dedent("""\
        plan for toy: 8 integer ops, 0 float
          int8   conv2d: x -> conv2d
          int8   max_pool2d: conv2d -> max_pool2d
          int8   pad: max_pool2d -> pad
          int8   permute: pad -> permute
          int8   slice_1: permute -> slice_1
          int8   slice_2: slice_1 -> slice_2
          int8   reshape: slice_2 -> reshape
          int8   linear: reshape -> linear
          shared conv2d, max_pool2d, pad, permute, slice_1, slice_2, reshape""")
    assert plan.groups[1].observed == ("conv2d",)


@pytest.mark.parametrize(
    ("value", "observed"), [(0.0, ("conv2d",)), (5.0, ("conv2d", "pad")), (float("-inf"), ("conv2d",))]
)
def test_a_pad_is_observed_if_it_puts_in_a_number_of_its_own(value, observed):
    plan = plan_of(Calls(lambda m, x: m.b(F.pad(m.a(x), (1, 1), value=value)), a=conv(), b=conv()))
    assert [group.observed for group in plan.groups] == [("x",), observed, ("conv2d_1",)]


def test_softmax_and_sigmoid_have_fixed_parameters():
    model = Calls(lambda m, x: (m.a(x).softmax(1), m.b(x).sigmoid()), a=conv(), b=conv())
    plan = plan_of(model)
    assert plan.format() == dedent("""\
        plan for toy: 4 integer ops, 0 float
          int8   conv2d: x -> conv2d
          int8   softmax: conv2d -> softmax
          int8   conv2d_1: x -> conv2d_1
          int8   sigmoid: conv2d_1 -> sigmoid
          fixed  softmax
          fixed  sigmoid""")
    assert plan.groups[2] == Group(("softmax",), ("softmax",), UINT8, PROBABILITY)


def test_fixed_parameters_spread_through_views():
    model = Calls(lambda m, x: m.b(m.a(x).sigmoid().permute(0, 1, 3, 2)), a=conv(), b=conv())
    groups = plan_of(model).groups
    assert groups[2] == Group(("sigmoid", "permute"), ("sigmoid",), UINT8, PROBABILITY)


def test_a_concat_of_equal_fixed_parameters_shares_them():
    def function(m, x):
        return m.c(torch.cat([m.a(x).sigmoid(), m.b(x).softmax(1)], 1))

    groups = plan_of(Calls(function, a=conv(), b=conv(), c=conv(8)), spec=TOY_SHARED_CAT).groups
    assert groups[2] == Group(("sigmoid", "softmax", "cat"), ("sigmoid", "softmax"), UINT8, PROBABILITY)


def test_only_the_concat_that_mixes_fixed_and_other_parameters_goes_float():
    def function(m, x):
        y = m.a(x)
        plain = torch.cat([y, m.b(x)], 1)
        return torch.cat([plain, y.sigmoid()], 1).relu()

    assert text(Calls(function, a=conv(), b=conv()), spec=TOY_SHARED_CAT) == dedent("""\
        plan for toy-shared-cat: 4 integer ops, 2 float
          int8   conv2d: x -> conv2d
          int8   conv2d_1: x -> conv2d_1
          int8   cat: conv2d, conv2d_1 -> cat
          int8   sigmoid: conv2d -> sigmoid
          shared conv2d, conv2d_1, cat
          fixed  sigmoid
          float  cat_1: its values must share parameters, but one of them has fixed ones
          float  relu: its inputs are float
        """)


def test_a_split_gives_its_pieces():
    def function(m, x):
        first, second = m.a(x).split(2, 1)
        return first + second

    plan = plan_of(Calls(function, a=conv()))
    assert plan.format() == dedent("""\
        plan for toy: 3 integer ops, 0 float
          int8   conv2d: x -> conv2d
          int8   split: conv2d -> getitem, getitem_1
          int8   add: getitem, getitem_1 -> add
          shared conv2d, getitem, getitem_1""")


def test_a_constant_operand_is_an_input():
    plan = plan_of(Calls(lambda m, x: m.a(x) * m.gain, a=conv(), gain=torch.rand(4, 1, 1)))
    assert plan.ops["mul"].inputs == ("conv2d", "gain")
    assert Group(("gain",), ("gain",), UINT8) in plan.groups


def test_the_same_value_twice():
    plan = plan_of(Calls(lambda m, x: m.a(x) + m.a(x), a=conv()))
    assert plan.ops["add"].inputs == ("conv2d", "conv2d_1")
    doubled = plan_of(Calls(lambda m, x: m.a(torch.add(x, x)), a=conv()))
    assert doubled.ops["add"].inputs == ("x", "x")
    assert doubled.ops["add"].outputs == ("add",)


class WithBuffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.arange(8))
        self.conv = conv()


REASONS = {
    "no rule": (
        Calls(lambda m, x: m.a(x).exp(), a=conv()),
        TOY,
        {},
        [Skip("exp", "toy has no integer kernel for exp.default")],
    ),
    "the rule's check": (
        Calls(lambda m, x: m.a(x) + 1, a=conv()),
        TOY,
        {},
        [Skip("add", "the other operand is a number")],
    ),
    "computed weight": (
        Calls(lambda m, x: F.conv2d(x, m.w.exp()), w=torch.rand(4, 4, 1, 1)),
        TOY,
        {},
        [
            Skip("exp", "toy has no integer kernel for exp.default"),
            Skip("conv2d", "its weight is computed, not constant"),
        ],
    ),
    "computed bias": (
        Calls(lambda m, x: F.conv2d(x, m.w, m.b.exp()), w=torch.rand(4, 4, 1, 1), b=torch.rand(4)),
        TOY,
        {},
        [
            Skip("exp", "toy has no integer kernel for exp.default"),
            Skip("conv2d", "its bias is computed, not constant"),
        ],
    ),
    "float64": (
        Calls(lambda m, x: m.a(x).double().relu(), a=conv()),
        TOY,
        {},
        [
            Skip("to", "toy has no integer kernel for to.dtype"),
            Skip("relu", "its input to is float64, not float32"),
        ],
    ),
    "an integer constant": (
        Calls(lambda m, x: m.a.conv(x) * m.a.steps, a=WithBuffers()),
        TOY,
        {},
        [Skip("mul", "its input a_steps is int64, not float32")],
    ),
    "float data": (
        Calls(lambda m, x: (F.max_pool2d(m.a(x).exp(), 2) + 1.0).relu(), a=conv()),
        TOY,
        {},
        [
            Skip("exp", "toy has no integer kernel for exp.default"),
            Skip("max_pool2d", "its inputs are float"),
            Skip("add", "the other operand is a number"),
            Skip("relu", "its inputs are float"),
        ],
    ),
    "a dropped op's activation": (
        Calls(lambda m, x: (m.a(x) + x.exp()).relu(), a=conv()),
        TOY,
        {},
        [
            Skip("exp", "toy has no integer kernel for exp.default"),
            Skip("add", "its inputs are float"),
            Skip("relu", "its inputs are float"),
        ],
    ),
    "by node name": (
        Calls(lambda m, x: m.a(x).relu(), a=conv()),
        TOY,
        {"keep_float": ["con*", "conv*"]},
        [Skip("a (conv2d)", "kept float by 'con*'"), Skip("relu", "its inputs are float")],
    ),
    "an activation that would be fused": (
        Calls(lambda m, x: m.b(m.a(x)), a=conv(), b=nn.ReLU()),
        TOY,
        {"keep_float": ["b"]},
        [Skip("b (relu)", "kept float by 'b'")],
    ),
    "by the path of a module around it": (
        Calls(lambda m, x: m.b(x), b=nn.Sequential(conv(), nn.ReLU())),
        TOY,
        {"keep_float": ["b"]},
        [Skip("b.0 (conv2d)", "kept float by 'b'"), Skip("b.1 (relu)", "kept float by 'b'")],
    ),
    "by module path": (
        Calls(lambda m, x: m.a(m.b(x)), a=conv(), b=nn.Sequential(conv(), nn.ReLU())),
        TOY,
        {"keep_float": ["b.*"]},
        [Skip("b.0 (conv2d)", "kept float by 'b.*'"), Skip("b.1 (relu)", "kept float by 'b.*'")],
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_of_each_float_op(name):
    model, spec, options, expected = REASONS[name]
    plan = plan_of(model, spec=spec, **options)
    assert list(plan.floats) == expected


@pytest.mark.parametrize(("first", "reasons"), [(1.0, ["its sums may overflow int32"]), (9.0, [])])
def test_a_product_whose_sums_may_overflow_stays_float(first: float, reasons: list[str]):
    """40,000 products of equal weights reach 1.3e9 with full inputs; one weight nine times as large, 1.4e8."""
    layer = nn.Linear(40_000, 1)
    nn.init.ones_(layer.weight)
    layer.weight.data[0, 0] = first
    plan = plan_of(Calls(lambda m, x: m.a(x), a=layer), torch.zeros(2, 40_000))
    assert [skip.reason for skip in plan.floats] == reasons


def test_a_glob_that_matches_nothing():
    with pytest.raises(InputError) as caught:
        plan_of(Calls(lambda m, x: m.a(x), a=conv()), keep_float=["a", "head.*"])
    assert str(caught.value) == (
        "Nothing can be kept float by 'head.*': no module or node of the captured graph is called so (batch norms "
        "and dropout are gone by then). fxedge inspect shows what there is."
    )


def test_floats_are_in_the_text():
    model = Calls(lambda m, x: m.a(x).exp().relu(), a=conv())
    assert text(model) == dedent("""\
        plan for toy: 1 integer ops, 2 float
          int8   conv2d: x -> conv2d
          float  exp: toy has no integer kernel for exp.default
          float  relu: its inputs are float
        """)


def test_concat_takes_float_data_too_if_one_input_is_integer():
    plan = plan_of(Calls(lambda m, x: m.b(torch.cat([m.a(x), x.exp()], 1)), a=conv(), b=conv(8)))
    assert plan.ops["cat"].inputs == ("conv2d", "exp")
    float_only = plan_of(Calls(lambda m, x: torch.cat([x.exp(), x.exp()], 1)))
    assert float_only.floats[-1] == Skip("cat", "its inputs are float")


def test_a_concat_of_pieces_of_one_value_shares_its_parameters():
    model = Calls(lambda m, x: m.b(torch.cat([y := m.a(x), *y.split(2, 1)], 1)), a=conv(), b=conv(8))
    plan = plan_of(model)
    shared = next(group for group in plan.groups if "cat" in group.members)
    assert (shared.members, shared.observed) == (("conv2d", "getitem", "getitem_1", "cat"), ("conv2d",))
    other = Calls(lambda m, x: m.b(torch.cat([m.a(x), x], 1)), a=conv(), b=conv(8))
    assert all(len(group.members) == 1 for group in plan_of(other).groups)


def test_an_op_that_reads_a_graph_input_is_integer_on_the_way_to_an_op_with_weights():
    model = Calls(lambda m, x: m.a(F.max_pool2d(x, 2).relu()), a=conv())
    assert text(model) == dedent("""\
        plan for toy: 3 integer ops, 0 float
          int8   max_pool2d: x -> max_pool2d
          int8   relu: max_pool2d -> relu
          int8   conv2d: relu -> conv2d
          shared x, max_pool2d
        """)


def test_ops_between_a_graph_input_and_float_ops_stay_float():
    model = Calls(lambda m, x: (m.a(x), F.max_pool2d(x, 2).relu().exp()), a=conv())
    plan = plan_of(model)
    assert list(plan.ops) == ["conv2d"]
    assert plan.floats == (
        Skip("max_pool2d", "it reads a graph input and no integer op reads its result"),
        Skip("relu", "it reads a graph input and no integer op reads its result"),
        Skip("exp", "toy has no integer kernel for exp.default"),
    )


ALONE = "it stands alone between float ops: to convert for it costs what its few products save"


def depthwise() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1, groups=4)


def test_a_light_layer_between_float_ops_stays_float():
    model = Calls(lambda m, x: m.c(m.b(m.a(x).exp()).relu().exp()), a=conv(), b=depthwise(), c=conv())
    assert text(model) == dedent(f"""\
        plan for toy: 2 integer ops, 4 float
          int8   conv2d: x -> conv2d
          int8   conv2d_2: exp_1 -> conv2d_2
          float  exp: toy has no integer kernel for exp.default
          float  b (conv2d_1): {ALONE}
          float  relu: its inputs are float
          float  exp_1: toy has no integer kernel for exp.default
        """)


def test_what_follows_a_light_layer_does_not_keep_it_on_integers():
    pools = Calls(lambda m, x: m.c(F.max_pool2d(m.b(m.a(x).exp()), 2).exp()), a=conv(), b=depthwise(), c=conv())
    assert list(plan_of(pools).ops) == ["conv2d", "conv2d_2"]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.c(m.b(m.a(x)).exp()),  # its input is integers already
        lambda m, x: m.c(m.b(m.a(x).exp())),  # its reader takes integers
        lambda m, x: m.c(m.d(m.b(m.a(x).exp())).exp()),  # two in a row
        lambda m, x: m.c(m.b(x).exp()) + m.a(x),  # a graph input counts as integers
    ],
)
def test_a_light_layer_beside_integers_is_integer(function):
    plan = plan_of(Calls(function, a=conv(), b=depthwise(), c=conv(), d=depthwise()))
    assert ALONE not in {skip.reason for skip in plan.floats}


def test_a_layer_of_many_products_between_float_ops_is_integer():
    plan = plan_of(Calls(lambda m, x: m.b(m.a(x).exp()).exp(), a=conv(), b=conv()))
    assert list(plan.ops) == ["conv2d", "conv2d_1"]


def test_matmul_of_two_activations_leads():
    plan = plan_of(Calls2(lambda m, x, y: x @ y.permute(0, 1, 3, 2)), X, X + 1)
    assert plan.format() == dedent("""\
        plan for toy: 2 integer ops, 0 float
          int8   permute: y -> permute
          int8   matmul: x, permute -> matmul
          shared y, permute""")


def test_weights_are_per_channel_where_the_output_axis_comes_first():
    model = Calls(lambda m, x: m.b(m.a(x)), a=conv(), b=nn.ConvTranspose2d(4, 4, 2))
    plan = plan_of(model)
    assert plan.ops["conv2d"].weight == WEIGHT
    assert plan.ops["conv_transpose2d"].weight == dataclasses.replace(WEIGHT, per_channel=False)
    per_tensor = plan_of(model, per_tensor_weights=True)
    assert per_tensor.ops["conv2d"].weight == dataclasses.replace(WEIGHT, per_channel=False)


TWO = Calls(lambda m, x: m.b(m.a(x).relu()), a=conv(), b=conv())


def within(limit: int, **changes) -> QSpec:
    return dataclasses.replace(WEIGHT, qmin=-limit, qmax=limit, **changes)


def test_weights_of_fewer_bits_are_symmetric():
    for bits, limit in ((8, 127), (6, 31), (5, 15), (4, 7), (2, 1)):
        assert plan_of(TWO, weight_bits=bits).ops["conv2d"].weight == within(limit)


def test_layers_differ_by_glob_and_a_later_glob_wins():
    layers = {
        "*": LayerOptions(weight_bits=4, per_tensor=True),
        "b": LayerOptions(weight_bits=6, weight_range="mse"),
        "conv2d": LayerOptions(per_tensor=False),
    }
    assert text(TWO, layers=layers) == dedent("""\
        plan for toy: 2 integer ops, 0 float
          int8   conv2d + relu: x -> relu (weight within ±7)
          int8   conv2d_1: relu -> conv2d_1 (weight within ±31, range by mse)
        """)
    ops = plan_of(TWO, layers=layers).ops
    assert (ops["conv2d"].weight, ops["conv2d_1"].weight) == (within(7), within(31, per_channel=False))


def test_layers_override_what_is_said_of_all():
    layers = {"a": LayerOptions(per_tensor=False, weight_bits=8, weight_range="minmax")}
    ops = plan_of(TWO, weight_bits=5, per_tensor_weights=True, weight_range="mse", layers=layers).ops
    assert (ops["conv2d"].weight, ops["conv2d"].weight_range) == (WEIGHT, "minmax")
    assert (ops["conv2d_1"].weight, ops["conv2d_1"].weight_range) == (within(15, per_channel=False), "mse")


def test_layers_are_kept_float_and_taken_back():
    plan = plan_of(TWO, layers={"*": LayerOptions(quantize=False), "[ar]*": LayerOptions(quantize=True)})
    assert (list(plan.ops), plan.floats) == (["conv2d"], (Skip("b (conv2d_1)", "kept float by '*'"),))
    plan = plan_of(TWO, keep_float=["a", "b"], layers={"b": LayerOptions(quantize=True)})
    assert (list(plan.ops), plan.kept) == (["conv2d_1"], {"conv2d"})


def test_layers_that_are_not_there():
    with pytest.raises(InputError) as caught:
        plan_of(TWO, layers={"head.*": LayerOptions(weight_bits=4)})
    assert str(caught.value) == (
        "Options for the layers 'head.*' apply to nothing: no module or node of the captured graph is called so "
        "(batch norms and dropout are gone by then). fxedge inspect shows what there is."
    )


def test_a_rule_has_a_weight_spec_of_its_own():
    narrow = dataclasses.replace(WEIGHT, qmin=-63, qmax=63)
    plan = plan_of(Calls(lambda m, x: m.a(x), a=conv()), spec=with_rule(aten.conv2d.default, weight=narrow))
    assert plan.ops["conv2d"].weight == narrow
    narrower = plan_of(TWO, spec=with_rule(aten.conv2d.default, weight=narrow), weight_bits=7)
    assert narrower.ops["conv2d"].weight == narrow


def test_sizes_are_not_inputs():
    gm = captured(Calls(lambda m, x: m.a(x).reshape(x.shape[0], -1), a=conv()), X)
    reshape = next(node for node in gm.graph.nodes if node.target in (aten.reshape.default, aten.view.default))
    assert [node.name for node in activation_inputs(reshape)] == ["conv2d"]


def test_planning_does_not_touch_the_graph():
    gm = captured(CONCAT, X)
    before = str(gm.graph)
    assert plan_quantization(gm, TOY) == plan_quantization(gm, TOY)
    assert str(gm.graph) == before
