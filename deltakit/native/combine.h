/* How deltas become one, and that one is added to the base and rounded: all in one pass. */

#ifndef DELTAKIT_COMBINE_H
#define DELTAKIT_COMBINE_H

#include "delta.h"

enum { LANES = 64 };

/* LANES entries at a time, and what is left: `lane` is where among them, `i` where in the chunk */
#define BY_LANES(count, ...)                                                                       \
    do {                                                                                           \
        Py_ssize_t first = 0;                                                                      \
        for (; first + LANES <= (count); first += LANES)                                           \
            for (int lane = 0; lane < LANES; lane++) { Py_ssize_t i = first + lane; __VA_ARGS__ }  \
        for (int lane = 0; first + lane < (count); lane++) { Py_ssize_t i = first + lane; __VA_ARGS__ } \
    } while (0)

/* A sum of squares: in float32 for a while, then in float64. */
typedef struct {
    double sum;
    float lanes[LANES];
} Squares;

/* Sum of w_i d_i, what was summed before multiplied by c_i where there are carries; over those whose
 * sign wins the vote, where there is one, divided by their divisors, where there are any; over the
 * divisor; times each factor, one after the other. */
typedef struct {
    float weights[MOST_ROWS], votes[MOST_ROWS], divisors[MOST_ROWS], carries[MOST_ROWS];
    float divisor, factors[MOST_ROWS];
    int elects, by_count, divides, carries_on;
    Py_ssize_t n_factors;
} Formula;

/* What becomes of the sum: written in float32, or added to the base and rounded. */
typedef struct {
    char *memory; /* NULL where only squares are wanted */
    int dtype, adds;
    uint32_t odd[LANES], other[LANES]; /* ODD is set where not finite; not 0 where not the base's */
} Target;

#define ODD 0x80000000u

INLINE void square(Squares *squares, const float *restrict x, Py_ssize_t count)
{
    float lanes[LANES];
    memcpy(lanes, squares->lanes, sizeof lanes);
    BY_LANES(count, lanes[lane] += x[i] * x[i];);
    memcpy(squares->lanes, lanes, sizeof lanes);
}

WIDE static void settle(Squares *squares, Py_ssize_t count)
{
    for (Squares *each = squares; each < squares + count; each++) {
        double sums[8] = {0};
        for (int lane = 0; lane < LANES; lane += 8) /* loops that the compiler finds vectors in */
            for (int i = 0; i < 8; i++) sums[i] += each->lanes[lane + i];
        for (int i = 0; i < 8; i++) each->sum += sums[i];
        memset(each->lanes, 0, sizeof each->lanes);
    }
}

/* What most deltas are, bfloat16 minus a base: every step in one loop. 0 where it is another. */
INLINE int take_quickly(const Delta *delta, Py_ssize_t at, Py_ssize_t in, Py_ssize_t count,
                        const float *restrict b, Squares *squares, float *restrict x)
{
    const uint16_t *half = (const uint16_t *)delta->stored + in;
    uint8_t own[CHUNK];
    const uint8_t *kept;
    Py_ssize_t ties = delta->ties - (at + in);
    float divisor = delta->divisor, threshold = ties > 0 ? delta->below : delta->threshold;
    float lanes[LANES];
    if (delta->values.dtype != BF16 || !delta->minus_base || delta->bits || delta->tops) return 0;
    if (delta->trims && (delta->kept || delta->draws || (0 < ties && ties < count))) return 0;
    kept = kept_of(delta, at + in, count, own);
    memcpy(lanes, squares->lanes, sizeof lanes);
#define EACH(...)                                                                                  \
    BY_LANES(count, {                                                                              \
        float y = from_bf16(half[i]) - b[i];                                                       \
        lanes[lane] += y * y;                                                                      \
        x[i] = __VA_ARGS__;                                                                        \
    })
    if (delta->trims) EACH(as_float(as_bits(y) & 0x7fffffff) <= threshold ? 0.0f : y);
    else if (!kept) EACH(y);
    else if (divisor == 1.0f) EACH((float)kept[i] * y);
    else EACH((float)kept[i] * y / divisor);
#undef EACH
    memcpy(squares->lanes, lanes, sizeof lanes);
    return 1;
}

/* entries in .. in + count of the stretch that begins at `at`, trimmed and dropped, into x */
INLINE void take(Delta *delta, Py_ssize_t at, Py_ssize_t in, Py_ssize_t count,
                 const float *restrict b, Squares *squares, float *restrict x)
{
    if (squares && take_quickly(delta, at, in, count, b, squares, x)) return;
    load(delta, at, in, count, b, x);
    if (squares) square(squares, x, count);
    thin(delta, at + in, count, x);
}

INLINE void add_up(Delta *deltas, Py_ssize_t k, const Formula *formula, Py_ssize_t at,
                   Py_ssize_t in, Py_ssize_t count, const float *restrict b, Squares *squares,
                   float *restrict total)
{
    float x[CHUNK], sum[CHUNK];
    for (Py_ssize_t r = 0; r < k; r++) {
        float w = formula->weights[r];
        take(deltas + r, at, in, count, b, squares ? squares + r : NULL, x);
        if (r == 0) for (Py_ssize_t i = 0; i < count; i++) sum[i] = x[i] * w;
        else if (formula->carries_on) {
            float c = formula->carries[r];
            for (Py_ssize_t i = 0; i < count; i++) sum[i] = sum[i] * c + x[i] * w;
        }
        else for (Py_ssize_t i = 0; i < count; i++) sum[i] += x[i] * w;
    }
    for (Py_ssize_t i = 0; i < count; i++) total[i] = sum[i];
}

/* `rows` holds k chunks */
INLINE void elect(Delta *deltas, Py_ssize_t k, const Formula *formula, Py_ssize_t at, Py_ssize_t in,
                  Py_ssize_t count, const float *restrict b, Squares *squares, float *rows,
                  float *restrict total)
{
    float sign[CHUNK], mass[CHUNK], sum[CHUNK];
    for (Py_ssize_t i = 0; i < count; i++) sign[i] = 0.0f;
    for (Py_ssize_t r = 0; r < k; r++) {
        float *restrict x = rows + r * CHUNK, v = formula->votes[r];
        take(deltas + r, at, in, count, b, squares ? squares + r : NULL, x);
        if (formula->by_count)
            for (Py_ssize_t i = 0; i < count; i++)
                sign[i] += (float)((x[i] > 0.0f) - (x[i] < 0.0f)) * v;
        else for (Py_ssize_t i = 0; i < count; i++) sign[i] += x[i] * v;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        sign[i] = (float)((sign[i] > 0.0f) - (sign[i] < 0.0f));
        sum[i] = mass[i] = 0.0f;
    }
    for (Py_ssize_t r = 0; r < k; r++) {
        const float *restrict x = rows + r * CHUNK;
        float w = formula->weights[r], v = formula->divisors[r];
        for (Py_ssize_t i = 0; i < count; i++) {
            float agrees = x[i] * sign[i] > 0.0f ? 1.0f : 0.0f;
            sum[i] += x[i] * agrees * w;
            mass[i] += agrees * v;
        }
    }
    if (formula->divides)
        for (Py_ssize_t i = 0; i < count; i++)
            sum[i] /= mass[i] < 0x1p-126f ? 0x1p-126f : mass[i];
    for (Py_ssize_t i = 0; i < count; i++) total[i] = sum[i];
}

/* out = base + merged, the base's own value where merged is zero */
INLINE void finish(const char *base, int base_dtype, const float *restrict b, Py_ssize_t in,
                   Py_ssize_t count, const float *restrict merged, Py_ssize_t at, Target *out)
{
    float x[CHUNK];
    uint32_t odd[LANES], other[LANES];
    uint16_t half[CHUNK];
    memcpy(odd, out->odd, sizeof odd);
    memcpy(other, out->other, sizeof other);
    for (Py_ssize_t i = 0; i < count; i++) x[i] = merged[i] != 0.0f ? b[i] + merged[i] : b[i];
    if (out->dtype == F32) {
        memcpy((float *)out->memory + at, x, (size_t)count * 4);
        BY_LANES(count, odd[lane] |= ((as_bits(x[i]) & 0x7f800000u) + 0x800000u) & ODD;);
        if (base_dtype == F32) BY_LANES(count, other[lane] |= as_bits(x[i]) ^ as_bits(b[i]););
    }
    else if (out->dtype == BF16) {
        BY_LANES(count, {
            uint32_t rounded = to_bf16(x[i]);
            half[i] = (uint16_t)rounded;
            odd[lane] |= ((rounded & 0x7f80) + 0x80) << 16;
            if (base_dtype == BF16) other[lane] |= rounded ^ as_bits(b[i]) >> 16;
        });
        memcpy((uint16_t *)out->memory + at, half, (size_t)count * 2);
    }
    else {
        BY_LANES(count, {
            uint32_t rounded = to_f16(x[i]);
            half[i] = (uint16_t)rounded;
            odd[lane] |= ((rounded & 0x7c00) + 0x400) << 16;
        });
        memcpy((uint16_t *)out->memory + at, half, (size_t)count * 2);
        if (base_dtype == F16) {
            const uint16_t *before = (const uint16_t *)base + in;
            BY_LANES(count, other[lane] |= half[i] ^ before[i];);
        }
    }
    if (out->dtype != base_dtype) BY_LANES(count, other[lane] |= merged[i] != 0.0f;);
    memcpy(out->odd, odd, sizeof odd);
    memcpy(out->other, other, sizeof other);
}

/* One run, up to OFTEN entries, which begins at `from` of the slice. squares: k + 1, the last the
 * sum's own, or NULL. */
WIDE static void combine(Delta *deltas, Py_ssize_t k, Py_ssize_t from, Py_ssize_t n,
                         const Formula *formula, const char *base, int base_dtype,
                         Squares *squares, float *rows, Target *out)
{
    CHUNKS(n, {
        float b[CHUNK];
        float total[CHUNK];
        if (base) widen(base, base_dtype, at, count, b);
        if (formula->elects)
            elect(deltas, k, formula, from, at, count, b, squares, rows, total);
        else add_up(deltas, k, formula, from, at, count, b, squares, total);
        if (formula->divisor != 1.0f)
            for (Py_ssize_t i = 0; i < count; i++) total[i] /= formula->divisor;
        for (Py_ssize_t f = 0; f < formula->n_factors; f++)
            for (Py_ssize_t i = 0; i < count; i++) total[i] *= formula->factors[f];
        if (squares) square(squares + k, total, count);
        if (out->adds) finish(base, base_dtype, b, at, count, total, from + at, out);
        else if (out->memory)
            memcpy((float *)out->memory + from + at, total, (size_t)count * 4);
    });
}

#endif
