// Functions of CUDA C that C++ does not have. The fast and approximate ones are exact here.
#pragma once
#include "machine.h"

using std::abs;

// -------------------------------------------------------------------------------------------------- mathematics

template<class A, class B> using machine_common = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>,
                                                                   std::common_type_t<A, B>>;
template<class A, class B> inline machine_common<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmax(T(a), T(b));
    else return T(a) < T(b) ? T(b) : T(a);
}
template<class A, class B> inline machine_common<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmin(T(a), T(b));
    else return T(b) < T(a) ? T(b) : T(a);
}

inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float rsqrtf(float x) { return float(1 / std::sqrt(double(x))); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline double rcbrt(double x) { return 1 / std::cbrt(x); }
inline float rcbrtf(float x) { return float(1 / std::cbrt(double(x))); }
inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752440); }
inline float normcdff(float x) { return float(normcdf(double(x))); }
inline float exp10f(float x) { return float(std::pow(10.0, double(x))); }
inline double sinpi(double x) { return std::sin(3.14159265358979323846 * std::fmod(x, 2)); }
inline double cospi(double x) { return std::cos(3.14159265358979323846 * std::fmod(x, 2)); }
inline float sinpif(float x) { return float(sinpi(x)); }
inline float cospif(float x) { return float(cospi(x)); }
inline void sincospi(double x, double* s, double* c) { *s = sinpi(x), *c = cospi(x); }
inline void sincospif(float x, float* s, float* c) { *s = sinpif(x), *c = cospif(x); }
inline float fdividef(float a, float b) { return a / b; }
inline float norm3df(float a, float b, float c) { return float(std::hypot(double(a), double(b), double(c))); }
inline float rhypotf(float a, float b) { return float(1 / std::hypot(double(a), double(b))); }

inline float __expf(float x) { return std::exp(x); }
inline float __exp10f(float x) { return exp10f(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __log10f(float x) { return std::log10(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }
inline float __tanf(float x) { return std::tan(x); }
inline float __tanhf(float x) { return std::tanh(x); }
inline void __sincosf(float x, float* s, float* c) { *s = std::sin(x), *c = std::cos(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }         // NaN becomes 0
inline float __fabsf(float x) { return std::fabs(x); }

// ---------------------------------------------------------------------------------------------- bits of integers

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned long long __brevll(unsigned long long x) {
    unsigned long long y = 0;
    for (int i = 0; i < 64; i++) y = y << 1 | (x >> i & 1);
    return y;
}
inline unsigned __brev(unsigned x) { return unsigned(__brevll(x) >> 32); }
inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline int __mul24(int a, int b) { return int((long long)(a << 8 >> 8) * (b << 8 >> 8)); }
inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffff) * (b & 0xffffff); }
inline unsigned __sad(int a, int b, unsigned c) { return c + unsigned(std::llabs((long long)a - b)); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return unsigned((((unsigned long long)high << 32 | low) << (by & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return unsigned(((unsigned long long)high << 32 | low) >> (by & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    unsigned long long bytes = (unsigned long long)b << 32 | a;
    unsigned y = 0;
    for (int i = 0; i < 4; i++) {
        unsigned which = selector >> 4 * i & 15, byte = unsigned(bytes >> 8 * (which & 7)) & 255;
        y |= (which & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * i;               // the 8 repeats the sign
    }
    return y;
}
template<class A, class B> inline int machine_dp4a(unsigned a, unsigned b, int c) {
    for (int i = 0; i < 4; i++) c += int(A(a >> 8 * i)) * int(B(b >> 8 * i));
    return c;
}
inline int __dp4a(int a, int b, int c) { return machine_dp4a<signed char, signed char>(a, b, c); }
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    return unsigned(machine_dp4a<unsigned char, unsigned char>(a, b, int(c)));
}

// ---------------------------------------------------------------------------------------------------- conversions

template<class To, class From> inline To machine_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline int __float_as_int(float x) { return machine_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return machine_bits<unsigned>(x); }
inline float __int_as_float(int x) { return machine_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return machine_bits<float>(x); }
inline long long __double_as_longlong(double x) { return machine_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return machine_bits<double>(x); }

template<class T> inline T machine_saturate(double x) {      // a GPU takes NaN as 0 and stops at the ends of the range
    if (std::isnan(x)) return 0;
    if (x <= double(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
    if (x >= double(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
    return T(x);
}
#define MACHINE_TO_INTEGERS(name, T)                                                                                \
    inline T __float2##name##_rn(float x) { return machine_saturate<T>(std::nearbyint(double(x))); }                \
    inline T __float2##name##_rz(float x) { return machine_saturate<T>(std::trunc(double(x))); }                    \
    inline T __float2##name##_rd(float x) { return machine_saturate<T>(std::floor(double(x))); }                    \
    inline T __float2##name##_ru(float x) { return machine_saturate<T>(std::ceil(double(x))); }                     \
    inline T __double2##name##_rn(double x) { return machine_saturate<T>(std::nearbyint(x)); }                      \
    inline T __double2##name##_rz(double x) { return machine_saturate<T>(std::trunc(x)); }                          \
    inline float __##name##2float_rn(T x) { return float(x); }                                                      \
    inline double __##name##2double_rn(T x) { return double(x); }
MACHINE_TO_INTEGERS(int, int)
MACHINE_TO_INTEGERS(uint, unsigned)
MACHINE_TO_INTEGERS(ll, long long)
MACHINE_TO_INTEGERS(ull, unsigned long long)
inline float __double2float_rn(double x) { return float(x); }
