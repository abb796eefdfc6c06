/* One expert's delta of a slice: stored - base, then trimmed, then dropped. */

#ifndef DELTAKIT_DELTA_H
#define DELTAKIT_DELTA_H

#include "draws.h"

#include <errno.h>
#if !defined(_WIN32)
#include <unistd.h>
#endif

enum { MOST_ROWS = 256 };
enum { STRETCH = 1 << 16 }; /* entries read at a time: those of a few experts stay in cache */

/* Flat entries as they are stored: in memory, or in a file, which is read a stretch at a time.
 * Values that stand by bits are read all at once. */
typedef struct {
    char *memory; /* the entries, or room for a stretch of them */
    int dtype;
    int fd;         /* -1 for memory, or the file ... */
    int64_t offset; /* ... and where in it they begin */
} Values;

typedef struct {
    Values values;
    const uint8_t *bits; /* where the values stand, or NULL: one stands at each entry */
    Py_ssize_t skip;     /* bits before that of the first entry */
    Py_ssize_t left;     /* values not yet placed; below 0 where there were too few */
    int minus_base;
    int trims;
    float threshold, below; /* magnitudes up to it become 0; up to `below` among the first ... */
    Py_ssize_t ties;        /* ... so many */
    int tops;
    float highest, lower;   /* magnitudes above it are multiplied by 0; above `lower` among ... */
    Py_ssize_t top_ties;    /* ... the first so many */
    const uint8_t *kept;    /* the mask, or NULL */
    int draws;              /* whether it is drawn instead, ... */
    Draws drawn;            /* ... and how */
    float divisor;
    const char *stored; /* of the stretch at hand; the next value where they stand by bits */
} Delta;

/* return entries at .. at + count, or NULL where the file does not give them */
static const char *stretch(const Values *values, Py_ssize_t at, Py_ssize_t count)
{
    Py_ssize_t size = size_of(values->dtype), done = 0;
    if (values->fd < 0) return values->memory + at * size;
#if defined(_WIN32)
    (void)done, (void)count;
    return NULL;
#else
    while (done < count * size) {
        ssize_t got = pread(values->fd, values->memory + done, (size_t)(count * size - done),
                            (off_t)(values->offset + at * size + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return NULL;
        done += got;
    }
    return values->memory;
#endif
}

/* bring the stretch at .. at + count of every delta, and of their base, to memory; 0 on failure */
static int bring(Delta *deltas, Py_ssize_t k, const Values *base, Py_ssize_t at, Py_ssize_t count,
                 const char **base_at)
{
    if (base && !(*base_at = stretch(base, at, count))) return 0;
    for (Delta *delta = deltas; delta < deltas + k; delta++) {
        if (delta->bits && at) continue; /* goes on from the last value */
        Py_ssize_t entries = delta->bits ? delta->left : count;
        if (!(delta->stored = stretch(&delta->values, at, entries))) return 0;
    }
    return 1;
}

/* go `count` entries on within the stretch; those that stand by bits have gone there themselves */
static void step(Delta *deltas, Py_ssize_t k, const Values *base, Py_ssize_t count,
                 const char **base_at)
{
    if (base) *base_at += count * size_of(base->dtype);
    for (Delta *delta = deltas; delta < deltas + k; delta++)
        if (!delta->bits) delta->stored += count * size_of(delta->values.dtype);
}

/* up to 64 bits from bit `at` */
INLINE uint64_t bits_from(const uint8_t *bits, Py_ssize_t at, Py_ssize_t count)
{
    uint64_t word = 0;
    Py_ssize_t shift = at % 8, bytes = (shift + count + 7) / 8;
    memcpy(&word, bits + at / 8, (size_t)(bytes < 8 ? bytes : 8));
    word >>= shift;
    if (bytes > 8) word |= (uint64_t)bits[at / 8 + 8] << (64 - shift);
    return count < 64 ? word & (((uint64_t)1 << count) - 1) : word;
}

/* how many of `n` bits are set, up to the end of every `each` of them, a multiple of 8 */
WIDE static void count_bits(const uint8_t *bits, Py_ssize_t n, Py_ssize_t each, int64_t *counts)
{
    int64_t set = 0;
    for (Py_ssize_t at = 0; at < n; *counts++ = set) {
        const Py_ssize_t end = n - at < each ? n : at + each;
        for (; at + 64 <= end; at += 64) {
            uint64_t word;
            memcpy(&word, bits + at / 8, 8);
            set += bits_set(word);
        }
        if (at < end) set += bits_set(bits_from(bits, at, end - at));
        at = end;
    }
}

/* whether there is nothing to do but to take the difference */
INLINE int is_plain(const Delta *delta)
{
    return !delta->bits && !delta->trims && !delta->tops && !delta->kept && !delta->draws;
}

#if defined(BY_HAND)
/* 64 entries: sixteen values are widened and moved to where the bits say, without a branch */
BY_HAND static const uint16_t *expand(const uint16_t *values, uint64_t word, float *x)
{
    for (int first = 0; first < 64; first += 16, word >>= 16) {
        __m256i halves = _mm256_loadu_si256((const __m256i *)values);
        __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
        _mm512_storeu_si512(x + first, _mm512_maskz_expand_epi32((__mmask16)word, wide));
        values += __builtin_popcountll(word & 0xffff);
    }
    return values;
}
#endif

/* the next values where bits are set, 0 elsewhere */
INLINE void spread(Delta *delta, Py_ssize_t at, Py_ssize_t count, float *restrict x)
{
    int size = (int)size_of(delta->values.dtype);
    for (Py_ssize_t first = 0; first < count; first += 64) {
        Py_ssize_t bits = count - first < 64 ? count - first : 64;
        uint64_t word = bits_from(delta->bits, delta->skip + at + first, bits);
#if defined(BY_HAND)
        if (by_hand && bits == 64 && delta->left >= 64 + 16 && delta->values.dtype == BF16) {
            const uint16_t *values = (const uint16_t *)delta->stored;
            const uint16_t *next = expand(values, word, x + first);
            delta->left -= next - values;
            delta->stored = (const char *)next;
            continue;
        }
#endif
        for (Py_ssize_t i = first; i < first + bits; i++) x[i] = 0.0f;
        for (; word; word &= word - 1) {
            if (delta->left-- <= 0) continue; /* more bits than values: told at the end */
            x[first + lowest_bit(word)] = widened(delta->stored, delta->values.dtype, 0);
            delta->stored += size;
        }
    }
}

/* entries in .. in + count of the stretch that begins at `at`, whose base's are in b, into x */
INLINE void load(Delta *delta, Py_ssize_t at, Py_ssize_t in, Py_ssize_t count,
                 const float *restrict b, float *restrict x)
{
    if (delta->bits) spread(delta, at + in, count, x);
    else widen(delta->stored, delta->values.dtype, in, count, x);
    if (delta->minus_base)
        for (Py_ssize_t i = 0; i < count; i++) x[i] -= b[i];
}

INLINE void shrink(float *x, Py_ssize_t count, float threshold)
{
    for (Py_ssize_t i = 0; i < count; i++)
        x[i] = as_float(as_bits(x[i]) & 0x7fffffff) <= threshold ? 0.0f : x[i];
}

/* 0 for what is finite: no infinity is lost */
INLINE void top(float *x, Py_ssize_t count, float highest)
{
    for (Py_ssize_t i = 0; i < count; i++)
        x[i] = as_float(as_bits(x[i]) & 0x7fffffff) > highest ? x[i] * 0.0f : x[i];
}

/* how many of `count` entries from `at` on are among the first `ties` of all */
INLINE Py_ssize_t among(Py_ssize_t ties, Py_ssize_t at, Py_ssize_t count)
{
    return ties < at ? 0 : ties - at < count ? ties - at : count;
}

/* which of entries at .. at + count are kept, perhaps in `own`; NULL where all are */
INLINE const uint8_t *kept_of(const Delta *delta, Py_ssize_t at, Py_ssize_t count, uint8_t *own)
{
    if (!delta->draws) return delta->kept ? delta->kept + at : NULL;
    draw(&delta->drawn, at, count, own);
    return own;
}

/* trim entries at .. at + count, which are in x */
INLINE void trim(const Delta *delta, Py_ssize_t at, Py_ssize_t count, float *restrict x)
{
    if (delta->trims) {
        Py_ssize_t ties = among(delta->ties, at, count);
        if (!ties) shrink(x, count, delta->threshold); /* a length the compiler may know */
        else if (ties == count) shrink(x, count, delta->below);
        else {
            shrink(x, ties, delta->below);
            shrink(x + ties, count - ties, delta->threshold);
        }
    }
    if (delta->tops) {
        Py_ssize_t ties = among(delta->top_ties, at, count);
        top(x, ties, delta->lower);
        top(x + ties, count - ties, delta->highest);
    }
}

/* trim and drop entries at .. at + count, which are in x */
INLINE void thin(const Delta *delta, Py_ssize_t at, Py_ssize_t count, float *restrict x)
{
    uint8_t own[CHUNK];
    const uint8_t *kept = kept_of(delta, at, count, own);
    trim(delta, at, count, x);
    if (kept) {
        float divisor = delta->divisor;
        if (divisor == 1.0f) for (Py_ssize_t i = 0; i < count; i++) x[i] = (float)kept[i] * x[i];
        else for (Py_ssize_t i = 0; i < count; i++) x[i] = (float)kept[i] * x[i] / divisor;
    }
}

#endif
