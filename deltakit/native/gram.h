/* Inner products of deltas, and of their base, in float64: products of float32 are exact there. */

#ifndef DELTAKIT_GRAM_H
#define DELTAKIT_GRAM_H

#include "combine.h"

/* One stretch, which begins at `from` of the slice. rows: room for CHUNK of each delta and the base;
 * lanes: sums of every pair i <= j, row by row, entry n of the slice in n % LANES. */
WIDE static void multiply(Delta *deltas, Py_ssize_t k, Py_ssize_t from, Py_ssize_t n,
                          const char *base, int base_dtype, int with_base, double *rows,
                          double *lanes)
{
    CHUNKS(n, {
        float b[CHUNK] = {0}, x[CHUNK];
        double *pair = lanes;
        if (base) widen(base, base_dtype, at, count, b);
        for (Py_ssize_t r = 0; r < k + with_base; r++) {
            if (r < k) load(deltas + r, from, at, count, b, x);
            for (Py_ssize_t i = 0; i < count; i++) rows[r * CHUNK + i] = (double)(r < k ? x : b)[i];
        }
        for (Py_ssize_t r = 0; r < k + with_base; r++)
            for (Py_ssize_t s = r; s < k + with_base; s++, pair += LANES) {
                const double *restrict left = rows + r * CHUNK;
                const double *restrict right = rows + s * CHUNK;
                double own[LANES];
                memcpy(own, pair, sizeof own);
                BY_LANES(count, own[lane] += left[i] * right[i];);
                memcpy(pair, own, sizeof own);
            }
    });
}

/* the whole slice, stretch after stretch; 0 where a file did not give what it should */
static int multiply_all(Delta *deltas, Py_ssize_t k, Py_ssize_t n, const Values *base,
                        int with_base, double *rows, double *lanes)
{
    const char *base_at = NULL;
    for (Py_ssize_t at = 0; at < n; at += STRETCH) {
        Py_ssize_t count = n - at < STRETCH ? n - at : STRETCH;
        if (!bring(deltas, k, base, at, count, &base_at)) return 0;
        multiply(deltas, k, at, count, base_at, base ? base->dtype : F32, with_base, rows, lanes);
    }
    return 1;
}

#endif
