/* The inner loops of a merge, each one pass over memory. Optional: deltakit/kernels.py falls back
 * to torch, which gives the same bits. Compiled without contraction: a product is rounded before it
 * is added. Called with addresses that kernels.py has checked; floats are IEEE float32.
 *
 * Here is what Python calls: addresses and counts as integers, deltas and weights as tuples. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include "bytes.h"
#include "fused.h"
#include "gram.h"
#include "select.h"
#include "sparsify.h"

static int floats_of(PyObject *tuple, float *out, Py_ssize_t k)
{
    if (PyTuple_Size(tuple) != k) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a weight goes with each row");
        return -1;
    }
    for (Py_ssize_t i = 0; i < k; i++) out[i] = (float)PyFloat_AsDouble(PyTuple_GetItem(tuple, i));
    return PyErr_Occurred() ? -1 : 0;
}

/* (address, dtype, file or -1, where it begins there); 1, or 0 for None, -1 for an error */
static int values_of(PyObject *tuple, Values *out)
{
    PyObject *part[4];
    if (tuple == Py_None) return 0;
    for (int i = 0; i < 4; i++)
        if (!(part[i] = PyTuple_GetItem(tuple, i))) return -1;
    out->memory = PyLong_AsVoidPtr(part[0]);
    out->dtype = (int)PyLong_AsLong(part[1]);
    out->fd = (int)PyLong_AsLong(part[2]);
    out->offset = PyLong_AsLongLong(part[3]);
    return PyErr_Occurred() ? -1 : 1;
}

/* (key, key where level, whole, limit, index of the first entry); 1, or 0 for None, -1 for an error */
static int draws_of(PyObject *tuple, Draws *out)
{
    unsigned long long part[5];
    if (tuple == Py_None) return 0;
    for (int i = 0; i < 5; i++) {
        PyObject *item = PyTuple_GetItem(tuple, i);
        if (!item) return -1;
        part[i] = PyLong_AsUnsignedLongLong(item);
    }
    *out = (Draws){part[0], part[1], part[3], (uint8_t)part[2], part[4]};
    return PyErr_Occurred() ? -1 : 1;
}

/* a tuple of (values, minus the base, threshold or None, ties, kept or 0, how it is drawn or None,
 * divisor, bits or 0, bits to skip, number of values, highest or None, its ties) */
static Py_ssize_t deltas_of(PyObject *tuple, Py_ssize_t most, Delta *out)
{
    Py_ssize_t k = PyTuple_Size(tuple);
    if (k < 1 || k > most) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "too many rows, or none");
        return -1;
    }
    for (Py_ssize_t r = 0; r < k; r++) {
        PyObject *row = PyTuple_GetItem(tuple, r), *part[12];
        for (int i = 0; i < 12; i++)
            if (!(part[i] = PyTuple_GetItem(row, i))) return -1;
        Delta *delta = out + r;
        if (values_of(part[0], &delta->values) != 1) return -1;
        delta->minus_base = PyObject_IsTrue(part[1]);
        delta->trims = part[2] != Py_None;
        delta->threshold = delta->trims ? (float)PyFloat_AsDouble(part[2]) : 0.0f;
        delta->below = next_below(delta->threshold);
        delta->ties = PyLong_AsSsize_t(part[3]);
        delta->kept = PyLong_AsVoidPtr(part[4]);
        if ((delta->draws = draws_of(part[5], &delta->drawn)) < 0) return -1;
        delta->divisor = (float)PyFloat_AsDouble(part[6]);
        delta->bits = PyLong_AsVoidPtr(part[7]);
        delta->skip = PyLong_AsSsize_t(part[8]);
        delta->left = PyLong_AsSsize_t(part[9]);
        delta->tops = part[10] != Py_None;
        delta->highest = delta->tops ? (float)PyFloat_AsDouble(part[10]) : 0.0f;
        delta->lower = next_below(delta->highest);
        delta->top_ties = PyLong_AsSsize_t(part[11]);
        if (PyErr_Occurred()) return -1;
    }
    return k;
}

/* (weights, votes or None, divisors or None, carries or None, by count, divisor, factors) */
static int formula_of(PyObject *tuple, Py_ssize_t k, Formula *out)
{
    PyObject *part[7];
    for (int i = 0; i < 7; i++)
        if (!(part[i] = PyTuple_GetItem(tuple, i))) return -1;
    out->elects = part[1] != Py_None;
    out->divides = part[2] != Py_None;
    out->carries_on = part[3] != Py_None;
    out->by_count = PyObject_IsTrue(part[4]);
    out->divisor = (float)PyFloat_AsDouble(part[5]);
    out->n_factors = PyTuple_Size(part[6]);
    if (out->n_factors > MOST_ROWS) {
        PyErr_SetString(PyExc_ValueError, "too many factors");
        return -1;
    }
    if (floats_of(part[0], out->weights, k) < 0) return -1;
    if (out->elects && floats_of(part[1], out->votes, k) < 0) return -1;
    if (out->divides && floats_of(part[2], out->divisors, k) < 0) return -1;
    if (out->carries_on && floats_of(part[3], out->carries, k) < 0) return -1;
    return floats_of(part[6], out->factors, out->n_factors);
}

#define EXPECT(count)                                                                              \
    if (nargs != (count)) return PyErr_Format(PyExc_TypeError, "%d arguments expected", (count))
#define POINTER(i) PyLong_AsVoidPtr(args[i])
#define SIZE(i) PyLong_AsSsize_t(args[i])
#define RUN(...)                                                                                   \
    if (PyErr_Occurred()) return NULL;                                                             \
    Py_BEGIN_ALLOW_THREADS __VA_ARGS__; Py_END_ALLOW_THREADS

/* (a low and a high for each delta, most, addresses of places, of the base's entries and of those of
 * each delta); 1, or 0 for None, -1 for an error */
static int apart_of(PyObject *tuple, Py_ssize_t k, Apart *out)
{
    PyObject *part[5];
    if (tuple == Py_None) return 0;
    for (int i = 0; i < 5; i++)
        if (!(part[i] = PyTuple_GetItem(tuple, i))) return -1;
    out->most = PyLong_AsSsize_t(part[1]);
    out->places = PyLong_AsVoidPtr(part[2]);
    out->base = PyLong_AsVoidPtr(part[3]);
    for (Py_ssize_t r = 0; r < k && !PyErr_Occurred(); r++) {
        PyObject *range = PyTuple_GetItem(part[0], r), *entries = PyTuple_GetItem(part[4], r);
        if (!range || !entries) return -1;
        out->low[r] = (int32_t)PyLong_AsLong(PyTuple_GetItem(range, 0));
        out->high[r] = (int32_t)PyLong_AsLong(PyTuple_GetItem(range, 1));
        out->deltas[r] = PyLong_AsVoidPtr(entries);
    }
    return PyErr_Occurred() ? -1 : 1;
}

/* (how many were set apart, how many of each delta are higher) */
static PyObject *found_apart(const Apart *apart, Py_ssize_t k)
{
    PyObject *above = PyTuple_New(k), *result = NULL;
    for (Py_ssize_t r = 0; above && r < k; r++)
        PyTuple_SetItem(above, r, PyLong_FromSsize_t(apart->above[r]));
    if (above && !PyErr_Occurred()) result = Py_BuildValue("nO", apart->count, above);
    Py_XDECREF(above);
    return result;
}

static PyObject *found(const Delta *deltas, const Squares *squares, Py_ssize_t k, const Target *out,
                       const Apart *apart)
{
    PyObject *aside = apart ? found_apart(apart, k) : Py_NewRef(Py_None);
    PyObject *sums = PyTuple_New(k + 1), *left = PyTuple_New(k), *result = NULL;
    uint32_t odd = 0, other = 0;
    for (Py_ssize_t r = 0; sums && left && r <= k; r++) {
        PyTuple_SetItem(sums, r, PyFloat_FromDouble(squares[r].sum));
        if (r < k) PyTuple_SetItem(left, r, PyLong_FromSsize_t(deltas[r].left));
    }
    for (int lane = 0; lane < LANES; lane++) {
        odd |= out->odd[lane];
        other |= out->other[lane];
    }
    if (sums && left && aside && !PyErr_Occurred())
        result = Py_BuildValue("OOOOO", odd & ODD ? Py_False : Py_True, other ? Py_True : Py_False,
                               sums, left, aside);
    Py_XDECREF(aside);
    Py_XDECREF(sums);
    Py_XDECREF(left);
    return result;
}

/* (deltas, n, formula, base or None, address of the result or 0, its dtype, whether it is added to
 * the base, whether squares are wanted, what is set apart or None) -> (finite, changed, squares of
 * each delta and the sum, values left of each, what was set apart), or None where a file did not give
 * what it should, or too much was to be set apart */
static PyObject *py_combine(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(9);
    Values base;
    Formula formula;
    Target out = {POINTER(4), (int)SIZE(5), PyObject_IsTrue(args[6]), {0}, {0}};
    Py_ssize_t n = SIZE(1), k = PyTuple_Size(args[0]);
    int has_base = values_of(args[3], &base), wants = PyObject_IsTrue(args[7]), done = 0;
    if (PyErr_Occurred()) return NULL;
    PyObject *result = NULL;
    Delta *deltas = PyMem_Calloc((size_t)k + 1, sizeof *deltas);
    Squares *squares = PyMem_Calloc((size_t)k + 1, sizeof *squares);
    Apart *apart = PyMem_Calloc(1, sizeof *apart);
    float *rows = PyMem_Malloc(((size_t)k + 1) * CHUNK * sizeof *rows);
    if (!deltas || !squares || !apart || !rows) PyErr_NoMemory();
    else if (deltas_of(args[0], MOST_ROWS, deltas) > 0 && formula_of(args[2], k, &formula) == 0) {
        int sets = apart_of(args[8], k, apart);
        if (sets >= 0) {
            Py_BEGIN_ALLOW_THREADS
            done = combine_all(deltas, k, n, &formula, has_base ? &base : NULL,
                               wants ? squares : NULL, rows, &out, sets ? apart : NULL);
            Py_END_ALLOW_THREADS
            result = done ? found(deltas, squares, k, &out, sets ? apart : NULL) : Py_NewRef(Py_None);
        }
    }
    PyMem_Free(apart);
    PyMem_Free(deltas);
    PyMem_Free(squares);
    PyMem_Free(rows);
    return result;
}

/* (deltas, base or None, starts, length, address of a row for each delta) -> whether the files gave
 * what they should */
static PyObject *py_magnitudes(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(5);
    Values base;
    Py_ssize_t length = SIZE(3), k = PyTuple_Size(args[0]), n_starts = PyTuple_Size(args[2]);
    int has_base = values_of(args[1], &base), done = 0;
    int32_t *out = POINTER(4);
    if (PyErr_Occurred()) return NULL;
    PyObject *result = NULL;
    Delta *deltas = PyMem_Calloc((size_t)k + 1, sizeof *deltas);
    Py_ssize_t *starts = PyMem_Calloc((size_t)n_starts + 1, sizeof *starts);
    if (!deltas || !starts) PyErr_NoMemory();
    else if (deltas_of(args[0], MOST_ROWS, deltas) > 0) {
        for (Py_ssize_t s = 0; s < n_starts; s++)
            starts[s] = PyLong_AsSsize_t(PyTuple_GetItem(args[2], s));
        if (!PyErr_Occurred()) {
            Py_BEGIN_ALLOW_THREADS
            done = magnitudes_all(deltas, k, has_base ? &base : NULL, starts, n_starts, length, out);
            Py_END_ALLOW_THREADS
            result = PyBool_FromLong(done);
        }
    }
    PyMem_Free(deltas);
    PyMem_Free(starts);
    return result;
}

/* (low, high, addresses of values and places); 0, or -1 for an error */
static int bracket_of(PyObject *tuple, Bracket *out)
{
    PyObject *part[4];
    for (int i = 0; i < 4; i++)
        if (!(part[i] = PyTuple_GetItem(tuple, i))) return -1;
    out->low = (int32_t)PyLong_AsLong(part[0]);
    out->high = (int32_t)PyLong_AsLong(part[1]);
    out->values = PyLong_AsVoidPtr(part[2]);
    out->places = PyLong_AsVoidPtr(part[3]);
    return PyErr_Occurred() ? -1 : 0;
}

/* (deltas, n, base or None, a bracket for each delta) -> (above, inside, above, inside, ...), or
 * None where a file did not give what it should */
static PyObject *py_bracket(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(4);
    Values base;
    Py_ssize_t n = SIZE(1), k = PyTuple_Size(args[0]);
    int has_base = values_of(args[2], &base), done = 0;
    if (PyErr_Occurred()) return NULL;
    PyObject *result = NULL;
    Delta *deltas = PyMem_Calloc((size_t)k + 1, sizeof *deltas);
    Bracket *found = PyMem_Calloc((size_t)k + 1, sizeof *found);
    if (!deltas || !found) PyErr_NoMemory();
    else if (deltas_of(args[0], MOST_ROWS, deltas) > 0) {
        for (Py_ssize_t r = 0; r < k && !PyErr_Occurred(); r++)
            bracket_of(PyTuple_GetItem(args[3], r), found + r);
        if (!PyErr_Occurred()) {
            Py_BEGIN_ALLOW_THREADS
            done = bracket_all(deltas, k, n, has_base ? &base : NULL, found);
            Py_END_ALLOW_THREADS
            result = done ? PyTuple_New(2 * k) : Py_NewRef(Py_None);
        }
        for (Py_ssize_t r = 0; done && result && r < k; r++) {
            PyTuple_SetItem(result, 2 * r, PyLong_FromSsize_t(found[r].above));
            PyTuple_SetItem(result, 2 * r + 1, PyLong_FromSsize_t(found[r].inside));
        }
    }
    PyMem_Free(deltas);
    PyMem_Free(found);
    return result;
}

/* (deltas, n, base or None, whether it is a row too, room for LANES sums of each pair of rows) ->
 * whether the files gave what they should */
static PyObject *py_gram(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(5);
    Values base;
    Py_ssize_t n = SIZE(1), k = PyTuple_Size(args[0]);
    int has_base = values_of(args[2], &base), with_base = PyObject_IsTrue(args[3]), done = 0;
    double *lanes = POINTER(4);
    if (PyErr_Occurred()) return NULL;
    PyObject *result = NULL;
    Delta *deltas = PyMem_Calloc((size_t)k + 1, sizeof *deltas);
    double *rows = PyMem_Malloc(((size_t)k + 1) * CHUNK * sizeof *rows);
    if (!deltas || !rows) PyErr_NoMemory();
    else if (deltas_of(args[0], MOST_ROWS, deltas) > 0) {
        Py_BEGIN_ALLOW_THREADS
        done = multiply_all(deltas, k, n, has_base ? &base : NULL, with_base, rows, lanes);
        Py_END_ALLOW_THREADS
        result = PyBool_FromLong(done);
    }
    PyMem_Free(deltas);
    PyMem_Free(rows);
    return result;
}

/* (one delta, n, base or None, dtype of the values, whose, address of values or 0, of bits or 0) ->
 * (how many stay, how many are kept, bits of the largest magnitude, whether any was rounded), or None
 * where a file did not give what it should */
static PyObject *py_sparsify(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(7);
    Delta delta;
    Values base;
    Py_ssize_t n = SIZE(1);
    Sparse out = {POINTER(5), POINTER(6), (int)SIZE(3), (int)SIZE(4), 0, 0, 0, 0};
    int has_base = values_of(args[2], &base), done = 0;
    if (PyErr_Occurred() || deltas_of(args[0], 1, &delta) < 0) return NULL;
    Py_BEGIN_ALLOW_THREADS
    done = sparsify(&delta, n, has_base ? &base : NULL, &out);
    Py_END_ALLOW_THREADS
    if (!done) return Py_NewRef(Py_None);
    return Py_BuildValue("nnIO", out.staying, out.kept, out.highest, out.rounded ? Py_True : Py_False);
}

/* (how it is drawn, n, bits) */
static PyObject *py_draw_bits(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(3);
    Draws draws;
    Py_ssize_t n = SIZE(1);
    uint8_t *bits = POINTER(2);
    if (draws_of(args[0], &draws) != 1) return NULL;
    RUN(draw_bits(&draws, n, bits));
    return Py_NewRef(Py_None);
}

/* (bits, n, of how many at a time they are counted, room for the counts) */
static PyObject *py_count_bits(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(4);
    const uint8_t *bits = POINTER(0);
    Py_ssize_t n = SIZE(1), each = SIZE(2);
    int64_t *counts = POINTER(3);
    RUN(count_bits(bits, n, each, counts));
    return Py_NewRef(Py_None);
}

/* (indices, bytes of each, how many, the first entry, how many entries, their bits) */
static PyObject *py_mark(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(6);
    const void *indices = POINTER(0);
    int width = (int)SIZE(1);
    Py_ssize_t count = SIZE(2), start = SIZE(3), n = SIZE(4);
    uint8_t *bits = POINTER(5);
    RUN(mark(indices, width, count, (uint64_t)start, (uint64_t)n, bits));
    return Py_NewRef(Py_None);
}

/* (values, how many, dtype, bits, bits to skip, n, base or 0, out) -> how many bits were set */
static PyObject *py_scatter(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(8);
    const void *values = POINTER(0), *bits = POINTER(3), *base = POINTER(6);
    Py_ssize_t most = SIZE(1), skip = SIZE(4), n = SIZE(5), set = 0;
    int dtype = (int)SIZE(2);
    float *out = POINTER(7);
    RUN(set = scatter(values, most, dtype, bits, skip, n, base, out));
    return PyLong_FromSsize_t(set);
}

/* (entries, other entries, bytes of each, how many, address of those that differ or 0, of bits or 0)
 * -> how many differ */
static PyObject *py_differ(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(6);
    const void *ours = POINTER(0), *theirs = POINTER(1);
    int size = (int)SIZE(2);
    Py_ssize_t n = SIZE(3), found = 0;
    void *values = POINTER(4);
    uint8_t *bits = POINTER(5);
    RUN(found = differ(ours, theirs, size, n, values, bits));
    return PyLong_FromSsize_t(found);
}

/* (values, how many, bytes of each, bits, bits to skip, n, out) -> how many bits were set */
static PyObject *py_overwrite(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(7);
    const void *values = POINTER(0), *bits = POINTER(3);
    Py_ssize_t most = SIZE(1), skip = SIZE(4), n = SIZE(5), set = 0;
    int size = (int)SIZE(2);
    void *out = POINTER(6);
    RUN(set = overwrite(values, most, size, bits, skip, n, out));
    return PyLong_FromSsize_t(set);
}

/* (entries, their dtype, places, how many, out) */
static PyObject *py_put(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(5);
    const void *entries = POINTER(0), *places = POINTER(2);
    int dtype = (int)SIZE(1);
    Py_ssize_t count = SIZE(3);
    void *out = POINTER(4);
    RUN(put(entries, dtype, places, count, out));
    return Py_NewRef(Py_None);
}

/* (whether to run what is written by hand for some processors, here only where this one can) ->
 * whether it was: so that one machine can compare both */
static PyObject *py_by_hand(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(1);
    int was = 0;
#if defined(BY_HAND)
    was = by_hand;
    by_hand = PyObject_IsTrue(args[0]) ? what_fits() : 0;
#endif
    return PyBool_FromLong(was);
}

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, NULL}

static PyMethodDef methods[] = {
    METHOD(combine), METHOD(put), METHOD(magnitudes), METHOD(bracket), METHOD(gram),
    METHOD(sparsify), METHOD(draw_bits), METHOD(count_bits), METHOD(mark), METHOD(scatter),
    METHOD(differ), METHOD(overwrite), METHOD(by_hand),
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void)
{
#if defined(BY_HAND)
    by_hand = what_fits();
#endif
    PyObject *made = PyModule_Create(&module);
    /* raised with every change of what is passed: kernels.py does not call those of another build */
    if (made && PyModule_AddIntConstant(made, "INTERFACE", 9) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
