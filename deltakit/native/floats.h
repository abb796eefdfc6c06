/* Floats as they are stored, and the loops over them. */

#ifndef DELTAKIT_FLOATS_H
#define DELTAKIT_FLOATS_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "little-endian machines only: the torch path serves the others"
#endif

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12
#define WIDE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define BY_HAND __attribute__((target("arch=x86-64-v4"))) /* where the compiler finds no vectors */
#include <immintrin.h>
static int by_hand = 0; /* 1 where the processor can, 2 where it has VBMI2 too; found at loading */

static int what_fits(void)
{
    if (!__builtin_cpu_supports("x86-64-v4")) return 0;
    return __builtin_cpu_supports("avx512vbmi2") ? 2 : 1;
}
#else
#define WIDE
#endif

/* into every version of a loop: a call would run the plainest one */
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

enum { F32, BF16, F16 };
enum { CHUNK = 256 }; /* entries worked on at a time, which stay next to the processor */
enum { OFTEN = 1 << 12 }; /* entries squared in float32 before float64 takes over */

/* whole chunks, whose loops have a length the compiler knows, and what is left */
#define CHUNKS(n, ...)                                                                             \
    do {                                                                                           \
        Py_ssize_t at = 0;                                                                         \
        for (; at + CHUNK <= (n); at += CHUNK) { enum { count = CHUNK }; __VA_ARGS__ }             \
        if (at < (n)) { const Py_ssize_t count = (n) - at; __VA_ARGS__ }                           \
    } while (0)

INLINE float as_float(uint32_t bits) { float f; memcpy(&f, &bits, 4); return f; }
INLINE uint32_t as_bits(float f) { uint32_t bits; memcpy(&bits, &f, 4); return bits; }
/* of magnitudes; below 0 there is only what nothing is level with */
INLINE float next_below(float x) { return x > 0.0f ? as_float(as_bits(x) - 1) : -1.0f; }
INLINE Py_ssize_t size_of(int dtype) { return dtype == F32 ? 4 : 2; }

INLINE int lowest_bit(uint64_t word)
{
#if defined(__GNUC__)
    return __builtin_ctzll(word);
#else
    int at = 0;
    for (; !(word & 1); word >>= 1) at++;
    return at;
#endif
}

INLINE int bits_set(uint64_t word)
{
#if defined(__GNUC__)
    return __builtin_popcountll(word);
#else
    int count = 0;
    for (; word; word &= word - 1) count++;
    return count;
#endif
}

/* one bit for each eight of CHUNK bytes that are not all 0 */
INLINE uint32_t eights(const uint8_t *bytes)
{
    uint32_t any = 0;
    for (int group = 0; group < CHUNK / 8; group++) {
        uint64_t eight;
        memcpy(&eight, bytes + 8 * group, 8);
        any |= (uint32_t)(eight != 0) << group;
    }
    return any;
}

/* a bit for each of eight bytes that are 0 or 1, the first's the lowest */
INLINE uint8_t packed(const uint8_t *bytes)
{
    uint64_t eight;
    memcpy(&eight, bytes, 8);
    return (uint8_t)(eight * 0x0102040810204080u >> 56);
}

INLINE float from_bf16(uint16_t h) { return as_float((uint32_t)h << 16); }

INLINE uint16_t to_bf16(float f)
{
    uint32_t bits = as_bits(f);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16; /* to nearest, ties to even */
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

INLINE float from_f16(uint16_t h)
{
    uint32_t magnitude = (uint32_t)(h & 0x7fff);
    /* exponents moved up by 112, and that of infinity and NaN to the largest */
    float normal = as_float((magnitude << 13) + (magnitude >= 0x7c00 ? 0x70000000u : 0x38000000u));
    float subnormal = as_float(magnitude | 0x4b000000u) - 8388608.0f; /* 2^23: an exact integer */
    float positive = magnitude < 0x400 ? subnormal * 0x1p-24f : normal;
    return as_float(as_bits(positive) | (uint32_t)(h & 0x8000) << 16);
}

INLINE uint16_t to_f16(float f)
{
    uint32_t bits = as_bits(f), magnitude = bits & 0x7fffffff;
    uint32_t normal = (magnitude - 0x38000000u + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    /* 2^23 / 2^24: the sum rounds to the last place of a subnormal, to nearest even */
    uint32_t subnormal = as_bits(as_float(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    uint32_t big = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return (uint16_t)((magnitude >= 0x477ff000u ? big : finite) | (bits >> 16 & 0x8000));
}

/* entries at .. at + count of what is stored, into x */
INLINE void widen(const void *stored, int dtype, Py_ssize_t at, Py_ssize_t count, float *restrict x)
{
    const uint16_t *half = (const uint16_t *)stored + at;
    if (dtype == BF16) for (Py_ssize_t i = 0; i < count; i++) x[i] = from_bf16(half[i]);
    else if (dtype == F16) for (Py_ssize_t i = 0; i < count; i++) x[i] = from_f16(half[i]);
    else memcpy(x, (const float *)stored + at, (size_t)count * 4);
}

INLINE float widened(const void *stored, int dtype, Py_ssize_t i)
{
    if (dtype == BF16) return from_bf16(((const uint16_t *)stored)[i]);
    if (dtype == F16) return from_f16(((const uint16_t *)stored)[i]);
    return ((const float *)stored)[i];
}

#endif
