/* Telling entries apart: by their magnitude, by a bit. */

#ifndef DELTAKIT_SELECT_H
#define DELTAKIT_SELECT_H

#include "delta.h"

/* Count magnitudes above `high`; write down those from `low` to `high`, and where they are.
 * One stretch, which begins at `from` of the slice; values and places have room for one more than
 * there are entries. */
WIDE static Py_ssize_t bracket(Delta *delta, Py_ssize_t from, Py_ssize_t n, const char *base,
                               int base_dtype, int32_t low, int32_t high, int32_t *values,
                               int32_t *places, Py_ssize_t *above)
{
    uint32_t width = (uint32_t)high - (uint32_t)low;
    Py_ssize_t found = 0;
    CHUNKS(n, {
        float b[CHUNK];
        float x[CHUNK];
        int32_t bits[CHUNK];
        uint8_t between[CHUNK + 8] = {0};
        int32_t greater = 0;
        if (base) widen(base, base_dtype, at, count, b);
        load(delta, from, at, count, b, x);
        thin(delta, from + at, count, x);
        for (Py_ssize_t i = 0; i < count; i++) {
            bits[i] = (int32_t)(as_bits(x[i]) & 0x7fffffff);
            greater += bits[i] > high;
            between[i] = (uint32_t)bits[i] - (uint32_t)low <= width;
        }
        *above += greater;
        for (Py_ssize_t first = 0; first < count; first += 8) {
            uint64_t any;
            memcpy(&any, between + first, 8);
            if (!any) continue; /* most groups of eight */
            Py_ssize_t last = first + 8 < count ? first + 8 : count;
            for (Py_ssize_t i = first; i < last; i++) { /* written always, kept where it counts */
                values[found] = bits[i];
                places[found] = (int32_t)(from + at + i);
                found += between[i];
            }
        }
    });
    return found;
}

/* the whole slice, stretch after stretch; 0 where a file did not give what it should */
static int bracket_all(Delta *delta, Py_ssize_t n, const Values *base, int32_t low, int32_t high,
                       int32_t *values, int32_t *places, Py_ssize_t *above, Py_ssize_t *inside)
{
    const char *base_at = NULL;
    for (Py_ssize_t at = 0; at < n; at += STRETCH) {
        Py_ssize_t count = n - at < STRETCH ? n - at : STRETCH;
        if (!bring(delta, 1, base, at, count, &base_at)) return 0;
        *inside += bracket(delta, at, count, base_at, base ? base->dtype : F32, low, high,
                           values + *inside, places + *inside, above);
    }
    return 1;
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
