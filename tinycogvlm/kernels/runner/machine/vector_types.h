// float4, int2, uchar4 ...: plain structures with the alignment that a GPU requires.
#pragma once
#include "machine.h"

#define MACHINE_VECTOR(T, name, align2, align4)                                                                     \
    struct name##1 { T x; };                                                                                        \
    struct alignas(align2) name##2 { T x, y; };                                                                     \
    struct name##3 { T x, y, z; };                                                                                  \
    struct alignas(align4) name##4 { T x, y, z, w; };                                                               \
    MACHINE_VECTORS_OF(T, name)

#define MACHINE_VECTORS_OF(T, name)                                                                                 \
    inline name##1 make_##name##1(T x) { return {x}; }                                                              \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                                      \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                                              \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }                                      \
    template<> struct machine::Scalar<name##1> : machine::Scalar<T> {};                                             \
    template<> struct machine::Scalar<name##2> : machine::Scalar<T> {};                                             \
    template<> struct machine::Scalar<name##3> : machine::Scalar<T> {};                                             \
    template<> struct machine::Scalar<name##4> : machine::Scalar<T> {};

MACHINE_VECTOR(signed char, char, 2, 4)
MACHINE_VECTOR(unsigned char, uchar, 2, 4)
MACHINE_VECTOR(short, short, 4, 8)
MACHINE_VECTOR(unsigned short, ushort, 4, 8)
MACHINE_VECTOR(int, int, 8, 16)
MACHINE_VECTOR(long, long, 16, 16)
MACHINE_VECTOR(unsigned long, ulong, 16, 16)
MACHINE_VECTOR(long long, longlong, 16, 16)
MACHINE_VECTOR(unsigned long long, ulonglong, 16, 16)
MACHINE_VECTOR(float, float, 8, 16)
MACHINE_VECTOR(double, double, 16, 16)

struct uint1 { unsigned x; };                               // uint3 is in machine.h, as the type of threadIdx
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
MACHINE_VECTORS_OF(unsigned, uint)
