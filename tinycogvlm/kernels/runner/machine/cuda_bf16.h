#pragma once
#include "small_floats.h"

using __nv_bfloat16 = machine::Small<machine::BFloatFormat>;
using __nv_bfloat162 = machine::Small2<machine::BFloatFormat>;
using __nv_bfloat16_raw = machine::Raw<machine::BFloatFormat>;
using __nv_bfloat162_raw = machine::Raw2<machine::BFloatFormat>;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

MACHINE_SMALL_CONVERSIONS(nv_bfloat16, nv_bfloat162, bfloat16, bfloat162)
inline nv_bfloat162 __lows2bfloat162(nv_bfloat162 a, nv_bfloat162 b) { return {a.x, b.x}; }
inline nv_bfloat162 __highs2bfloat162(nv_bfloat162 a, nv_bfloat162 b) { return {a.y, b.y}; }
