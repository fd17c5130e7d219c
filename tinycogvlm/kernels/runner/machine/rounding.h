// Arithmetic and conversions that round in a direction: _rn to nearest, _rz towards zero, _rd down, _ru up.
#pragma once
#include "device_functions.h"

namespace machine {

constexpr unsigned NEAREST = 0, DOWN = 0x2000, UP = 0x4000, ZERO = 0x6000;         // as in the CPU's register MXCSR

// `f` of volatile arguments, which the compiler computes neither beforehand nor elsewhere.
template<unsigned mode, class F, class... A> auto rounded(F f, A... arguments) {
    unsigned before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr((before & ~ZERO) | mode);
    volatile auto result = f(((volatile A&)arguments)...);
    __builtin_ia32_ldmxcsr(before);
    return std::remove_volatile_t<decltype(result)>(result);
}

template<class T> T integer_of(double x, unsigned mode) {
    return saturated<T>(mode == NEAREST ? std::nearbyint(x) : mode == ZERO ? std::trunc(x) :
                        mode == DOWN ? std::floor(x) : std::ceil(x));
}

}  // namespace machine

#define MACHINE_MODES(define, ...)                                                                                  \
    define(rn, machine::NEAREST, __VA_ARGS__) define(rz, machine::ZERO, __VA_ARGS__)                                \
    define(rd, machine::DOWN, __VA_ARGS__) define(ru, machine::UP, __VA_ARGS__)

#define MACHINE_ONE_ARGUMENT(suffix, mode, T, name, expression)                                                     \
    inline T name##_##suffix(T x) { return machine::rounded<mode>([](T a) -> T { return expression; }, x); }
#define MACHINE_TWO_ARGUMENTS(suffix, mode, T, name, expression)                                                    \
    inline T name##_##suffix(T x, T y) {                                                                            \
        return machine::rounded<mode>([](T a, T b) -> T { return expression; }, x, y);                              \
    }
#define MACHINE_FMA(suffix, mode, T, name)                                                                          \
    inline T name##_##suffix(T x, T y, T z) {                                                                       \
        return machine::rounded<mode>([](T a, T b, T c) -> T { return std::fma(a, b, c); }, x, y, z);               \
    }
#define MACHINE_ROUNDED(T, letter)                                                                                  \
    MACHINE_MODES(MACHINE_TWO_ARGUMENTS, T, __##letter##add, a + b)                                                 \
    MACHINE_MODES(MACHINE_TWO_ARGUMENTS, T, __##letter##sub, a - b)                                                 \
    MACHINE_MODES(MACHINE_TWO_ARGUMENTS, T, __##letter##mul, a * b)                                                 \
    MACHINE_MODES(MACHINE_TWO_ARGUMENTS, T, __##letter##div, a / b)                                                 \
    MACHINE_MODES(MACHINE_ONE_ARGUMENT, T, __##letter##rcp, 1 / a)                                                  \
    MACHINE_MODES(MACHINE_ONE_ARGUMENT, T, __##letter##sqrt, std::sqrt(a))
MACHINE_ROUNDED(float, f)
MACHINE_ROUNDED(double, d)
MACHINE_MODES(MACHINE_FMA, float, __fmaf)
MACHINE_MODES(MACHINE_FMA, float, __fmaf_ieee)
MACHINE_MODES(MACHINE_FMA, double, __fma)

#define MACHINE_CONVERSION(suffix, mode, From, To, name)                                                            \
    inline To name##_##suffix(From x) { return machine::rounded<mode>([](From a) -> To { return To(a); }, x); }
#define MACHINE_INTEGER(suffix, mode, name, T)                                                                      \
    inline T __float2##name##_##suffix(float x) { return machine::integer_of<T>(x, mode); }                         \
    inline T __double2##name##_##suffix(double x) { return machine::integer_of<T>(x, mode); }
#define MACHINE_OF_INTEGERS(name, T)                                                                                \
    MACHINE_MODES(MACHINE_INTEGER, name, T)                                                                         \
    MACHINE_MODES(MACHINE_CONVERSION, T, float, __##name##2float)
MACHINE_OF_INTEGERS(int, int)
MACHINE_OF_INTEGERS(uint, unsigned)
MACHINE_OF_INTEGERS(ll, long long)
MACHINE_OF_INTEGERS(ull, unsigned long long)
MACHINE_MODES(MACHINE_CONVERSION, double, float, __double2float)
MACHINE_MODES(MACHINE_CONVERSION, long long, double, __ll2double)
MACHINE_MODES(MACHINE_CONVERSION, unsigned long long, double, __ull2double)
inline double __int2double_rn(int x) { return x; }
inline double __uint2double_rn(unsigned x) { return x; }
