// half and bfloat16: computed in float and rounded once, to nearest, ties to even.
//
// A float has more than twice their digits, so rounding twice (to float, then to 16 bits) gives the same as rounding
// once for + - * / and the square root (Figueroa 1995). A fused multiply-add goes through a double.
#pragma once
#include "cuda_runtime.h"

namespace machine {

template<class Format> struct Raw { uint16_t x; };          // __half_raw: the bits
template<class Format> struct alignas(4) Raw2 { uint16_t x, y; };

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
    Small(Raw<Format> raw) : bits(raw.x) {}
    operator float() const { return Format::widen(bits); }
    operator Raw<Format>() const { return {bits}; }
    Small& operator++() { return *this += Small(1.0f); }
    Small& operator--() { return *this -= Small(1.0f); }
    Small operator++(int) { Small before = *this; ++*this; return before; }
    Small operator--(int) { Small before = *this; --*this; return before; }
    friend Small operator+(Small a) { return a; }
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
    Small2(Raw2<Format> raw) : x(One::from_bits(raw.x)), y(One::from_bits(raw.y)) {}
    operator Raw2<Format>() const { return {x.bits, y.bits}; }
    Small2& operator++() { return *this += Small2(1.0f, 1.0f); }
    Small2& operator--() { return *this -= Small2(1.0f, 1.0f); }
    Small2 operator++(int) { Small2 before = *this; ++*this; return before; }
    Small2 operator--(int) { Small2 before = *this; --*this; return before; }
    Small2& operator/=(Small2 b) { return *this = *this / b; }
    Small2& operator+=(Small2 b) { return *this = *this + b; }
    Small2& operator-=(Small2 b) { return *this = *this - b; }
    Small2& operator*=(Small2 b) { return *this = *this * b; }
    friend Small2 operator+(Small2 a, Small2 b) { return {a.x + b.x, a.y + b.y}; }
    friend Small2 operator-(Small2 a, Small2 b) { return {a.x - b.x, a.y - b.y}; }
    friend Small2 operator*(Small2 a, Small2 b) { return {a.x * b.x, a.y * b.y}; }
    friend Small2 operator/(Small2 a, Small2 b) { return {a.x / b.x, a.y / b.y}; }
    friend Small2 operator-(Small2 a) { return {-a.x, -a.y}; }
    friend Small2 operator+(Small2 a) { return a; }
    friend bool operator==(Small2 a, Small2 b) { return a.x == b.x && a.y == b.y; }
    friend bool operator!=(Small2 a, Small2 b) { return a.x != b.x && a.y != b.y; }
    friend bool operator<(Small2 a, Small2 b) { return a.x < b.x && a.y < b.y; }
    friend bool operator>(Small2 a, Small2 b) { return a.x > b.x && a.y > b.y; }
    friend bool operator<=(Small2 a, Small2 b) { return a.x <= b.x && a.y <= b.y; }
    friend bool operator>=(Small2 a, Small2 b) { return a.x >= b.x && a.y >= b.y; }
};
template<class Format> struct Scalar<Small2<Format>> : Scalar<Small<Format>> {};

// x, rounded once: to nearest or in a direction (rounding.h). A long double holds any float, double or long long.
template<class S> S small(long double x, unsigned mode) {
    double nearest = double(x);                             // an inexact double becomes its odd neighbour, as in to_odd
    if (nearest != x && !(machine_bits<uint64_t>(nearest) & 1)) nearest = std::nextafter(nearest, double(x > nearest ? HUGE_VAL : -HUGE_VAL));
    S result(nearest);
    long double got = float(result);
    bool up = mode == UP || (mode == ZERO && x < 0), down = mode == DOWN || (mode == ZERO && x > 0);
    if ((up && got < x) || (down && got > x)) {             // the neighbour: bits count up away from zero
        bool away = up == (x > 0);
        result.bits = uint16_t(result.bits + (away ? 1 : -1));
    }
    return result;
}
template<class S> S saturated_to_1(S x) { return float(x) > 0 ? (float(x) < 1 ? x : S(1.0f)) : S(0.0f); }
template<class S> S relu(S x) { return float(x) < 0 ? S(0.0f) : x; }

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
MACHINE_ONE __hmax_nan(MACHINE_S a, MACHINE_S b) { return std::isnan(float(a)) ? a : std::isnan(float(b)) ? b : __hmax(a, b); }
MACHINE_ONE __hmin_nan(MACHINE_S a, MACHINE_S b) { return std::isnan(float(a)) ? a : std::isnan(float(b)) ? b : __hmin(a, b); }
MACHINE_ONE __hadd_rn(MACHINE_S a, MACHINE_S b) { return a + b; }
MACHINE_ONE __hsub_rn(MACHINE_S a, MACHINE_S b) { return a - b; }
MACHINE_ONE __hmul_rn(MACHINE_S a, MACHINE_S b) { return a * b; }
MACHINE_ONE __hadd_sat(MACHINE_S a, MACHINE_S b) { return machine::saturated_to_1(a + b); }
MACHINE_ONE __hsub_sat(MACHINE_S a, MACHINE_S b) { return machine::saturated_to_1(a - b); }
MACHINE_ONE __hmul_sat(MACHINE_S a, MACHINE_S b) { return machine::saturated_to_1(a * b); }
MACHINE_ONE __hfma_sat(MACHINE_S a, MACHINE_S b, MACHINE_S c) { return machine::saturated_to_1(__hfma(a, b, c)); }
MACHINE_ONE __hfma_relu(MACHINE_S a, MACHINE_S b, MACHINE_S c) { return machine::relu(__hfma(a, b, c)); }

// __heq, and of pairs: __hbeq2 whether both are, __heq2 as 1 or 0 each, __heq2_mask as bits. u: also where one is NaN.
#define MACHINE_COMPARE(name, expression)                                                                           \
    template<class F> inline bool __h##name(MACHINE_S p, MACHINE_S q) { float a = p, b = q; return expression; }    \
    template<class F> inline bool __hb##name##2(MACHINE_S2 p, MACHINE_S2 q) {                                       \
        return __h##name(p.x, q.x) && __h##name(p.y, q.y);                                                          \
    }                                                                                                               \
    MACHINE_TWO __h##name##2(MACHINE_S2 p, MACHINE_S2 q) {                                                          \
        return {float(__h##name(p.x, q.x)), float(__h##name(p.y, q.y))};                                            \
    }                                                                                                               \
    template<class F> inline unsigned __h##name##2_mask(MACHINE_S2 p, MACHINE_S2 q) {                               \
        return __h##name(p.x, q.x) * 0xffffu | __h##name(p.y, q.y) * 0xffff0000u;                                   \
    }
MACHINE_COMPARE(eq, a == b) MACHINE_COMPARE(ne, a < b || a > b) MACHINE_COMPARE(lt, a < b)
MACHINE_COMPARE(le, a <= b) MACHINE_COMPARE(gt, a > b) MACHINE_COMPARE(ge, a >= b)
MACHINE_COMPARE(equ, !(a < b || a > b)) MACHINE_COMPARE(neu, a != b) MACHINE_COMPARE(ltu, !(a >= b))
MACHINE_COMPARE(leu, !(a > b)) MACHINE_COMPARE(gtu, !(a <= b)) MACHINE_COMPARE(geu, !(a < b))
template<class F> void max(MACHINE_S, MACHINE_S) = delete;  // as on a GPU, where they are ambiguous: __hmax, __hmin
template<class F> void min(MACHINE_S, MACHINE_S) = delete;
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
MACHINE_SMALL_FUNCTION(tanh_approx, std::tanh(x))
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
MACHINE_TWO __hisnan2(MACHINE_S2 a) { return {float(__hisnan(a.x)), float(__hisnan(a.y))}; }
MACHINE_TWO __hfma2_sat(MACHINE_S2 a, MACHINE_S2 b, MACHINE_S2 c) {
    return {__hfma_sat(a.x, b.x, c.x), __hfma_sat(a.y, b.y, c.y)};
}
MACHINE_TWO __hfma2_relu(MACHINE_S2 a, MACHINE_S2 b, MACHINE_S2 c) {
    return {__hfma_relu(a.x, b.x, c.x), __hfma_relu(a.y, b.y, c.y)};
}
MACHINE_TWO __hcmadd(MACHINE_S2 a, MACHINE_S2 b, MACHINE_S2 c) {        // complex numbers: a b + c
    return {__hfma(-a.y, b.y, __hfma(a.x, b.x, c.x)), __hfma(a.y, b.x, __hfma(a.x, b.y, c.y))};
}
#define MACHINE_BOTH(name, one)                                                                                     \
    MACHINE_TWO name(MACHINE_S2 a, MACHINE_S2 b) { return {one(a.x, b.x), one(a.y, b.y)}; }
MACHINE_BOTH(__hmax2_nan, __hmax_nan) MACHINE_BOTH(__hmin2_nan, __hmin_nan) MACHINE_BOTH(__hadd2_rn, __hadd_rn)
MACHINE_BOTH(__hsub2_rn, __hsub_rn) MACHINE_BOTH(__hmul2_rn, __hmul_rn) MACHINE_BOTH(__hadd2_sat, __hadd_sat)
MACHINE_BOTH(__hsub2_sat, __hsub_sat) MACHINE_BOTH(__hmul2_sat, __hmul_sat)
MACHINE_TWO __lowhigh2highlow(MACHINE_S2 a) { return {a.y, a.x}; }
template<class F> inline float __low2float(MACHINE_S2 a) { return a.x; }
template<class F> inline float __high2float(MACHINE_S2 a) { return a.y; }

// ------------------------------------------------------------------------------- conversions, by each format's names

#define MACHINE_SMALL_MODE(suffix, mode, S, small_name, T, name)                                                    \
    inline S __##name##2##small_name##_##suffix(T x) { return machine::small<S>(x, mode); }
#define MACHINE_INTEGER_MODE(suffix, mode, S, small_name, T, name)                                                  \
    inline T __##small_name##2##name##_##suffix(S x) { return machine::integer_of<T>(float(x), mode); }
#define MACHINE_SMALL_INTEGER(S, small_name, T, name)                                                               \
    MACHINE_MODES(MACHINE_SMALL_MODE, S, small_name, T, name)                                                       \
    MACHINE_MODES(MACHINE_INTEGER_MODE, S, small_name, T, name)
#define MACHINE_SMALL_CONVERSIONS(S, S2, name, name2)                                                              \
    MACHINE_MODES(MACHINE_SMALL_MODE, S, name, float, float)                                                        \
    MACHINE_SMALL_INTEGER(S, name, short, short) MACHINE_SMALL_INTEGER(S, name, unsigned short, ushort)             \
    MACHINE_SMALL_INTEGER(S, name, int, int) MACHINE_SMALL_INTEGER(S, name, unsigned, uint)                         \
    MACHINE_SMALL_INTEGER(S, name, long long, ll) MACHINE_SMALL_INTEGER(S, name, unsigned long long, ull)           \
    inline signed char __##name##2char_rz(S x) { return machine::integer_of<signed char>(float(x), machine::ZERO); }     \
    inline unsigned char __##name##2uchar_rz(S x) { return machine::integer_of<unsigned char>(float(x), machine::ZERO); } \
    inline S __float2##name(float x) { return x; }                                                                  \
    inline S __double2##name(double x) { return x; }                                                                \
    inline float __##name##2float(S x) { return x; }                                                                \
    inline unsigned short __##name##_as_ushort(S x) { return x.bits; }                                              \
    inline short __##name##_as_short(S x) { return short(x.bits); }                                                 \
    inline S __ushort_as_##name(unsigned short bits) { return S::from_bits(bits); }                                 \
    inline S __short_as_##name(short bits) { return S::from_bits(bits); }                                           \
    inline S2 make_##name2(S x, S y) { return {x, y}; }                                                             \
    inline S2 __halves2##name2(S x, S y) { return {x, y}; }                                                         \
    inline S2 __##name##2##name2(S x) { return {x, x}; }                                                            \
    inline S2 __float2##name2##_rn(float x) { return {S(x), S(x)}; }                                                \
    inline S2 __floats2##name2##_rn(float x, float y) { return {S(x), S(y)}; }                                      \
    inline S2 __float22##name2##_rn(float2 v) { return {S(v.x), S(v.y)}; }                                          \
    inline float2 __##name2##2float2(S2 v) { return {v.x, v.y}; }                                                   \
    inline S __low2##name(S2 v) { return v.x; }                                                                     \
    inline S __high2##name(S2 v) { return v.y; }                                                                    \
    inline S2 __low2##name2(S2 v) { return {v.x, v.x}; }                                                            \
    inline S2 __high2##name2(S2 v) { return {v.y, v.y}; }
