// Four bytes or two halves of a word at once (__vadd4 and the like), and minima and maxima of three.
#pragma once
#include <algorithm>

#include "device_functions.h"

namespace machine {

// f of the parts of several words, side by side in one. T: the type of a part.
template<class T, class F, class... W> unsigned parts(F f, W... words) {
    constexpr int bits = 8 * sizeof(T);
    unsigned result = 0;
    for (int i = 0; i < 32; i += bits)
        result |= unsigned(f((long long)T(words >> i)...) & ((1ll << bits) - 1)) << i;
    return result;
}
template<class T> long long within(long long x) {
    return std::clamp<long long>(x, std::numeric_limits<T>::min(), std::numeric_limits<T>::max());
}
template<class T, class... W> unsigned sum_of_distances(W... words) {
    unsigned sum = 0;
    parts<T>([&](long long a, long long b) { return sum += unsigned(std::llabs(a - b)); }, words...);
    return sum;
}

}  // namespace machine

#define MACHINE_PACKED_ONE(name, T, expression)                                                                     \
    inline unsigned name(unsigned x) { return machine::parts<T>([](long long a) { return expression; }, x); }
#define MACHINE_PACKED(name, T, expression)                                                                         \
    inline unsigned name(unsigned x, unsigned y) {                                                                  \
        return machine::parts<T>([](long long a, long long b) -> long long { return expression; }, x, y);           \
    }
#define MACHINE_COMPARED(name, sign, n, T, operation)                                                               \
    MACHINE_PACKED(__vcmp##name##sign##n, T, -(a operation b)) MACHINE_PACKED(__vset##name##sign##n, T, a operation b)
#define MACHINE_SIGNED_OR_NOT(sign, n, T)                                                                           \
    MACHINE_COMPARED(ge, sign, n, T, >=) MACHINE_COMPARED(gt, sign, n, T, >) MACHINE_COMPARED(le, sign, n, T, <=)   \
    MACHINE_COMPARED(lt, sign, n, T, <)                                                                             \
    MACHINE_PACKED(__vmax##sign##n, T, std::max(a, b)) MACHINE_PACKED(__vmin##sign##n, T, std::min(a, b))           \
    MACHINE_PACKED(__vabsdiff##sign##n, T, std::llabs(a - b))                                                       \
    MACHINE_PACKED(__vavg##sign##n, T, (a + b + (a + b >= 0)) >> 1)                                                 \
    MACHINE_PACKED(__vadd##sign##s##n, T, machine::within<T>(a + b))                                                \
    MACHINE_PACKED(__vsub##sign##s##n, T, machine::within<T>(a - b))                                                \
    inline unsigned __vsad##sign##n(unsigned x, unsigned y) { return machine::sum_of_distances<T>(x, y); }
#define MACHINE_PARTS(n, S, U)                                                                                      \
    MACHINE_SIGNED_OR_NOT(s, n, S) MACHINE_SIGNED_OR_NOT(u, n, U)                                                   \
    MACHINE_COMPARED(eq, , n, U, ==) MACHINE_COMPARED(ne, , n, U, !=)                                               \
    MACHINE_PACKED(__vadd##n, U, a + b) MACHINE_PACKED(__vsub##n, U, a - b)                                         \
    MACHINE_PACKED(__vhaddu##n, U, (a + b) >> 1)                                                                    \
    MACHINE_PACKED_ONE(__vneg##n, S, -a) MACHINE_PACKED_ONE(__vnegss##n, S, machine::within<S>(-a))                 \
    MACHINE_PACKED_ONE(__vabs##n, S, std::llabs(a))                                                                 \
    MACHINE_PACKED_ONE(__vabsss##n, S, machine::within<S>(std::llabs(a)))
MACHINE_PARTS(2, short, uint16_t)
MACHINE_PARTS(4, signed char, uint8_t)

// ------------------------------------------------------------------ max(a + b, c), max(a, b, c), and with 0 (relu)

#define MACHINE_OF_PARTS(W, T, expression, ...)                                                               \
    { return W(machine::parts<T>([](long long a, long long b, long long c) -> long long { return expression; },     \
                                 __VA_ARGS__)); }
#define MACHINE_LIMITS(of, W, T)                                                                                    \
    inline W __viaddmax_##of(W x, W y, W z) MACHINE_OF_PARTS(W, T, std::max<long long>(T(a + b), c), x, y, z)     \
    inline W __viaddmin_##of(W x, W y, W z) MACHINE_OF_PARTS(W, T, std::min<long long>(T(a + b), c), x, y, z)     \
    inline W __vimax3_##of(W x, W y, W z) MACHINE_OF_PARTS(W, T, std::max(std::max(a, b), c), x, y, z)            \
    inline W __vimin3_##of(W x, W y, W z) MACHINE_OF_PARTS(W, T, std::min(std::min(a, b), c), x, y, z)
#define MACHINE_LIMITS_RELU(of, W, T)                                                                               \
    inline W __viaddmax_##of##_relu(W x, W y, W z)                                                                  \
        MACHINE_OF_PARTS(W, T, std::max<long long>(std::max<long long>(T(a + b), c), 0), x, y, z)                 \
    inline W __viaddmin_##of##_relu(W x, W y, W z)                                                                  \
        MACHINE_OF_PARTS(W, T, std::max<long long>(std::min<long long>(T(a + b), c), 0), x, y, z)                 \
    inline W __vimax3_##of##_relu(W x, W y, W z)                                                                    \
        MACHINE_OF_PARTS(W, T, std::max<long long>(std::max(std::max(a, b), c), 0), x, y, z)                      \
    inline W __vimin3_##of##_relu(W x, W y, W z)                                                                    \
        MACHINE_OF_PARTS(W, T, std::max<long long>(std::min(std::min(a, b), c), 0), x, y, z)                      \
    inline W __vimax_##of##_relu(W x, W y)                                                                          \
        MACHINE_OF_PARTS(W, T, std::max<long long>(std::max(a, b), 0), x, y, 0u)                                  \
    inline W __vimin_##of##_relu(W x, W y)                                                                          \
        MACHINE_OF_PARTS(W, T, std::max<long long>(std::min(a, b), 0), x, y, 0u)
MACHINE_LIMITS(s32, int, int) MACHINE_LIMITS(u32, unsigned, unsigned)
MACHINE_LIMITS(s16x2, unsigned, short) MACHINE_LIMITS(u16x2, unsigned, uint16_t)
MACHINE_LIMITS_RELU(s32, int, int) MACHINE_LIMITS_RELU(s16x2, unsigned, short)

inline int __vibmax_s32(int a, int b, bool* first) { return (*first = a >= b) ? a : b; }
inline int __vibmin_s32(int a, int b, bool* first) { return (*first = a <= b) ? a : b; }
inline unsigned __vibmax_u32(unsigned a, unsigned b, bool* first) { return (*first = a >= b) ? a : b; }
inline unsigned __vibmin_u32(unsigned a, unsigned b, bool* first) { return (*first = a <= b) ? a : b; }
#define MACHINE_WHICH(name, T, limit, operation)                                                                    \
    inline unsigned name(unsigned x, unsigned y, bool* high, bool* low) {                                           \
        *high = T(x >> 16) operation T(y >> 16), *low = T(x) operation T(y);                                        \
        return limit(x, y);                                                                                         \
    }
MACHINE_WHICH(__vibmax_s16x2, short, __vmaxs2, >=) MACHINE_WHICH(__vibmin_s16x2, short, __vmins2, <=)
MACHINE_WHICH(__vibmax_u16x2, uint16_t, __vmaxu2, >=) MACHINE_WHICH(__vibmin_u16x2, uint16_t, __vminu2, <=)
