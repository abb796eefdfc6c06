/* The inner loops of a merge, each one pass over memory. Optional: deltakit/kernels.py falls back
 * to torch, which gives the same bits. Compiled without contraction: a product is rounded before it
 * is added. Called with addresses that kernels.py has checked; floats are IEEE float32. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "little-endian machines only: the torch path serves the others"
#endif

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12
#define WIDE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDE
#endif

enum { F32, BF16, F16 };
enum { CHUNK = 1024 }; /* floats that stay in the first cache while rows are added up */

static inline float as_float(uint32_t bits) { float f; memcpy(&f, &bits, 4); return f; }
static inline uint32_t as_bits(float f) { uint32_t bits; memcpy(&bits, &f, 4); return bits; }

static inline int lowest_bit(uint64_t word)
{
#if defined(__GNUC__)
    return __builtin_ctzll(word);
#else
    int at = 0;
    for (; !(word & 1); word >>= 1) at++;
    return at;
#endif
}

static inline float from_bf16(uint16_t h) { return as_float((uint32_t)h << 16); }

static inline uint16_t to_bf16(float f)
{
    uint32_t bits = as_bits(f);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16; /* to nearest, ties to even */
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

static inline float from_f16(uint16_t h)
{
    uint32_t magnitude = (uint32_t)(h & 0x7fff);
    /* exponents moved by 112, by a product that also makes infinity and NaN of the largest */
    float normal = as_float((magnitude << 13) + (magnitude >= 0x7c00 ? 0x70000000u : 0x38000000u));
    float subnormal = as_float(magnitude | 0x4b000000u) - 8388608.0f; /* 2^23: an exact integer */
    float positive = magnitude < 0x400 ? subnormal * 0x1p-24f : normal;
    return as_float(as_bits(positive) | (uint32_t)(h & 0x8000) << 16);
}

static inline uint16_t to_f16(float f)
{
    uint32_t bits = as_bits(f), magnitude = bits & 0x7fffffff;
    uint32_t normal = (magnitude - 0x38000000u + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    /* 2^23 / 2^24: the sum rounds to the last place of a subnormal, to nearest even */
    uint32_t subnormal = as_bits(as_float(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    uint32_t big = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return (uint16_t)((magnitude >= 0x477ff000u ? big : finite) | (bits >> 16 & 0x8000));
}

/* out = widened source, minus the base where there is one */
WIDE static void difference(const void *source, int dtype, const float *base, float *out, Py_ssize_t n)
{
    const uint16_t *half = source;
    const float *full = source;
    if (base == NULL) {
        if (dtype == BF16) for (Py_ssize_t i = 0; i < n; i++) out[i] = from_bf16(half[i]);
        else if (dtype == F16) for (Py_ssize_t i = 0; i < n; i++) out[i] = from_f16(half[i]);
        else memcpy(out, full, (size_t)n * 4);
    }
    else {
        if (dtype == BF16) for (Py_ssize_t i = 0; i < n; i++) out[i] = from_bf16(half[i]) - base[i];
        else if (dtype == F16) for (Py_ssize_t i = 0; i < n; i++) out[i] = from_f16(half[i]) - base[i];
        else for (Py_ssize_t i = 0; i < n; i++) out[i] = full[i] - base[i];
    }
}

/* total = w_0 d_0; total += w_i d_i, over one chunk */
static inline void add_up(const float *rows, Py_ssize_t stride, Py_ssize_t k, const float *weights,
                          float *total, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) total[i] = rows[i] * weights[0];
    for (Py_ssize_t r = 1; r < k; r++) {
        const float *row = rows + r * stride;
        float w = weights[r];
        for (Py_ssize_t i = 0; i < count; i++) total[i] += row[i] * w;
    }
}

WIDE static void weighted_sum(const float *rows, Py_ssize_t k, Py_ssize_t n, const float *weights,
                              float *restrict out)
{
    for (Py_ssize_t at = 0; at < n; at += CHUNK)
        add_up(rows + at, n, k, weights, out + at, n - at < CHUNK ? n - at : CHUNK);
}

WIDE static void elect_sign(const float *rows, Py_ssize_t k, Py_ssize_t n, const float *weights,
                            float *restrict out)
{
    for (Py_ssize_t at = 0; at < n; at += CHUNK) {
        Py_ssize_t count = n - at < CHUNK ? n - at : CHUNK;
        float *total = out + at;
        add_up(rows + at, n, k, weights, total, count);
        for (Py_ssize_t i = 0; i < count; i++)
            total[i] = (float)((total[i] > 0.0f) - (total[i] < 0.0f));
    }
}

/* sum of w_i d_i over those with the elected sign; divided by the sum of their divisors if given */
WIDE static void disjoint(const float *rows, Py_ssize_t k, Py_ssize_t n, const float *elected,
                          const float *weights, const float *divisors, float *restrict out)
{
    float mass[CHUNK];
    for (Py_ssize_t at = 0; at < n; at += CHUNK) {
        Py_ssize_t count = n - at < CHUNK ? n - at : CHUNK;
        const float *sign = elected + at;
        float *total = out + at;
        for (Py_ssize_t r = 0; r < k; r++) {
            const float *row = rows + r * n + at;
            float w = weights[r], v = divisors ? divisors[r] : 0.0f;
            for (Py_ssize_t i = 0; i < count; i++) {
                float agrees = row[i] * sign[i] > 0.0f ? 1.0f : 0.0f;
                float term = row[i] * agrees * w, part = agrees * v;
                total[i] = (r ? total[i] : 0.0f) + term;
                mass[i] = (r ? mass[i] : 0.0f) + part;
            }
        }
        if (divisors)
            for (Py_ssize_t i = 0; i < count; i++)
                total[i] /= mass[i] < 0x1p-126f ? 0x1p-126f : mass[i];
    }
}

WIDE static void shrink(const float *row, Py_ssize_t n, float threshold, float *restrict out)
{
    for (Py_ssize_t i = 0; i < n; i++)
        out[i] = as_float(as_bits(row[i]) & 0x7fffffff) <= threshold ? 0.0f : row[i];
}

/* out = row where kept, else 0 (NaN for what is not finite); divided by the divisor if that is not 1 */
WIDE static void keep(const float *row, const uint8_t *kept, Py_ssize_t n, float divisor,
                      float *restrict out)
{
    if (divisor == 1.0f)
        for (Py_ssize_t i = 0; i < n; i++) out[i] = (float)kept[i] * row[i];
    else
        for (Py_ssize_t i = 0; i < n; i++) out[i] = (float)kept[i] * row[i] / divisor;
}

/* count magnitudes above `high`; write down those from `low` to `high`, and where they are */
WIDE static void bracket(const float *row, Py_ssize_t n, int32_t low, int32_t high, int32_t *values,
                         int32_t *places, Py_ssize_t *above, Py_ssize_t *inside)
{
    enum { GROUP = 64 };
    uint32_t width = (uint32_t)high - (uint32_t)low;
    Py_ssize_t more = 0, found = 0;
    Py_ssize_t at = 0;
    for (; at + GROUP <= n; at += GROUP) {
        const float *group = row + at;
        uint8_t between[GROUP];
        int32_t greater = 0;
        for (int j = 0; j < GROUP; j++) {
            uint32_t bits = as_bits(group[j]) & 0x7fffffff;
            greater += (int32_t)bits > high;
            between[j] = bits - (uint32_t)low <= width;
        }
        more += greater;
        for (int word = 0; word < GROUP; word += 8) { /* most groups of eight hold none */
            uint64_t any;
            memcpy(&any, between + word, 8);
            for (; any; any &= any - 1) {
                int j = word + (lowest_bit(any) >> 3);
                values[found] = (int32_t)(as_bits(group[j]) & 0x7fffffff);
                places[found++] = (int32_t)(at + j);
            }
        }
    }
    for (; at < n; at++) {
        int32_t bits = (int32_t)(as_bits(row[at]) & 0x7fffffff);
        more += bits > high;
        if (bits >= low && bits <= high) {
            values[found] = bits;
            places[found++] = (int32_t)at;
        }
    }
    *above = more;
    *inside = found;
}

/* out = base + merged, the base's own value where merged is zero; 1 if all of it is finite */
WIDE static int add_and_round(const float *base, const float *merged, Py_ssize_t n, int dtype, void *out)
{
    uint16_t *half = out, worst = 0;
    uint32_t *full = out, bad = 0;
    if (dtype == BF16) {
        for (Py_ssize_t i = 0; i < n; i++) {
            half[i] = to_bf16(merged[i] != 0.0f ? base[i] + merged[i] : base[i]);
            worst |= (half[i] & 0x7f80) == 0x7f80;
        }
        return !worst;
    }
    if (dtype == F16) {
        for (Py_ssize_t i = 0; i < n; i++) {
            half[i] = to_f16(merged[i] != 0.0f ? base[i] + merged[i] : base[i]);
            worst |= (half[i] & 0x7c00) == 0x7c00;
        }
        return !worst;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        full[i] = as_bits(merged[i] != 0.0f ? base[i] + merged[i] : base[i]);
        bad |= (full[i] & 0x7f800000) == 0x7f800000;
    }
    return !bad;
}

static inline float widened(const void *values, int dtype, Py_ssize_t i)
{
    if (dtype == BF16) return from_bf16(((const uint16_t *)values)[i]);
    if (dtype == F16) return from_f16(((const uint16_t *)values)[i]);
    return ((const float *)values)[i];
}

/* out[j] = the next value (minus the base's) where bit `skip` + j is set; others are left alone */
static void scatter(const void *values, int dtype, const uint8_t *bits, Py_ssize_t skip, Py_ssize_t n,
                    const float *base, float *out)
{
    Py_ssize_t next = 0, end = skip + n;
    for (Py_ssize_t byte = 0; byte * 8 < end; byte += 8) {
        Py_ssize_t size = (end + 7) / 8 - byte;
        uint64_t word = 0;
        memcpy(&word, bits + byte, (size_t)(size < 8 ? size : 8));
        if (byte == 0) word &= ~(uint64_t)0 << skip;
        if (end - byte * 8 < 64) word &= ((uint64_t)1 << (end - byte * 8)) - 1;
        for (; word; word &= word - 1) {
            Py_ssize_t j = byte * 8 - skip + lowest_bit(word);
            float value = widened(values, dtype, next++);
            out[j] = base ? value - base[j] : value;
        }
    }
}

/* ---- what Python calls: addresses and counts as integers, weights as a tuple ---- */

enum { MOST_ROWS = 256 };

static int rows_of(PyObject *tuple, float *out, Py_ssize_t k)
{
    if (k < 1 || k > MOST_ROWS || PyTuple_Size(tuple) != k) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a weight goes with each row");
        return -1;
    }
    for (Py_ssize_t i = 0; i < k; i++) out[i] = (float)PyFloat_AsDouble(PyTuple_GetItem(tuple, i));
    return PyErr_Occurred() ? -1 : 0;
}

#define EXPECT(count)                                                                              \
    if (nargs != (count)) return PyErr_Format(PyExc_TypeError, "%d arguments expected", (count))
#define POINTER(i) PyLong_AsVoidPtr(args[i])
#define SIZE(i) PyLong_AsSsize_t(args[i])
#define RUN(...)                                                                                   \
    if (PyErr_Occurred()) return NULL;                                                             \
    Py_BEGIN_ALLOW_THREADS __VA_ARGS__; Py_END_ALLOW_THREADS

static PyObject *py_difference(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(5);
    const void *source = POINTER(0), *base = POINTER(2);
    float *out = POINTER(3);
    int dtype = (int)SIZE(1);
    Py_ssize_t n = SIZE(4);
    RUN(difference(source, dtype, base, out, n));
    Py_RETURN_NONE;
}

static PyObject *summed(PyObject *const *args, Py_ssize_t nargs, int elects)
{
    EXPECT(5);
    const float *rows = POINTER(0);
    Py_ssize_t k = SIZE(1), n = SIZE(2);
    float weights[MOST_ROWS], *out = POINTER(4);
    if (rows_of(args[3], weights, k) < 0) return NULL;
    RUN(elects ? elect_sign(rows, k, n, weights, out) : weighted_sum(rows, k, n, weights, out));
    Py_RETURN_NONE;
}

static PyObject *py_weighted_sum(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return summed(args, nargs, 0);
}

static PyObject *py_elect_sign(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return summed(args, nargs, 1);
}

static PyObject *py_disjoint(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(7);
    const float *rows = POINTER(0), *elected = POINTER(3);
    Py_ssize_t k = SIZE(1), n = SIZE(2);
    float weights[MOST_ROWS], divisors[MOST_ROWS], *out = POINTER(6);
    int divides = args[5] != Py_None;
    if (rows_of(args[4], weights, k) < 0) return NULL;
    if (divides && rows_of(args[5], divisors, k) < 0) return NULL;
    RUN(disjoint(rows, k, n, elected, weights, divides ? divisors : NULL, out));
    Py_RETURN_NONE;
}

static PyObject *py_shrink(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(4);
    const float *row = POINTER(0);
    Py_ssize_t n = SIZE(1);
    float threshold = (float)PyFloat_AsDouble(args[2]), *out = POINTER(3);
    RUN(shrink(row, n, threshold, out));
    Py_RETURN_NONE;
}

static PyObject *py_keep(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(5);
    const float *row = POINTER(0);
    const uint8_t *kept = POINTER(1);
    Py_ssize_t n = SIZE(2);
    float divisor = (float)PyFloat_AsDouble(args[3]), *out = POINTER(4);
    RUN(keep(row, kept, n, divisor, out));
    Py_RETURN_NONE;
}

static PyObject *py_bracket(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(6);
    const float *row = POINTER(0);
    Py_ssize_t n = SIZE(1), above = 0, inside = 0;
    int32_t low = (int32_t)SIZE(2), high = (int32_t)SIZE(3), *values = POINTER(4), *places = POINTER(5);
    RUN(bracket(row, n, low, high, values, places, &above, &inside));
    return Py_BuildValue("nn", above, inside);
}

static PyObject *py_add_and_round(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(5);
    const float *base = POINTER(0), *merged = POINTER(1);
    Py_ssize_t n = SIZE(2);
    int dtype = (int)SIZE(3), finite = 0;
    void *out = POINTER(4);
    RUN(finite = add_and_round(base, merged, n, dtype, out));
    return PyBool_FromLong(finite);
}

static PyObject *py_scatter(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(7);
    const void *values = POINTER(0), *bits = POINTER(2), *base = POINTER(5);
    int dtype = (int)SIZE(1);
    Py_ssize_t skip = SIZE(3), n = SIZE(4);
    float *out = POINTER(6);
    RUN(scatter(values, dtype, bits, skip, n, base, out));
    Py_RETURN_NONE;
}

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, NULL}

static PyMethodDef methods[] = {
    METHOD(difference), METHOD(weighted_sum), METHOD(elect_sign), METHOD(disjoint),  METHOD(shrink),
    METHOD(keep),       METHOD(bracket),      METHOD(scatter),    METHOD(add_and_round),
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&module); }
