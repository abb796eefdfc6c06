/* Merging bfloat16 where the processor has AVX-512 with VBMI2: all steps of sixteen entries in
 * registers. The same bits as combine(), which stores the entries of a step and loads them for the
 * next; what is not finite is left to it.
 *
 * Thirty-two entries fill a register. Those of even number are widened by a shift, those of odd
 * number by masking the others out, and each half is merged on its own. */

#ifndef DELTAKIT_SIXTEEN_H
#define DELTAKIT_SIXTEEN_H

#include "combine.h"

#if defined(BY_HAND)

#define FUSED __attribute__((target("arch=x86-64-v4,avx512vbmi2")))

enum { MOST_FUSED = 8, NOT_FINITE = 0x99 /* NaN of both kinds, infinity of both signs */ };

/* Of all deltas of a run: read whole and trimmed, if only by a threshold below 0; trimmed from above
 * too; read whole and dropped at random; or stored sparse. */
typedef enum { TRIMMED, BETWEEN, DRAWN, SPARSE } Kind;

/* What is done to a delta, and where its next values are. */
typedef struct {
    const uint16_t *stored;
    float threshold, highest; /* what is trimmed, from below and from above */
    float kept_over;          /* the divisor of what is kept at random */
    float weight, vote, divisor;
} Row;

/* A run of entries, up to OFTEN, and what is the same for all of them. */
typedef struct {
    Row rows[MOST_FUSED];
    Py_ssize_t from, n; /* where in the slice, and how many: a multiple of LANES */
    const uint16_t *base;
    uint16_t *out;
    const uint64_t (*words)[WORDS]; /* of each delta a bit for each entry: those kept or stored */
    int minus_base, divides;
    int leaves; /* whether an entry that no delta has is the base's: no weight or factor is infinite */
    int inverts; /* whether divisors are so small that powers of two have reciprocals */
    float divisor;
    const float *factors;
    Py_ssize_t n_factors;
} Run;

/* Sums that are kept up for a run: of squares for each delta and the sum, entry i of each LANES in
 * [i / 32][i % 2]; and what the base and the result are. */
typedef struct {
    __m512 squares[MOST_FUSED + 1][LANES / 32][2];
    __m512i base, result; /* the highest magnitudes */
    __m512i other;        /* not 0 where the result is not the base's */
} Sums;

FUSED INLINE __m512 widened_16(__m512i halves, const int odd)
{
    return _mm512_castsi512_ps(odd ? _mm512_and_si512(halves, _mm512_set1_epi32((int)0xffff0000))
                                   : _mm512_slli_epi32(halves, 16));
}

/* rounded to nearest, ties to even: in the upper half of each 32 bits */
FUSED INLINE __m512i rounded_16(__m512 x)
{
    const __m512i bits = _mm512_castps_si512(x), one = _mm512_set1_epi32(1);
    const __m512i last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
    return _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), last);
}

/* over the divisors: where these are powers of two, times their reciprocals, which are exact */
FUSED INLINE __m512 divided(__m512 sum, __m512 mass, int inverts)
{
    const __m512i bits = _mm512_castps_si512(mass = _mm512_max_ps(mass, _mm512_set1_ps(0x1p-126f)));
    if (!inverts || _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x7fffff)))
        return _mm512_div_ps(sum, mass);
    const __m512i reciprocal = _mm512_sub_epi32(_mm512_set1_epi32(0x7f000000), bits);
    return _mm512_mul_ps(sum, _mm512_castsi512_ps(reciprocal));
}

/* The merged delta of sixteen entries, those of even or odd number among 32, whose base's are b.
 * kept: which of the 32 are kept, where they are drawn. Deltas that lose the vote are not added,
 * those that win are added up as magnitudes: the sign comes last. */
FUSED INLINE __m512 merged_16(const Run *run, const Py_ssize_t k, const Kind kind,
                              const int elects, const int units, const __m512i *halves,
                              const uint32_t *kept, __m512 b, const int odd, const int part,
                              Sums *sums)
{
    const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0f);
    __m512 y[MOST_FUSED], votes = zero, sum = zero, mass = zero;
    __mmask16 stays[MOST_FUSED];
    for (Py_ssize_t r = 0; r < k; r++) {
        const Row *row = run->rows + r;
        __m512 *squares = &sums->squares[r][part][odd];
        y[r] = widened_16(halves[r], odd);
        if (kind != SPARSE && run->minus_base) y[r] = _mm512_sub_ps(y[r], b);
        *squares = _mm512_add_ps(*squares, _mm512_mul_ps(y[r], y[r]));
        if (kind == TRIMMED || kind == BETWEEN) {
            const __m512 magnitude = _mm512_abs_ps(y[r]);
            stays[r] = _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(row->threshold), _CMP_GT_OQ);
            if (kind == BETWEEN)
                stays[r] = _mm512_mask_cmp_ps_mask(stays[r], magnitude,
                                                   _mm512_set1_ps(row->highest), _CMP_LE_OQ);
        }
        else if (kind == DRAWN) {
            stays[r] = (__mmask16)_pext_u32(kept[r], odd ? 0xaaaaaaaau : 0x55555555u);
            if (row->kept_over != 1.0f)
                y[r] = _mm512_div_ps(y[r], _mm512_set1_ps(row->kept_over));
        }
        else stays[r] = 0xffff;
        if (elects) {
            __m512 vote = units ? y[r] : _mm512_mul_ps(y[r], _mm512_set1_ps(row->vote));
            votes = _mm512_mask_add_ps(votes, stays[r], votes, vote);
        }
        else {
            __m512 part_of = units ? y[r] : _mm512_mul_ps(y[r], _mm512_set1_ps(row->weight));
            sum = _mm512_mask_add_ps(sum, stays[r], sum, part_of);
        }
    }
    if (!elects) return sum;
    const __mmask16 plus = _mm512_cmp_ps_mask(votes, zero, _CMP_GT_OQ);
    const __mmask16 minus = _mm512_cmp_ps_mask(votes, zero, _CMP_LT_OQ);
    const __m512 sign = _mm512_mask_mov_ps(_mm512_maskz_mov_ps(plus, one), minus,
                                           _mm512_set1_ps(-1.0f));
    for (Py_ssize_t r = 0; r < k; r++) {
        const __m512 magnitude = _mm512_maskz_mul_ps(stays[r], y[r], sign);
        const __mmask16 wins = _mm512_cmp_ps_mask(magnitude, zero, _CMP_GT_OQ);
        const __m512 part_of =
            units ? magnitude : _mm512_mul_ps(magnitude, _mm512_set1_ps(run->rows[r].weight));
        sum = _mm512_mask_add_ps(sum, wins, sum, part_of);
        if (run->divides) {
            const __m512 divisor = units ? one : _mm512_set1_ps(run->rows[r].divisor);
            mass = _mm512_mask_add_ps(mass, wins, mass, divisor);
        }
    }
    if (run->divides) sum = divided(sum, mass, run->inverts);
    return _mm512_mul_ps(sum, sign);
}

/* the merged delta over the divisor, times the factors, and added to the base */
FUSED INLINE __m512i result_16(const Run *run, __m512 merged, __m512 b, __m512 *squares)
{
    if (run->divisor != 1.0f)
        merged = _mm512_div_ps(merged, _mm512_set1_ps(run->divisor));
    for (Py_ssize_t f = 0; f < run->n_factors; f++)
        merged = _mm512_mul_ps(merged, _mm512_set1_ps(run->factors[f]));
    *squares = _mm512_add_ps(*squares, _mm512_mul_ps(merged, merged));
    const __mmask16 moved = _mm512_cmp_ps_mask(merged, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    return rounded_16(_mm512_mask_add_ps(b, moved, b, merged));
}

/* the next of a sparse delta's values where bits are set, 0 elsewhere; 32 are there to be read */
FUSED INLINE __m512i next_32(Row *row, uint32_t bits)
{
    __m512i values = _mm512_loadu_si512(row->stored);
    __asm__("" : "+v"(values)); /* loaded by itself: AMD's are slow to expand from memory */
    row->stored += __builtin_popcount(bits);
    return _mm512_maskz_expand_epi16(bits, values);
}

/* 32 entries, number `at` .. of the run; bits: of each delta, those kept or stored */
FUSED INLINE void fuse_32(Run *run, const Py_ssize_t k, const Kind kind, const int elects,
                          const int units, Py_ssize_t at, const uint32_t *bits, const int part,
                          Sums *sums)
{
    const __m512i highest = _mm512_set1_epi16(0x7fff), base = _mm512_loadu_si512(run->base + at);
    __m512i halves[MOST_FUSED], both[2];
    for (Py_ssize_t r = 0; r < k; r++)
        halves[r] = kind == SPARSE ? next_32(run->rows + r, bits[r])
                                   : _mm512_loadu_si512(run->rows[r].stored + at);
#define HALF(odd)                                                                                  \
    do {                                                                                           \
        const __m512 b = widened_16(base, odd);                                                    \
        const __m512 sum = merged_16(run, k, kind, elects, units, halves, bits, b, odd, part, sums); \
        both[odd] = result_16(run, sum, b, &sums->squares[k][part][odd]);                          \
    } while (0)
    HALF(0);
    HALF(1);
#undef HALF
    const __m512i out = _mm512_mask_mov_epi16(_mm512_srli_epi32(both[0], 16), 0xaaaaaaaau, both[1]);
    sums->base = _mm512_max_epu16(sums->base, _mm512_and_si512(base, highest));
    sums->result = _mm512_max_epu16(sums->result, _mm512_and_si512(out, highest));
    sums->other = _mm512_or_si512(sums->other, _mm512_xor_si512(out, base));
    _mm512_storeu_si512(run->out + at, out);
}

/* 64 entries, number `at` .. of the run, that no delta has */
FUSED INLINE void copy_64(const Run *run, Py_ssize_t at, Sums *sums)
{
    const __m512i highest = _mm512_set1_epi16(0x7fff);
    for (int part = 0; part < 64; part += 32) {
        const __m512i base = _mm512_loadu_si512(run->base + at + part);
        sums->base = _mm512_max_epu16(sums->base, _mm512_and_si512(base, highest));
        _mm512_storeu_si512(run->out + at + part, base);
    }
}

FUSED INLINE void fuse_run(Run *run, const Py_ssize_t k, const Kind kind, const int elects,
                           const int units, Sums *sums)
{
    Run own = *run; /* which nothing else can point to: the compiler may keep it in registers */
    Sums up;
    memset(&up, 0, sizeof up);
    for (Py_ssize_t at = 0; at < own.n; at += LANES) {
        uint32_t bits[LANES / 32][MOST_FUSED];
        uint64_t any = 0;
        for (Py_ssize_t r = 0; r < k && (kind == DRAWN || kind == SPARSE); r++) {
            bits[0][r] = (uint32_t)own.words[r][at / 64];
            bits[1][r] = (uint32_t)(own.words[r][at / 64] >> 32);
            any |= own.words[r][at / 64];
        }
        if (kind == SPARSE && !any && own.leaves) {
            copy_64(&own, at, &up);
            continue;
        }
        fuse_32(&own, k, kind, elects, units, at, bits[0], 0, &up);
        fuse_32(&own, k, kind, elects, units, at + 32, bits[1], 1, &up);
    }
    *run = own;
    *sums = up;
}

#define FUSE_K(kind, elects, units)                                                                \
    FUSED static void fuse_##kind##_##elects##_##units(Run *run, Py_ssize_t k, Sums *sums)         \
    {                                                                                              \
        if (k == 2) fuse_run(run, 2, kind, elects, units, sums);                                   \
        else if (k == 3) fuse_run(run, 3, kind, elects, units, sums);                              \
        else fuse_run(run, k, kind, elects, units, sums);                                          \
    }
#define FUSE_EACH(kind)                                                                            \
    FUSE_K(kind, 0, 0) FUSE_K(kind, 0, 1) FUSE_K(kind, 1, 0) FUSE_K(kind, 1, 1)

FUSE_EACH(TRIMMED)
FUSE_EACH(BETWEEN)
FUSE_EACH(DRAWN)
FUSE_EACH(SPARSE)

typedef void Fuse(Run *run, Py_ssize_t k, Sums *sums);
static Fuse *const fuses[4][2][2] = {
#define EACH(kind) {{fuse_##kind##_0_0, fuse_##kind##_0_1}, {fuse_##kind##_1_0, fuse_##kind##_1_1}}
    EACH(TRIMMED), EACH(BETWEEN), EACH(DRAWN), EACH(SPARSE)
#undef EACH
};

#endif
#endif
