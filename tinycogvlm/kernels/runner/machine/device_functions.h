// Functions of CUDA C that C++ does not have. The fast and approximate ones are exact here.
#pragma once
#include "machine.h"
#include "vector_types.h"

using std::abs;
using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;

// -------------------------------------------------------------------------------------------------- mathematics

// As for a GPU: of integers both are converted, as by an operator; of an integer and a float none is chosen.
#define MACHINE_MIN_MAX(A, B, T)                                                                                    \
    inline T max(A a, B b) { return (T)a < (T)b ? (T)b : (T)a; }                                                    \
    inline T min(A a, B b) { return (T)b < (T)a ? (T)b : (T)a; }
#define MACHINE_MIN_MAX_OF(S, U)                                                                                    \
    MACHINE_MIN_MAX(S, S, S) MACHINE_MIN_MAX(U, U, U) MACHINE_MIN_MAX(S, U, U) MACHINE_MIN_MAX(U, S, U)
MACHINE_MIN_MAX_OF(int, unsigned)
MACHINE_MIN_MAX_OF(long, unsigned long)
MACHINE_MIN_MAX_OF(long long, unsigned long long)
#define MACHINE_MIN_MAX_FLOAT(A, B, T)                                                                              \
    inline T max(A a, B b) { return std::fmax(T(a), T(b)); }                                                        \
    inline T min(A a, B b) { return std::fmin(T(a), T(b)); }
MACHINE_MIN_MAX_FLOAT(float, float, float) MACHINE_MIN_MAX_FLOAT(double, double, double)
MACHINE_MIN_MAX_FLOAT(float, double, double) MACHINE_MIN_MAX_FLOAT(double, float, double)
inline double pow(double x, int n) { return std::pow(x, n); }
inline float pow(float x, int n) { return float(std::pow(double(x), n)); }
double pow(int, int) = delete;                              // as on a GPU, where it is ambiguous

inline unsigned umin(unsigned a, unsigned b) { return min(a, b); }
inline unsigned umax(unsigned a, unsigned b) { return max(a, b); }
inline long long llmin(long long a, long long b) { return min(a, b); }
inline long long llmax(long long a, long long b) { return max(a, b); }
inline unsigned long long ullmin(unsigned long long a, unsigned long long b) { return min(a, b); }
inline unsigned long long ullmax(unsigned long long a, unsigned long long b) { return max(a, b); }

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
inline double fdivide(double a, double b) { return a / b; }
inline void sincos(float x, float* s, float* c) { *s = std::sin(x), *c = std::cos(x); }
inline void sincospi(float x, float* s, float* c) { *s = sinpif(x), *c = cospif(x); }
inline double cyl_bessel_i0(double x) { return std::cyl_bessel_i(0.0, std::fabs(x)); }
inline double cyl_bessel_i1(double x) { return std::copysign(std::cyl_bessel_i(1.0, std::fabs(x)), x); }
inline double erfcx(double x) {                             // exp(x^2) erfc(x); for large x a continued fraction
    if (x < 20) return std::exp(x * x) * std::erfc(x);
    double fraction = x;
    for (int k = 20; k > 0; k--) fraction = x + k / 2.0 / fraction;
    return 0.56418958354775628695 / fraction;
}
inline double erfcinv(double y) {                           // Newton's method, on log erfc, which is nearly a parabola
    if (!(y > 0 && y < 2)) return y == 0 ? HUGE_VAL : y == 2 ? -HUGE_VAL : NAN;
    if (y > 1) return -erfcinv(2 - y);
    double x = y > 0.5 ? (1 - y) * 0.88622692545275801365 : std::sqrt(-std::log(y));
    for (int i = 0; i < 30; i++)
        x += std::erfc(x) * (std::log(std::erfc(x)) - std::log(y)) * 0.88622692545275801365 * std::exp(x * x);
    return x;
}
inline double erfinv(double y) {
    double x = std::fabs(y) < 0.5 ? y * 0.88622692545275801365 : std::copysign(erfcinv(1 - std::fabs(y)), y);
    for (int i = 0; i < 8 && std::fabs(y) < 0.5; i++)
        x -= (std::erf(x) - y) * 0.88622692545275801365 * std::exp(x * x);
    return x;
}
inline double normcdfinv(double y) { return -1.41421356237309504880 * erfcinv(2 * y); }

template<class T> double machine_norm(int n, const T* x) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum = std::hypot(sum, double(x[i]));
    return sum;
}
inline double norm(int n, const double* x) { return machine_norm(n, x); }
inline float normf(int n, const float* x) { return float(machine_norm(n, x)); }
inline double rnorm(int n, const double* x) { return 1 / machine_norm(n, x); }
inline float rnormf(int n, const float* x) { return float(1 / machine_norm(n, x)); }
inline double norm3d(double a, double b, double c) { return std::hypot(a, b, c); }
inline double norm4d(double a, double b, double c, double d) { return std::hypot(std::hypot(a, b), std::hypot(c, d)); }
inline double rnorm3d(double a, double b, double c) { return 1 / norm3d(a, b, c); }
inline double rnorm4d(double a, double b, double c, double d) { return 1 / norm4d(a, b, c, d); }
inline double rhypot(double a, double b) { return 1 / std::hypot(a, b); }
inline float norm3df(float a, float b, float c) { return float(norm3d(a, b, c)); }
inline float norm4df(float a, float b, float c, float d) { return float(norm4d(a, b, c, d)); }
inline float rnorm3df(float a, float b, float c) { return float(rnorm3d(a, b, c)); }
inline float rnorm4df(float a, float b, float c, float d) { return float(rnorm4d(a, b, c, d)); }
inline float rhypotf(float a, float b) { return float(rhypot(a, b)); }
inline float cyl_bessel_i0f(float x) { return float(cyl_bessel_i0(x)); }
inline float cyl_bessel_i1f(float x) { return float(cyl_bessel_i1(x)); }
inline float erfcxf(float x) { return float(erfcx(x)); }
inline float erfcinvf(float x) { return float(erfcinv(x)); }
inline float erfinvf(float x) { return float(erfinv(x)); }
inline float normcdfinvf(float x) { return float(normcdfinv(x)); }

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
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }         // NaN becomes 0
inline float __fabsf(float x) { return std::fabs(x); }

// ---------------------------------------------------------------------------------------------- bits of integers

template<class To, class From> inline To machine_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

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
inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
inline int __hadd(int a, int b) { return int(((long long)a + b) >> 1); }
inline int __rhadd(int a, int b) { return int(((long long)a + b + 1) >> 1); }
inline unsigned __uhadd(unsigned a, unsigned b) { return unsigned(((unsigned long long)a + b) >> 1); }
inline unsigned __urhadd(unsigned a, unsigned b) { return unsigned(((unsigned long long)a + b + 1) >> 1); }
inline unsigned __usad(unsigned a, unsigned b, unsigned c) { return c + (a < b ? b - a : a - b); }
inline unsigned __sad(int a, int b, unsigned c) { return c + unsigned(std::llabs((long long)a - b)); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return unsigned((((unsigned long long)high << 32 | low) << (by & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return unsigned(((unsigned long long)high << 32 | low) >> (by & 31));
}
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned by) {
    return by >= 32 ? low : __funnelshift_l(low, high, by);
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned by) {
    return by >= 32 ? high : __funnelshift_r(low, high, by);
}
inline unsigned __fns(unsigned mask, unsigned base, int offset) {      // the |offset|-th set bit from `base` on
    int step = offset < 0 ? -1 : 1, left = offset == 0 ? 1 : std::abs(offset);
    for (int bit = int(base); bit >= 0 && bit < 32; bit += step) {
        left -= mask >> bit & 1;
        if (left == 0) return bit;
        if (offset == 0) break;
    }
    return 0xffffffff;
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

inline int __dp4a(char4 a, char4 b, int c) { return __dp4a(machine_bits<int>(a), machine_bits<int>(b), c); }
inline unsigned __dp4a(uchar4 a, uchar4 b, unsigned c) {
    return __dp4a(machine_bits<unsigned>(a), machine_bits<unsigned>(b), c);
}
// Two halves of a with the lower or upper two bytes of b.
template<class A, class B> inline int machine_dp2a(unsigned a, unsigned b, int from, int c) {
    for (int i = 0; i < 2; i++) c += int(A(a >> 16 * i)) * int(B(b >> 8 * (from + i)));
    return c;
}
#define MACHINE_DP2A(name, from)                                                                                    \
    inline int name(int a, int b, int c) { return machine_dp2a<short, signed char>(a, b, from, c); }                \
    inline unsigned name(unsigned a, unsigned b, unsigned c) {                                                      \
        return machine_dp2a<unsigned short, unsigned char>(a, b, from, c);                                          \
    }                                                                                                               \
    inline int name(short2 a, char4 b, int c) { return name(machine_bits<int>(a), machine_bits<int>(b), c); }       \
    inline unsigned name(ushort2 a, uchar4 b, unsigned c) {                                                         \
        return name(machine_bits<unsigned>(a), machine_bits<unsigned>(b), c);                                       \
    }
MACHINE_DP2A(__dp2a_lo, 0)
MACHINE_DP2A(__dp2a_hi, 2)

// ---------------------------------------------------------------------------------------------------- conversions

inline int __float_as_int(float x) { return machine_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return machine_bits<unsigned>(x); }
inline float __int_as_float(int x) { return machine_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return machine_bits<float>(x); }
inline long long __double_as_longlong(double x) { return machine_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return machine_bits<double>(x); }

namespace machine {

template<class T> T saturated(double x) {                   // a GPU takes NaN as 0 and stops at the ends of the range
    if (std::isnan(x)) return 0;
    if (x <= double(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
    if (x >= double(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
    return T(x);
}

}  // namespace machine

inline int __double2hiint(double x) { return int(machine_bits<long long>(x) >> 32); }
inline int __double2loint(double x) { return int(machine_bits<long long>(x)); }
inline double __hiloint2double(int high, int low) {
    return machine_bits<double>((unsigned long long)unsigned(high) << 32 | unsigned(low));
}
