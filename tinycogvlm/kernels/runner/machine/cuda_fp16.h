#pragma once
#include "small_floats.h"

using __half = machine::Small<machine::HalfFormat>;
using __half2 = machine::Small2<machine::HalfFormat>;
using half = __half;
using half2 = __half2;

inline half __float2half(float x) { return x; }
inline half __float2half_rn(float x) { return x; }
inline half __double2half(double x) { return x; }
inline half __int2half_rn(int x) { return x; }
inline half __uint2half_rn(unsigned x) { return x; }
inline float __half2float(half x) { return x; }
inline int __half2int_rn(half x) { return __float2int_rn(x); }
inline int __half2int_rz(half x) { return __float2int_rz(x); }
inline unsigned short __half_as_ushort(half x) { return x.bits; }
inline short __half_as_short(half x) { return short(x.bits); }
inline half __ushort_as_half(unsigned short bits) { return half::from_bits(bits); }
inline half __short_as_half(short bits) { return half::from_bits(bits); }

inline half2 make_half2(half x, half y) { return {x, y}; }
inline half2 __halves2half2(half x, half y) { return {x, y}; }
inline half2 __half2half2(half x) { return {x, x}; }
inline half2 __float2half2_rn(float x) { return {half(x), half(x)}; }
inline half2 __floats2half2_rn(float x, float y) { return {half(x), half(y)}; }
inline half2 __float22half2_rn(float2 v) { return {half(v.x), half(v.y)}; }
inline float2 __half22float2(half2 v) { return {v.x, v.y}; }
inline half __low2half(half2 v) { return v.x; }
inline half __high2half(half2 v) { return v.y; }
