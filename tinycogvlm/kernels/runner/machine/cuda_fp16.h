#pragma once
#include "small_floats.h"

using __half = machine::Small<machine::HalfFormat>;
using __half2 = machine::Small2<machine::HalfFormat>;
using __half_raw = machine::Raw<machine::HalfFormat>;
using __half2_raw = machine::Raw2<machine::HalfFormat>;
using half = __half;
using half2 = __half2;

MACHINE_SMALL_CONVERSIONS(half, half2, half, half2)
inline half2 __lows2half2(half2 a, half2 b) { return {a.x, b.x}; }
inline half2 __highs2half2(half2 a, half2 b) { return {a.y, b.y}; }
