/* Telling entries apart: by their magnitude, by a bit. */

#ifndef DELTAKIT_SELECT_H
#define DELTAKIT_SELECT_H

#include "fused.h"

/* What is looked for among the magnitudes of one delta. */
typedef struct {
    int32_t low, high;        /* bit patterns */
    int32_t *values, *places; /* of those from low to high; room for one more than entries */
    Py_ssize_t inside, above; /* how many these are, and how many are higher */
} Bracket;

/* whether it is bfloat16 minus bfloat16, and all of it */
INLINE int is_difference(const Delta *delta, int base_dtype)
{
    return is_plain(delta) && delta->minus_base && delta->values.dtype == BF16 && base_dtype == BF16;
}

/* bit patterns of magnitudes: of bfloat16 minus bfloat16 in one loop */
INLINE void magnitudes(Delta *delta, Py_ssize_t from, Py_ssize_t at, Py_ssize_t count,
                       const char *base, int base_dtype, int32_t *restrict bits)
{
    float x[CHUNK], b[CHUNK];
    const uint16_t *half = (const uint16_t *)delta->stored + at, *other = (const uint16_t *)base + at;
    if (is_difference(delta, base_dtype)) {
        for (Py_ssize_t i = 0; i < count; i++)
            bits[i] = (int32_t)(as_bits(from_bf16(half[i]) - from_bf16(other[i])) & 0x7fffffff);
        return;
    }
    if (delta->minus_base) widen(base, base_dtype, at, count, b);
    load(delta, from, at, count, b, x);
    thin(delta, from + at, count, x);
    for (Py_ssize_t i = 0; i < count; i++) bits[i] = (int32_t)(as_bits(x[i]) & 0x7fffffff);
}

/* bit patterns of `length` entries from each start on, of each delta in a row of its own; 0 where a
 * file did not give what it should */
WIDE static int magnitudes_all(Delta *deltas, Py_ssize_t k, const Values *base,
                               const Py_ssize_t *starts, Py_ssize_t n_starts, Py_ssize_t length,
                               int32_t *out)
{
    const char *base_at = NULL;
    for (Py_ssize_t s = 0; s < n_starts; s++)
        for (Py_ssize_t begin = 0; begin < length; begin += STRETCH) {
            const Py_ssize_t n = length - begin < STRETCH ? length - begin : STRETCH;
            if (!bring(deltas, k, base, starts[s] + begin, n, &base_at)) return 0;
            for (Py_ssize_t r = 0; r < k; r++) {
                int32_t *row = out + (r * n_starts + s) * length + begin;
                CHUNKS(n, magnitudes(deltas + r, 0, at, count, base_at, base ? base->dtype : F32,
                                     row + at););
            }
        }
    return 1;
}

#if defined(BY_HAND)
/* bracket() of bfloat16 minus bfloat16, of up to OFTEN entries, a multiple of 32 */
FUSED static void bracket_fused(const uint16_t *half, const uint16_t *other, Py_ssize_t from,
                                Py_ssize_t n, Bracket *found)
{
    uint16_t in_run[OFTEN + 32]; /* where those inside are */
    const Py_ssize_t inside =
        find_32s(&half, 1, n, other, &found->low, &found->high, &found->above, in_run);
    for (Py_ssize_t i = 0; i < inside; i++) {
        const int at = in_run[i];
        const float x = from_bf16(half[at]) - from_bf16(other[at]);
        found->values[found->inside] = (int32_t)(as_bits(x) & 0x7fffffff);
        found->places[found->inside++] = (int32_t)(from + at);
    }
}

static void bracket_by_hand(const Delta *delta, Py_ssize_t from, Py_ssize_t n, const char *base,
                            Bracket *found)
{
    const uint16_t *half = (const uint16_t *)delta->stored, *other = (const uint16_t *)base;
    for (Py_ssize_t at = 0; at < n; at += OFTEN)
        bracket_fused(half + at, other + at, from + at, n - at < OFTEN ? n - at : OFTEN, found);
}
#endif

/* one stretch, which begins at `from` of the slice */
WIDE static void bracket(Delta *delta, Py_ssize_t from, Py_ssize_t n, const char *base,
                         int base_dtype, Bracket *found)
{
    const int32_t low = found->low, high = found->high;
    const uint32_t width = (uint32_t)high - (uint32_t)low;
    int32_t *values = found->values, *places = found->places;
    Py_ssize_t inside = found->inside;
    CHUNKS(n, {
        int32_t bits[CHUNK];
        uint8_t between[CHUNK] = {0};
        int32_t greater = 0;
        magnitudes(delta, from, at, count, base, base_dtype, bits);
        for (Py_ssize_t i = 0; i < count; i++) {
            greater += bits[i] > high;
            between[i] = (uint32_t)bits[i] - (uint32_t)low <= width;
        }
        found->above += greater;
        for (uint32_t any = eights(between); any; any &= any - 1) {
            Py_ssize_t first = 8 * lowest_bit(any), last = first + 8 < count ? first + 8 : count;
            for (Py_ssize_t i = first; i < last; i++) { /* written always, kept where it counts */
                values[inside] = bits[i];
                places[inside] = (int32_t)(from + at + i);
                inside += between[i];
            }
        }
    });
    found->inside = inside;
}

/* the whole slice, stretch after stretch; 0 where a file did not give what it should */
static int bracket_all(Delta *deltas, Py_ssize_t k, Py_ssize_t n, const Values *base,
                       Bracket *found)
{
    const char *base_at = NULL;
    for (Py_ssize_t at = 0; at < n; at += STRETCH) {
        Py_ssize_t count = n - at < STRETCH ? n - at : STRETCH;
        if (!bring(deltas, k, base, at, count, &base_at)) return 0;
        for (Py_ssize_t r = 0; r < k; r++) {
            const int dtype = base ? base->dtype : F32;
#if defined(BY_HAND)
            if (by_hand == 2 && count % 32 == 0 && is_difference(deltas + r, dtype)) {
                bracket_by_hand(deltas + r, at, count, base_at, found + r);
                continue;
            }
#endif
            bracket(deltas + r, at, count, base_at, dtype, found + r);
        }
    }
    return 1;
}

/* set the bits of those indices, of `width` bytes, that are among `n` entries from `start` on */
static void mark(const void *indices, int width, Py_ssize_t count, uint64_t start, uint64_t n,
                 uint8_t *bits)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        const uint64_t at = (width == 4 ? ((const uint32_t *)indices)[i]
                                        : ((const uint64_t *)indices)[i]) - start;
        if (at < n) bits[at / 8] |= (uint8_t)(1 << at % 8);
    }
}

/* out[j] = the next value (minus the base's) where bit `skip` + j is set; others are left alone;
 * returns how many bits were set, never reading past the `most` values that there are */
static Py_ssize_t scatter(const void *values, Py_ssize_t most, int dtype, const uint8_t *bits,
                          Py_ssize_t skip, Py_ssize_t n, const float *base, float *out)
{
    Py_ssize_t next = 0;
    for (Py_ssize_t at = 0; at < n; at += 64) {
        uint64_t word = bits_from(bits, skip + at, n - at < 64 ? n - at : 64);
        for (; word; word &= word - 1) {
            Py_ssize_t j = at + lowest_bit(word);
            if (next++ >= most) continue;
            float value = widened(values, dtype, next - 1);
            out[j] = base ? value - base[j] : value;
        }
    }
    return next;
}

#endif
