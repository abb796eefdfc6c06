/* Setting entries apart while the others are merged: those of which it is not known yet whether a
 * trim keeps them. All that merging them takes is copied, and they are merged when it is known. */

#ifndef DELTAKIT_APART_H
#define DELTAKIT_APART_H

#include "sixteen.h"

/* Entries are set apart whose magnitude, in any delta, is from that delta's low to its high. */
typedef struct {
    int32_t low[MOST_ROWS], high[MOST_ROWS]; /* bit patterns */
    Py_ssize_t above[MOST_ROWS];             /* how many of each delta are higher */
    int32_t *places;                         /* where in the slice they are */
    char *base, *deltas[MOST_ROWS];          /* what is stored there */
    Py_ssize_t count, most;                  /* how many they are, and how many there is room for */
} Apart;

INLINE int is_between(int32_t bits, int32_t low, int32_t high)
{
    return (uint32_t)bits - (uint32_t)low <= (uint32_t)high - (uint32_t)low;
}

#if defined(BY_HAND)
/* which of up to OFTEN entries, a multiple of 32, of bfloat16 minus bfloat16 are from low to high in
 * any of k deltas, to in_run; how many are higher is added up; returns how many they are */
FUSED INLINE Py_ssize_t find_32s(const uint16_t *const *halves, const Py_ssize_t k, Py_ssize_t n,
                                 const uint16_t *base, const int32_t *lows, const int32_t *highs,
                                 Py_ssize_t *counts, uint16_t *in_run)
{
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i first = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18,
                                           17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2,
                                           1, 0);
    __m512i low[MOST_FUSED], high[MOST_FUSED], width[MOST_FUSED], above[MOST_FUSED];
    Py_ssize_t found = 0;
    for (Py_ssize_t r = 0; r < k; r++) {
        low[r] = _mm512_set1_epi32(lows[r]);
        high[r] = _mm512_set1_epi32(highs[r]);
        width[r] = _mm512_sub_epi32(high[r], low[r]);
        above[r] = _mm512_setzero_si512();
    }
    for (Py_ssize_t at = 0; at < n; at += 32) {
        const __m512i b = _mm512_loadu_si512(base + at);
        __mmask16 between[2] = {0, 0};
        for (Py_ssize_t r = 0; r < k; r++) {
            const __m512i x = _mm512_loadu_si512(halves[r] + at);
            for (int odd = 0; odd < 2; odd++) {
                __m512 y = _mm512_sub_ps(widened_16(x, odd), widened_16(b, odd));
                __m512i bits = _mm512_castps_si512(_mm512_abs_ps(y));
                __mmask16 higher = _mm512_cmpgt_epi32_mask(bits, high[r]);
                above[r] = _mm512_mask_add_epi32(above[r], higher, above[r], one);
                between[odd] |= _mm512_cmple_epu32_mask(_mm512_sub_epi32(bits, low[r]), width[r]);
            }
        }
        uint32_t set = _pdep_u32(between[0], 0x55555555u) | _pdep_u32(between[1], 0xaaaaaaaau);
        __m512i numbers = _mm512_add_epi16(first, _mm512_set1_epi16((short)at));
        _mm512_storeu_si512(in_run + found, _mm512_maskz_compress_epi16(set, numbers));
        found += __builtin_popcount(set); /* written always, kept where it counts */
    }
    for (Py_ssize_t r = 0; r < k; r++) counts[r] += _mm512_reduce_add_epi32(above[r]);
    return found;
}

FUSED static Py_ssize_t find_by_hand(const Delta *deltas, Py_ssize_t k, Py_ssize_t n,
                                     const uint16_t *base, Apart *apart, uint16_t *in_run)
{
    const int32_t *low = apart->low, *high = apart->high;
    const uint16_t *halves[MOST_FUSED];
    for (Py_ssize_t r = 0; r < k; r++) halves[r] = (const uint16_t *)deltas[r].stored;
    if (k == 2) return find_32s(halves, 2, n, base, low, high, apart->above, in_run);
    if (k == 3) return find_32s(halves, 3, n, base, low, high, apart->above, in_run);
    return find_32s(halves, k, n, base, low, high, apart->above, in_run);
}

static int are_differences(const Delta *deltas, Py_ssize_t k)
{
    for (Py_ssize_t r = 0; r < k; r++)
        if (deltas[r].values.dtype != BF16 || !deltas[r].minus_base) return 0;
    return 1;
}
#endif

/* which entries of a run are to be set apart, to in_run; returns how many */
WIDE static Py_ssize_t find_apart(Delta *deltas, Py_ssize_t k, Py_ssize_t n, const char *base,
                                  int base_dtype, Apart *apart, uint16_t *in_run)
{
    Py_ssize_t found = 0;
    CHUNKS(n, {
        float x[CHUNK];
        float b[CHUNK];
        uint8_t between[CHUNK] = {0};
        widen(base, base_dtype, at, count, b);
        for (Py_ssize_t r = 0; r < k; r++) {
            const int32_t low = apart->low[r], high = apart->high[r];
            int32_t above = 0;
            load(deltas + r, 0, at, count, b, x);
            for (Py_ssize_t i = 0; i < count; i++) {
                const int32_t bits = (int32_t)(as_bits(x[i]) & 0x7fffffff);
                above += bits > high;
                between[i] |= is_between(bits, low, high);
            }
            apart->above[r] += above;
        }
        for (uint32_t any = eights(between); any; any &= any - 1) {
            Py_ssize_t first = 8 * lowest_bit(any), last = first + 8 < count ? first + 8 : count;
            for (Py_ssize_t i = first; i < last; i++) { /* written always, kept where it counts */
                in_run[found] = (uint16_t)(at + i);
                found += between[i];
            }
        }
    });
    return found;
}

static void copy_apart(const char *stored, int dtype, const uint16_t *in_run, Py_ssize_t count,
                       Py_ssize_t before, char *out)
{
    if (size_of(dtype) == 2)
        for (Py_ssize_t i = 0; i < count; i++)
            ((uint16_t *)out)[before + i] = ((const uint16_t *)stored)[in_run[i]];
    else
        for (Py_ssize_t i = 0; i < count; i++)
            ((uint32_t *)out)[before + i] = ((const uint32_t *)stored)[in_run[i]];
}

/* A run of up to OFTEN entries, which begins at `from` of the slice, of deltas that are stored whole:
 * 0 where more are to be set apart than there is room for. */
static int set_apart(Delta *deltas, Py_ssize_t k, Py_ssize_t from, Py_ssize_t n, const char *base,
                     int base_dtype, Apart *apart)
{
    uint16_t in_run[OFTEN + 32];
    Py_ssize_t found, before = apart->count;
#if defined(BY_HAND)
    if (by_hand == 2 && n % 32 == 0 && k <= MOST_FUSED && base_dtype == BF16 &&
        are_differences(deltas, k))
        found = find_by_hand(deltas, k, n, (const uint16_t *)base, apart, in_run);
    else
#endif
        found = find_apart(deltas, k, n, base, base_dtype, apart, in_run);
    if (before + found > apart->most) return 0;
    for (Py_ssize_t i = 0; i < found; i++) apart->places[before + i] = (int32_t)(from + in_run[i]);
    copy_apart(base, base_dtype, in_run, found, before, apart->base);
    for (Py_ssize_t r = 0; r < k; r++)
        copy_apart(deltas[r].stored, deltas[r].values.dtype, in_run, found, before, apart->deltas[r]);
    apart->count += found;
    return 1;
}

/* out[places[i]] = entries[i] */
static void put(const void *entries, int dtype, const int32_t *places, Py_ssize_t count, void *out)
{
    if (size_of(dtype) == 2)
        for (Py_ssize_t i = 0; i < count; i++)
            ((uint16_t *)out)[places[i]] = ((const uint16_t *)entries)[i];
    else
        for (Py_ssize_t i = 0; i < count; i++)
            ((uint32_t *)out)[places[i]] = ((const uint32_t *)entries)[i];
}

#endif
