/* What a file stores of one delta: the values of some entries, and bits that tell which stay. */

#ifndef DELTAKIT_SPARSIFY_H
#define DELTAKIT_SPARSIFY_H

#include "delta.h"

/* Whose values are wanted: of entries that stay and are not 0 as they are stored, of those that are
 * kept at random, 0 or not; or of all, 0 for those that do not stay. */
enum { STAYING, KEPT, EVERY };

typedef struct {
    char *values;  /* one after the other, with room for all; or NULL */
    uint8_t *bits; /* of each entry whether it stays, the first in the lowest bit; or NULL */
    int dtype, of;
    Py_ssize_t staying, kept; /* how many */
    uint32_t highest;         /* the bits of the largest magnitude, before any is taken away */
    int rounded;              /* whether a value that is not taken away was rounded */
} Sparse;

/* those whose `which` is 1: each is written, and the next over it where it is 0 */
#define PICK(type, from)                                                                           \
    do {                                                                                           \
        type *to = (type *)out->values;                                                            \
        Py_ssize_t n = 0;                                                                          \
        if (out->of == EVERY)                                                                      \
            for (; n < count; n++) to[n] = stays[n] ? (from)[n] : 0;                               \
        else                                                                                       \
            for (Py_ssize_t i = 0; i < count; i++) { to[n] = (from)[i]; n += which[i]; }           \
        out->values = (char *)(to + n);                                                            \
    } while (0)

/* entries in .. in + count of the stretch that begins at `at` */
INLINE void sparsify_chunk(Delta *delta, Py_ssize_t at, Py_ssize_t in, Py_ssize_t count,
                           const void *base, int base_dtype, Sparse *out)
{
    float b[CHUNK], x[CHUNK], left[CHUNK], stored[CHUNK];
    uint16_t halves[CHUNK];
    uint8_t own[CHUNK], stays[CHUNK] = {0};
    uint32_t highest = 0, rounded = 0, staying = 0, kept_count = 0;
    const uint8_t *kept = kept_of(delta, at + in, count, own);
    if (delta->minus_base) widen(base, base_dtype, in, count, b);
    load(delta, at, in, count, b, x);
    for (Py_ssize_t i = 0; i < count; i++) {
        uint32_t magnitude = as_bits(x[i]) & 0x7fffffff;
        highest = magnitude > highest ? magnitude : highest;
    }
    memcpy(left, x, (size_t)count * sizeof *x);
    trim(delta, at + in, count, left);
    if (out->dtype == BF16) for (Py_ssize_t i = 0; i < count; i++) halves[i] = to_bf16(x[i]);
    else if (out->dtype == F16) for (Py_ssize_t i = 0; i < count; i++) halves[i] = to_f16(x[i]);
    widen(out->dtype == F32 ? (const void *)x : halves, out->dtype, 0, count, stored);
    if (!kept) memset(own, 1, sizeof own);
    const uint8_t *which = kept ? kept : own;
    for (Py_ssize_t i = 0; i < count; i++) {
        uint8_t is_left = (uint8_t)(left[i] != 0.0f) & which[i];
        rounded |= is_left & (stored[i] != x[i]);
        stays[i] = is_left & (stored[i] != 0.0f);
    }
    for (Py_ssize_t i = 0; i < count; i++) staying += stays[i];
    for (Py_ssize_t i = 0; i < count; i++) kept_count += which[i];
    for (Py_ssize_t i = 0; out->bits && i < count; i += 8)
        out->bits[(at + in + i) / 8] = packed(stays + i);
    if (out->of == STAYING) which = stays;
    if (out->values && out->dtype == F32) PICK(float, x);
    else if (out->values) PICK(uint16_t, halves);
    out->highest = highest > out->highest ? highest : out->highest;
    out->rounded |= rounded != 0;
    out->staying += staying;
    out->kept += kept_count;
}

WIDE static void sparsify_stretch(Delta *delta, Py_ssize_t first, Py_ssize_t n, const void *base,
                                  int base_dtype, Sparse *out)
{
    CHUNKS(n, { sparsify_chunk(delta, first, at, count, base, base_dtype, out); });
}

/* a delta that is stored whole; 0 where a file did not give what it should */
static int sparsify(Delta *delta, Py_ssize_t n, const Values *base, Sparse *out)
{
    for (Py_ssize_t at = 0; at < n; at += STRETCH) {
        const Py_ssize_t count = n - at < STRETCH ? n - at : STRETCH;
        const char *base_at = NULL;
        if (!bring(delta, 1, base, at, count, &base_at)) return 0;
        sparsify_stretch(delta, at, count, base_at, base ? base->dtype : F32, out);
    }
    return 1;
}

#endif
