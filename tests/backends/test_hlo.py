"""Products read out of HLO text, as torch_xla prints it and without the types at their use."""

from __future__ import annotations

import pytest

from bench.backends.hlo import products

PRINTED = """\
HloModule IrToHlo.9, entry_computation_layout={(f32[8,4]{1,0}, bf16[4,2]{1,0})->(f32[8,2]{1,0})}

ENTRY %IrToHlo.9 (p0.1: f32[8,4], p1.2: bf16[4,2]) -> (f32[8,2]) {
  %p0.1 = f32[8,4]{1,0} parameter(0), frontend_attributes={neff_input_names="input0"}
  %p1.2 = bf16[4,2]{1,0} parameter(1)
  %convert.3 = bf16[8,4]{1,0} convert(f32[8,4]{1,0} %p0.1)
  %dot.4 = f32[8,2]{1,0} dot(bf16[8,4]{1,0} %convert.3, bf16[4,2]{1,0} %p1.2), \
lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %reshape.5 = f32[1,8,4,1]{3,2,1,0} reshape(f32[8,4]{1,0} %p0.1)
  %convolution.6 = f32[1,1,1,1]{3,2,1,0} convolution(f32[1,8,4,1]{3,2,1,0} %reshape.5, \
f32[1,8,4,1]{3,2,1,0} %reshape.5), window={size=4x1}, dim_labels=bf01_oi01->bf01
  %add.7 = f32[8,2]{1,0} add(f32[8,2]{1,0} %dot.4, f32[8,2]{1,0} %dot.4)
  ROOT %tuple.8 = (f32[8,2]{1,0}) tuple(f32[8,2]{1,0} %add.7)
}
"""
SHORT = """\
ENTRY main {
  a = f16[8,4]{1,0} parameter(0)
  b = f16[4,2]{1,0} parameter(1)
  ROOT c = f32[8,2]{1,0} dot(a, b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""


def test_products_count_by_the_type_of_their_operands_and_not_of_their_result() -> None:
    assert products(PRINTED) == {"bf16": 1, "fp32": 1}
    assert products(SHORT) == {"fp16": 1}


@pytest.mark.parametrize(
    ("left", "right", "counted"),
    [
        ("f32", "f32", {"fp32": 1}),
        ("f64", "f64", {"fp64": 1}),
        ("f8e4m3fn", "f8e5m2", {"fp8": 1}),
        ("s8", "s8", {"int8": 1}),
        ("bf16", "f32", {"bf16+fp32": 1}),
        ("s32", "s32", {}),
        ("s64", "s64", {}),
        ("pred", "u32", {}),
        ("f4e2m1fn", "f4e2m1fn", {"f4e2m1fn": 1}),
    ],
)
def test_types_have_the_names_of_records_and_whole_numbers_are_left_out(
    left: str, right: str, counted: dict[str, int]
) -> None:
    text = (
        f"  a.1 = {left}[8,4]{{1,0}} parameter(0)\n"
        f"  b.2 = {right}[4,2]{{1,0}} parameter(1)\n"
        "  c.3 = f32[8,2]{1,0} dot(a.1, b.2), lhs_contracting_dims={1}\n"
    )
    assert products(text) == counted


def test_a_graph_without_products_has_none() -> None:
    assert products("ENTRY e {\n  ROOT a.1 = f32[8]{0} parameter(0)\n}") == {}
