// half and bfloat16: computed in float and rounded once, to nearest, ties to even.
//
// A float has more than twice their digits, so rounding twice (to float, then to 16 bits) gives the same as rounding
// once for + - * / and the square root (Figueroa 1995). A fused multiply-add goes through a double.
#pragma once
#include "cuda_runtime.h"

namespace machine {

struct HalfFormat {                                         // 1 sign, 5 exponent, 10 fraction bits
    static constexpr char kind = 'h';
    static float widen(uint16_t bits) {
        uint32_t sign = uint32_t(bits & 0x8000) << 16, rest = uint32_t(bits & 0x7fff) << 13;
        if ((bits & 0x7c00) == 0x7c00)
            return machine_bits<float>(sign | 0x7f800000 | rest);                // infinity, NaN
        return machine_bits<float>(sign | machine_bits<uint32_t>(machine_bits<float>(rest) * 0x1p112f));
    }
    static uint16_t narrow(float x) {
        uint32_t bits = machine_bits<uint32_t>(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
        if (size > 0x7f800000) return 0x7fff;                                    // NaN
        if (size >= 0x477ff000) return uint16_t(sign | 0x7c00);                  // 65520 and more: infinity
        if (size < 0x38800000)                                                   // below 2^-14: multiples of 2^-24,
            return uint16_t(sign | (machine_bits<uint32_t>(machine_bits<float>(size) + 0.5f) - 0x3f000000));
        return uint16_t(sign | (((size + 0xfff + (size >> 13 & 1)) >> 13) - (112 << 10)));
    }
};

struct BFloatFormat {                                       // the upper half of a float
    static constexpr char kind = 'B';
    static float widen(uint16_t bits) { return machine_bits<float>(uint32_t(bits) << 16); }
    static uint16_t narrow(float x) {
        uint32_t bits = machine_bits<uint32_t>(x);
        if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
        return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
};

// To float, but an inexact result becomes its odd neighbour: so a second rounding, to fewer digits, is still right.
inline float to_odd(double x) {
    float nearest = float(x);
    if (double(nearest) == x || std::isnan(x) || std::isinf(nearest) || (machine_bits<uint32_t>(nearest) & 1))
        return nearest;
    return std::nextafter(nearest, x > nearest ? INFINITY : -INFINITY);
}

template<class Format> struct Small {
    uint16_t bits;
    Small() = default;
    Small(float x) : bits(Format::narrow(x)) {}
    Small(double x) : bits(Format::narrow(to_odd(x))) {}
    template<class I, class = std::enable_if_t<std::is_integral_v<I>>> Small(I x) : Small(double(x)) {}
    template<class Other> explicit Small(Small<Other> x) : Small(float(x)) {}
    operator float() const { return Format::widen(bits); }
    Small& operator+=(Small b) { return *this = *this + b; }
    Small& operator-=(Small b) { return *this = *this - b; }
    Small& operator*=(Small b) { return *this = *this * b; }
    Small& operator/=(Small b) { return *this = *this / b; }
    friend Small operator+(Small a, Small b) { return float(a) + float(b); }
    friend Small operator-(Small a, Small b) { return float(a) - float(b); }
    friend Small operator*(Small a, Small b) { return float(a) * float(b); }
    friend Small operator/(Small a, Small b) { return float(a) / float(b); }
    friend Small operator-(Small a) { return from_bits(a.bits ^ 0x8000); }
    friend bool operator==(Small a, Small b) { return float(a) == float(b); }
    friend bool operator!=(Small a, Small b) { return float(a) != float(b); }
    friend bool operator<(Small a, Small b) { return float(a) < float(b); }
    friend bool operator>(Small a, Small b) { return float(a) > float(b); }
    friend bool operator<=(Small a, Small b) { return float(a) <= float(b); }
    friend bool operator>=(Small a, Small b) { return float(a) >= float(b); }
    static Small from_bits(unsigned bits) { Small x; x.bits = uint16_t(bits); return x; }
};
template<class Format> struct Scalar<Small<Format>> {
    static constexpr char kind = Format::kind;
    static constexpr size_t size = 2;
};

template<class Format> struct alignas(4) Small2 {
    using One = Small<Format>;
    One x, y;
    Small2() = default;
    Small2(One x, One y) : x(x), y(y) {}
    Small2& operator+=(Small2 b) { return *this = *this + b; }
    Small2& operator-=(Small2 b) { return *this = *this - b; }
    Small2& operator*=(Small2 b) { return *this = *this * b; }
    friend Small2 operator+(Small2 a, Small2 b) { return {a.x + b.x, a.y + b.y}; }
    friend Small2 operator-(Small2 a, Small2 b) { return {a.x - b.x, a.y - b.y}; }
    friend Small2 operator*(Small2 a, Small2 b) { return {a.x * b.x, a.y * b.y}; }
    friend Small2 operator/(Small2 a, Small2 b) { return {a.x / b.x, a.y / b.y}; }
    friend Small2 operator-(Small2 a) { return {-a.x, -a.y}; }
    friend bool operator==(Small2 a, Small2 b) { return a.x == b.x && a.y == b.y; }
};
template<class Format> struct Scalar<Small2<Format>> : Scalar<Small<Format>> {};

}  // namespace machine

// ------------------------------------------------------------------ functions that both formats share, by CUDA's names

#define MACHINE_ONE template<class F> inline machine::Small<F>
#define MACHINE_TWO template<class F> inline machine::Small2<F>
#define MACHINE_S machine::Small<F>
#define MACHINE_S2 machine::Small2<F>

MACHINE_ONE __hadd(MACHINE_S a, MACHINE_S b) { return a + b; }
MACHINE_ONE __hsub(MACHINE_S a, MACHINE_S b) { return a - b; }
MACHINE_ONE __hmul(MACHINE_S a, MACHINE_S b) { return a * b; }
MACHINE_ONE __hdiv(MACHINE_S a, MACHINE_S b) { return a / b; }
MACHINE_ONE __hneg(MACHINE_S a) { return -a; }
MACHINE_ONE __habs(MACHINE_S a) { return MACHINE_S::from_bits(a.bits & 0x7fff); }
MACHINE_ONE __hfma(MACHINE_S a, MACHINE_S b, MACHINE_S c) {
    return double(float(a)) * double(float(b)) + double(float(c));
}
MACHINE_ONE __hmax(MACHINE_S a, MACHINE_S b) { return std::fmax(float(a), float(b)); }
MACHINE_ONE __hmin(MACHINE_S a, MACHINE_S b) { return std::fmin(float(a), float(b)); }
template<class F> inline bool __heq(MACHINE_S a, MACHINE_S b) { return a == b; }
template<class F> inline bool __hne(MACHINE_S a, MACHINE_S b) { return a != b; }
template<class F> inline bool __hlt(MACHINE_S a, MACHINE_S b) { return a < b; }
template<class F> inline bool __hle(MACHINE_S a, MACHINE_S b) { return a <= b; }
template<class F> inline bool __hgt(MACHINE_S a, MACHINE_S b) { return a > b; }
template<class F> inline bool __hge(MACHINE_S a, MACHINE_S b) { return a >= b; }
template<class F> inline bool __hisnan(MACHINE_S a) { return std::isnan(float(a)); }
template<class F> inline int __hisinf(MACHINE_S a) { return std::isinf(float(a)) ? (float(a) < 0 ? -1 : 1) : 0; }

#define MACHINE_SMALL_FUNCTION(name, expression)                                                                    \
    MACHINE_ONE h##name(MACHINE_S a) { double x = float(a); return double(expression); }                            \
    MACHINE_TWO h2##name(MACHINE_S2 a) { return {h##name(a.x), h##name(a.y)}; }
MACHINE_SMALL_FUNCTION(exp, std::exp(x))
MACHINE_SMALL_FUNCTION(exp2, std::exp2(x))
MACHINE_SMALL_FUNCTION(exp10, std::pow(10.0, x))
MACHINE_SMALL_FUNCTION(log, std::log(x))
MACHINE_SMALL_FUNCTION(log2, std::log2(x))
MACHINE_SMALL_FUNCTION(log10, std::log10(x))
MACHINE_SMALL_FUNCTION(sqrt, std::sqrt(x))
MACHINE_SMALL_FUNCTION(rsqrt, 1 / std::sqrt(x))
MACHINE_SMALL_FUNCTION(rcp, 1 / x)
MACHINE_SMALL_FUNCTION(sin, std::sin(x))
MACHINE_SMALL_FUNCTION(cos, std::cos(x))
MACHINE_SMALL_FUNCTION(tanh, std::tanh(x))
MACHINE_SMALL_FUNCTION(floor, std::floor(x))
MACHINE_SMALL_FUNCTION(ceil, std::ceil(x))
MACHINE_SMALL_FUNCTION(rint, std::nearbyint(x))
MACHINE_SMALL_FUNCTION(trunc, std::trunc(x))

MACHINE_TWO __hadd2(MACHINE_S2 a, MACHINE_S2 b) { return a + b; }
MACHINE_TWO __hsub2(MACHINE_S2 a, MACHINE_S2 b) { return a - b; }
MACHINE_TWO __hmul2(MACHINE_S2 a, MACHINE_S2 b) { return a * b; }
MACHINE_TWO __h2div(MACHINE_S2 a, MACHINE_S2 b) { return a / b; }
MACHINE_TWO __hneg2(MACHINE_S2 a) { return -a; }
MACHINE_TWO __habs2(MACHINE_S2 a) { return {__habs(a.x), __habs(a.y)}; }
MACHINE_TWO __hfma2(MACHINE_S2 a, MACHINE_S2 b, MACHINE_S2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
MACHINE_TWO __hmax2(MACHINE_S2 a, MACHINE_S2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }
MACHINE_TWO __hmin2(MACHINE_S2 a, MACHINE_S2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }
MACHINE_TWO __lowhigh2highlow(MACHINE_S2 a) { return {a.y, a.x}; }
MACHINE_TWO __lows2half2(MACHINE_S2 a, MACHINE_S2 b) { return {a.x, b.x}; }
MACHINE_TWO __highs2half2(MACHINE_S2 a, MACHINE_S2 b) { return {a.y, b.y}; }
template<class F> inline float __low2float(MACHINE_S2 a) { return a.x; }
template<class F> inline float __high2float(MACHINE_S2 a) { return a.y; }
