// For GPUs: what C++ declares in headers such as <cmath>, <cstdint> and <limits>, and NVRTC, CuPy's compiler, does not.
// gpu.py includes it before each kernel, and instead of these headers. The CPU has their own, but takes no other names.
#pragma once

using int8_t = signed char;
using int16_t = short;
using int32_t = int;
using int64_t = decltype((char*)0 - (char*)0);              // long, where that has 64 bits
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned;
using uint64_t = decltype(sizeof(0));
using intptr_t = int64_t;
using uintptr_t = uint64_t;
using ushort = unsigned short;
using uint = unsigned;
using ulong = unsigned long;

#define INFINITY __builtin_bit_cast(float, 0x7f800000)
#define NAN __builtin_bit_cast(float, 0x7fffffff)
#define HUGE_VALF INFINITY
#define HUGE_VAL ((double)INFINITY)

#define M_E 2.7182818284590452354
#define M_LOG2E 1.4426950408889634074
#define M_LOG10E 0.43429448190325182765
#define M_LN2 0.69314718055994530942
#define M_LN10 2.30258509299404568402
#define M_PI 3.14159265358979323846
#define M_PI_2 1.57079632679489661923
#define M_PI_4 0.78539816339744830962
#define M_1_PI 0.31830988618379067154
#define M_2_PI 0.63661977236758134308
#define M_2_SQRTPI 1.12837916709551257390
#define M_SQRT2 1.41421356237309504880
#define M_SQRT1_2 0.70710678118654752440

#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.192092896e-07f
#define FLT_DIG 6
#define FLT_MANT_DIG 24
#define FLT_MAX_EXP 128
#define DBL_MAX 1.7976931348623157e+308
#define DBL_MIN 2.2250738585072014e-308
#define DBL_EPSILON 2.2204460492503131e-16
#define DBL_DIG 15
#define DBL_MANT_DIG 53
#define DBL_MAX_EXP 1024

#define CHAR_BIT 8
#define SCHAR_MIN (-128)
#define SCHAR_MAX 127
#define UCHAR_MAX 255
#define CHAR_MIN SCHAR_MIN
#define CHAR_MAX SCHAR_MAX
#define SHRT_MIN (-32768)
#define SHRT_MAX 32767
#define USHRT_MAX 65535
#define INT_MIN (-2147483647 - 1)
#define INT_MAX 2147483647
#define UINT_MAX 4294967295u
#define LONG_MIN (-9223372036854775807l - 1)
#define LONG_MAX 9223372036854775807l
#define ULONG_MAX 18446744073709551615ul
#define LLONG_MIN (-9223372036854775807ll - 1)
#define LLONG_MAX 9223372036854775807ll
#define ULLONG_MAX 18446744073709551615ull
#define INT8_MIN SCHAR_MIN
#define INT8_MAX SCHAR_MAX
#define UINT8_MAX UCHAR_MAX
#define INT16_MIN SHRT_MIN
#define INT16_MAX SHRT_MAX
#define UINT16_MAX USHRT_MAX
#define INT32_MIN INT_MIN
#define INT32_MAX INT_MAX
#define UINT32_MAX UINT_MAX
#define INT64_MIN LLONG_MIN
#define INT64_MAX LLONG_MAX
#define UINT64_MAX ULLONG_MAX
#define SIZE_MAX ULONG_MAX

#define offsetof(type, member) ((size_t)&((type*)0)->member)

// Of 64 bits NVRTC has atomics for (unsigned) long long alone.
#define PRELUDE_ATOMIC(T, name)                                                                                     \
    inline __device__ T name(T* p, T value) { return name((long T*)p, (long T)value); }
#define PRELUDE_ATOMICS(T, scope)                                                                                   \
    PRELUDE_ATOMIC(T, atomicMin##scope) PRELUDE_ATOMIC(T, atomicMax##scope) PRELUDE_ATOMIC(T, atomicAnd##scope)      \
    PRELUDE_ATOMIC(T, atomicOr##scope) PRELUDE_ATOMIC(T, atomicXor##scope)
#define PRELUDE_ATOMICS_OF(scope)                                                                                   \
    PRELUDE_ATOMICS(long, scope) PRELUDE_ATOMICS(unsigned long, scope)                                              \
    PRELUDE_ATOMIC(unsigned long, atomicAdd##scope) PRELUDE_ATOMIC(unsigned long, atomicExch##scope)                \
    inline __device__ unsigned long atomicCAS##scope(unsigned long* p, unsigned long compare, unsigned long value) {\
        return atomicCAS##scope((unsigned long long*)p, (unsigned long long)compare, (unsigned long long)value);    \
    }
#ifndef _WIN64                                              // where long has 32 bits
PRELUDE_ATOMICS_OF() PRELUDE_ATOMICS_OF(_block) PRELUDE_ATOMICS_OF(_system)
#endif

namespace std {

using ::size_t; using ::ptrdiff_t;
using ::int8_t; using ::int16_t; using ::int32_t; using ::int64_t;
using ::uint8_t; using ::uint16_t; using ::uint32_t; using ::uint64_t;
using ::intptr_t; using ::uintptr_t;

template<class T, T v> struct integral_constant { static constexpr T value = v; };
using true_type = integral_constant<bool, true>;
using false_type = integral_constant<bool, false>;
template<class A, class B> struct is_same : false_type {};
template<class A> struct is_same<A, A> : true_type {};
template<class A, class B> inline constexpr bool is_same_v = is_same<A, B>::value;
template<bool condition, class T = void> struct enable_if {};
template<class T> struct enable_if<true, T> { using type = T; };
template<bool condition, class T = void> using enable_if_t = typename enable_if<condition, T>::type;
template<bool condition, class A, class B> struct conditional { using type = A; };
template<class A, class B> struct conditional<false, A, B> { using type = B; };
template<bool condition, class A, class B> using conditional_t = typename conditional<condition, A, B>::type;
template<class T> struct remove_const { using type = T; };
template<class T> struct remove_const<const T> { using type = T; };
template<class T> using remove_const_t = typename remove_const<T>::type;
template<class T> struct remove_reference { using type = T; };
template<class T> struct remove_reference<T&> { using type = T; };
template<class T> struct remove_reference<T&&> { using type = T; };
template<class T> using remove_reference_t = typename remove_reference<T>::type;
template<class T> struct is_pointer : false_type {};
template<class T> struct is_pointer<T*> : true_type {};
template<class T> inline constexpr bool is_pointer_v = is_pointer<T>::value;

template<class T> struct is_floating_point : false_type {};
template<> struct is_floating_point<float> : true_type {};
template<> struct is_floating_point<double> : true_type {};
template<class T> inline constexpr bool is_floating_point_v = is_floating_point<remove_const_t<T>>::value;
template<class T> struct is_integral : false_type {};
#define PRELUDE_INTEGER(T) template<> struct is_integral<T> : true_type {};
PRELUDE_INTEGER(bool) PRELUDE_INTEGER(char) PRELUDE_INTEGER(signed char) PRELUDE_INTEGER(unsigned char)
PRELUDE_INTEGER(short) PRELUDE_INTEGER(unsigned short) PRELUDE_INTEGER(int) PRELUDE_INTEGER(unsigned)
PRELUDE_INTEGER(long) PRELUDE_INTEGER(unsigned long) PRELUDE_INTEGER(long long) PRELUDE_INTEGER(unsigned long long)
#undef PRELUDE_INTEGER
template<class T> inline constexpr bool is_integral_v = is_integral<remove_const_t<T>>::value;

template<class T> __device__ constexpr const T& min(const T& a, const T& b) { return b < a ? b : a; }
template<class T> __device__ constexpr const T& max(const T& a, const T& b) { return a < b ? b : a; }
template<class T> __device__ constexpr void swap(T& a, T& b) { T t = a; a = b; b = t; }

template<class T> struct numeric_limits {};
#define PRELUDE_LIMITS(T, least, most)                                                                              \
    template<> struct numeric_limits<T> {                                                                           \
        static __device__ constexpr T min() { return least; }                                                       \
        static __device__ constexpr T lowest() { return least; }                                                    \
        static __device__ constexpr T max() { return most; }                                                        \
    };
PRELUDE_LIMITS(char, CHAR_MIN, CHAR_MAX) PRELUDE_LIMITS(signed char, SCHAR_MIN, SCHAR_MAX)
PRELUDE_LIMITS(unsigned char, 0, UCHAR_MAX) PRELUDE_LIMITS(short, SHRT_MIN, SHRT_MAX)
PRELUDE_LIMITS(unsigned short, 0, USHRT_MAX) PRELUDE_LIMITS(int, INT_MIN, INT_MAX)
PRELUDE_LIMITS(unsigned, 0, UINT_MAX) PRELUDE_LIMITS(long, LONG_MIN, LONG_MAX)
PRELUDE_LIMITS(unsigned long, 0, ULONG_MAX) PRELUDE_LIMITS(long long, LLONG_MIN, LLONG_MAX)
PRELUDE_LIMITS(unsigned long long, 0, ULLONG_MAX)
#undef PRELUDE_LIMITS
#define PRELUDE_LIMITS(T, least, most, step)                                                                        \
    template<> struct numeric_limits<T> {                                                                           \
        static __device__ constexpr T min() { return least; }                                                       \
        static __device__ constexpr T lowest() { return -most; }                                                    \
        static __device__ constexpr T max() { return most; }                                                        \
        static __device__ constexpr T epsilon() { return step; }                                                    \
        static __device__ constexpr T infinity() { return INFINITY; }                                               \
        static __device__ constexpr T quiet_NaN() { return NAN; }                                                   \
    };
PRELUDE_LIMITS(float, FLT_MIN, FLT_MAX, FLT_EPSILON) PRELUDE_LIMITS(double, DBL_MIN, DBL_MAX, DBL_EPSILON)
#undef PRELUDE_LIMITS

}  // namespace std

// Of integers, as C++ has it: as of a double.
#define PRELUDE_OF_INTEGERS(name, R)                                                                                \
    template<class T> __device__ std::enable_if_t<std::is_integral_v<T>, R> name(T x) { return name((double)x); }
#define PRELUDE_OF_INTEGERS_3(a, b, c)                                                                              \
    PRELUDE_OF_INTEGERS(a, double) PRELUDE_OF_INTEGERS(b, double) PRELUDE_OF_INTEGERS(c, double)
PRELUDE_OF_INTEGERS_3(sqrt, cbrt, exp) PRELUDE_OF_INTEGERS_3(exp2, expm1, log) PRELUDE_OF_INTEGERS_3(log2, log10, log1p)
PRELUDE_OF_INTEGERS_3(sin, cos, tan) PRELUDE_OF_INTEGERS_3(asin, acos, atan) PRELUDE_OF_INTEGERS_3(sinh, cosh, tanh)
PRELUDE_OF_INTEGERS_3(erf, erfc, tgamma) PRELUDE_OF_INTEGERS_3(floor, ceil, trunc) PRELUDE_OF_INTEGERS_3(round, rint, fabs)
PRELUDE_OF_INTEGERS(isnan, bool) PRELUDE_OF_INTEGERS(isinf, bool) PRELUDE_OF_INTEGERS(isfinite, bool)
inline __device__ double pow(float x, double y) { return pow((double)x, y); }
inline __device__ double pow(double x, float y) { return pow(x, (double)y); }

namespace std {

using ::abs; using ::fabs; using ::sqrt; using ::cbrt; using ::hypot; using ::pow;
using ::exp; using ::exp2; using ::expm1; using ::log; using ::log2; using ::log10; using ::log1p;
using ::sin; using ::cos; using ::tan; using ::asin; using ::acos; using ::atan; using ::atan2;
using ::sinh; using ::cosh; using ::tanh; using ::asinh; using ::acosh; using ::atanh;
using ::erf; using ::erfc; using ::tgamma; using ::lgamma;
using ::floor; using ::ceil; using ::trunc; using ::round; using ::rint; using ::nearbyint;
using ::fmin; using ::fmax; using ::fdim; using ::fmod; using ::remainder; using ::fma; using ::copysign;
using ::isnan; using ::isinf; using ::isfinite; using ::signbit;
using ::memcpy; using ::memset; using ::printf;

}  // namespace std
