/* Which runs of a slice are merged in registers, and the whole slice. */

#ifndef DELTAKIT_FUSED_H
#define DELTAKIT_FUSED_H

#include "apart.h"

#if defined(BY_HAND)

/* what of each delta becomes a row; the kind of all of them, or -1 where they cannot be fused */
static int rows_of(const Delta *deltas, Py_ssize_t k, const Formula *formula, Run *run)
{
    int kind = -1;
    float mass = 0.0f, nothing = 0.0f / formula->divisor; /* NaN from what is not finite */
    for (Py_ssize_t f = 0; f < formula->n_factors; f++) nothing *= formula->factors[f];
    for (Py_ssize_t r = 0; r < k; r++) {
        const Delta *delta = deltas + r;
        const Py_ssize_t ties = delta->ties - run->from, top_ties = delta->top_ties - run->from;
        const int own = delta->bits ? SPARSE : delta->draws ? DRAWN : delta->tops ? BETWEEN : TRIMMED;
        Row *row = run->rows + r;
        if (delta->values.dtype != BF16 || delta->kept || (r && own != kind)) return -1;
        if (r && delta->minus_base != run->minus_base) return -1;
        if ((own == SPARSE || own == DRAWN) && (delta->trims || delta->tops)) return -1;
        if (own == SPARSE && (delta->minus_base || delta->draws)) return -1;
        if (delta->trims && 0 < ties && ties < run->n) return -1;
        if (delta->tops && 0 < top_ties && top_ties < run->n) return -1;
        *row = (Row){.stored = (const uint16_t *)delta->stored};
        row->threshold = !delta->trims ? -1.0f : ties > 0 ? delta->below : delta->threshold;
        row->highest = top_ties > 0 ? delta->lower : delta->highest;
        row->kept_over = delta->divisor;
        row->weight = formula->weights[r];
        row->vote = formula->elects ? formula->votes[r] : 0.0f;
        row->divisor = formula->divides ? formula->divisors[r] : 0.0f;
        run->minus_base = delta->minus_base;
        mass += row->divisor;
        nothing += 0.0f * row->weight;
        kind = own;
    }
    run->leaves = nothing == 0.0f;
    run->inverts = mass < 0x1p100f;
    return kind;
}

/* a bit for each entry of the run: those kept or stored; 0 where there are too few values left to
 * read them 32 at a time */
FUSED static int bits_of(const Run *run, const Delta *delta, int kind, uint64_t *words)
{
    const Py_ssize_t at = delta->skip + run->from, count = run->n / 64;
    Py_ssize_t set = 0;
    if (kind == DRAWN) draw_words(&delta->drawn, run->from, run->n, words);
    if (kind != SPARSE) return 1;
    if (at % 8 == 0) memcpy(words, delta->bits + at / 8, (size_t)count * 8);
    else for (Py_ssize_t i = 0; i < count; i++) words[i] = bits_from(delta->bits, at + 64 * i, 64);
    if (delta->left >= run->n + 32) return 1; /* however many are set */
    for (Py_ssize_t i = 0; i < count; i++) set += __builtin_popcountll(words[i]);
    return delta->left - set >= 32;
}

static int all_units(const Formula *formula, Py_ssize_t k)
{
    for (Py_ssize_t r = 0; r < k; r++) {
        if (formula->weights[r] != 1.0f) return 0;
        if (formula->elects && formula->votes[r] != 1.0f) return 0;
        if (formula->divides && formula->divisors[r] != 1.0f) return 0;
    }
    return 1;
}

/* hand over a run's squares, lane by lane; 0 where something is not finite */
FUSED static int take_over(const Sums *sums, Py_ssize_t k, Squares *squares, Target *out)
{
    const __m512i highest = _mm512_max_epu16(sums->base, sums->result);
    const __m512i first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    if (_mm512_cmpge_epu16_mask(highest, _mm512_set1_epi16(0x7f80))) return 0;
    for (Py_ssize_t r = 0; r <= k; r++)
        for (int i = 0; i < 4; i++)
            if (_mm512_fpclass_ps_mask(sums->squares[r][i / 2][i % 2], NOT_FINITE)) return 0;
    for (Py_ssize_t r = 0; r <= k; r++)
        for (int part = 0; part < LANES / 32; part++) {
            const __m512 *halves = sums->squares[r][part];
            float *lanes = squares[r].lanes + 32 * part;
            _mm512_storeu_ps(lanes, _mm512_permutex2var_ps(halves[0], first, halves[1]));
            _mm512_storeu_ps(lanes + 16, _mm512_permutex2var_ps(halves[0], second, halves[1]));
        }
    out->other[0] |= _mm512_test_epi32_mask(sums->other, sums->other) != 0;
    return 1;
}

/* A run, as combine(); 0 where that must do it. */
static int fuse(Delta *deltas, Py_ssize_t k, Py_ssize_t from, Py_ssize_t n, const Formula *formula,
                const char *base, int base_dtype, Squares *squares, Target *out)
{
    uint64_t words[MOST_FUSED][WORDS];
    Run run = {.from = from, .n = n, .words = words, .base = (const uint16_t *)base,
               .out = (uint16_t *)out->memory + from, .divides = formula->divides,
               .divisor = formula->divisor, .factors = formula->factors,
               .n_factors = formula->n_factors};
    Sums sums;
    int kind;
    if (by_hand < 2 || k > MOST_FUSED || n % LANES || !base || base_dtype != BF16 || !squares)
        return 0;
    if (!out->adds || out->dtype != BF16 || formula->by_count || formula->carries_on) return 0;
    if ((kind = rows_of(deltas, k, formula, &run)) < 0) return 0;
    for (Py_ssize_t r = 0; r < k; r++)
        if (!bits_of(&run, deltas + r, kind, words[r])) return 0;
    fuses[kind][formula->elects][all_units(formula, k)](&run, k, &sums);
    if (!take_over(&sums, k, squares, out)) return 0;
    for (Py_ssize_t r = 0; kind == SPARSE && r < k; r++) {
        const uint16_t *before = (const uint16_t *)deltas[r].stored;
        deltas[r].left -= run.rows[r].stored - before;
        deltas[r].stored = (const char *)run.rows[r].stored;
    }
    return 1;
}

#endif

/* the whole slice, run after run, perhaps with some entries set apart as they come; 0 where a file
 * did not give what it should, or where there is no room for what is set apart */
static int combine_all(Delta *deltas, Py_ssize_t k, Py_ssize_t n, const Formula *formula,
                       const Values *base, Squares *squares, float *rows, Target *out, Apart *apart)
{
    const char *base_at = NULL;
    const int dtype = base ? base->dtype : F32;
    for (Py_ssize_t at = 0; at < n; at += OFTEN) {
        const Py_ssize_t count = n - at < OFTEN ? n - at : OFTEN;
        if (at % STRETCH == 0) {
            if (!bring(deltas, k, base, at, n - at < STRETCH ? n - at : STRETCH, &base_at)) return 0;
        }
        else step(deltas, k, base, OFTEN, &base_at);
        if (apart && !set_apart(deltas, k, at, count, base_at, dtype, apart)) return 0;
#if defined(BY_HAND)
        if (!fuse(deltas, k, at, count, formula, base_at, dtype, squares, out))
#endif
            combine(deltas, k, at, count, formula, base_at, dtype, squares, rows, out);
        if (squares) settle(squares, k + 1);
    }
    return 1;
}

#endif
