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

/* into every version of a loop: a call would run the plainest one */
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

enum { F32, BF16, F16 };
enum { CHUNK = 64 }; /* floats that stay in registers while rows are added up */

INLINE float as_float(uint32_t bits) { float f; memcpy(&f, &bits, 4); return f; }
INLINE uint32_t as_bits(float f) { uint32_t bits; memcpy(&bits, &f, 4); return bits; }

INLINE int lowest_bit(uint64_t word)
{
#if defined(__GNUC__)
    return __builtin_ctzll(word);
#else
    int at = 0;
    for (; !(word & 1); word >>= 1) at++;
    return at;
#endif
}

INLINE float from_bf16(uint16_t h) { return as_float((uint32_t)h << 16); }

INLINE uint16_t to_bf16(float f)
{
    uint32_t bits = as_bits(f);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16; /* to nearest, ties to even */
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

INLINE float from_f16(uint16_t h)
{
    uint32_t magnitude = (uint32_t)(h & 0x7fff);
    /* exponents moved up by 112, and that of infinity and NaN to the largest */
    float normal = as_float((magnitude << 13) + (magnitude >= 0x7c00 ? 0x70000000u : 0x38000000u));
    float subnormal = as_float(magnitude | 0x4b000000u) - 8388608.0f; /* 2^23: an exact integer */
    float positive = magnitude < 0x400 ? subnormal * 0x1p-24f : normal;
    return as_float(as_bits(positive) | (uint32_t)(h & 0x8000) << 16);
}

INLINE uint16_t to_f16(float f)
{
    uint32_t bits = as_bits(f), magnitude = bits & 0x7fffffff;
    uint32_t normal = (magnitude - 0x38000000u + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    /* 2^23 / 2^24: the sum rounds to the last place of a subnormal, to nearest even */
    uint32_t subnormal = as_bits(as_float(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    uint32_t big = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return (uint16_t)((magnitude >= 0x477ff000u ? big : finite) | (bits >> 16 & 0x8000));
}

/* One expert's delta of a slice: stored - base, then trimmed, then dropped. */
typedef struct {
    const void *stored;
    int dtype;
    const void *base; /* NULL where the delta itself is stored */
    int base_dtype;
    int trims;
    float threshold, below; /* magnitudes up to it become 0; up to `below` among the first ... */
    Py_ssize_t ties;        /* ... so many */
    const uint8_t *kept;    /* NULL where all is */
    float divisor;
} Delta;

/* entries at .. at + count of what is stored, into x */
INLINE void widen(const void *stored, int dtype, Py_ssize_t at, Py_ssize_t count, float *restrict x)
{
    const uint16_t *half = (const uint16_t *)stored + at;
    if (dtype == BF16) for (Py_ssize_t i = 0; i < count; i++) x[i] = from_bf16(half[i]);
    else if (dtype == F16) for (Py_ssize_t i = 0; i < count; i++) x[i] = from_f16(half[i]);
    else memcpy(x, (const float *)stored + at, (size_t)count * 4);
}

INLINE void shrink(float *x, Py_ssize_t count, float threshold)
{
    for (Py_ssize_t i = 0; i < count; i++)
        x[i] = as_float(as_bits(x[i]) & 0x7fffffff) <= threshold ? 0.0f : x[i];
}

/* entries at .. at + count of a delta, into x */
INLINE void load(const Delta *delta, Py_ssize_t at, Py_ssize_t count, float *restrict x)
{
    if (delta->base && delta->dtype == BF16 && delta->base_dtype == BF16) { /* what most are */
        const uint16_t *stored = (const uint16_t *)delta->stored + at;
        const uint16_t *base = (const uint16_t *)delta->base + at;
        for (Py_ssize_t i = 0; i < count; i++) x[i] = from_bf16(stored[i]) - from_bf16(base[i]);
    }
    else widen(delta->stored, delta->dtype, at, count, x);
    if (delta->base && !(delta->dtype == BF16 && delta->base_dtype == BF16)) {
        float base[CHUNK];
        widen(delta->base, delta->base_dtype, at, count, base);
        for (Py_ssize_t i = 0; i < count; i++) x[i] -= base[i];
    }
    if (delta->trims) {
        Py_ssize_t ties = delta->ties - at < 0 ? 0 : delta->ties - at;
        ties = ties < count ? ties : count;
        shrink(x, ties, delta->below);
        shrink(x + ties, count - ties, delta->threshold);
    }
    if (delta->kept) {
        const uint8_t *kept = delta->kept + at;
        float divisor = delta->divisor;
        if (divisor == 1.0f) for (Py_ssize_t i = 0; i < count; i++) x[i] = (float)kept[i] * x[i];
        else for (Py_ssize_t i = 0; i < count; i++) x[i] = (float)kept[i] * x[i] / divisor;
    }
}

/* whole chunks, whose loops have a length the compiler knows, and what is left */
#define CHUNKS(n, ...)                                                                             \
    do {                                                                                           \
        Py_ssize_t at = 0;                                                                         \
        for (; at + CHUNK <= (n); at += CHUNK) { enum { count = CHUNK }; __VA_ARGS__ }             \
        if (at < (n)) { const Py_ssize_t count = (n) - at; __VA_ARGS__ }                           \
    } while (0)

WIDE static void load_all(const Delta *delta, Py_ssize_t n, float *out)
{
    CHUNKS(n, load(delta, at, count, out + at););
}

/* total = w_0 d_0; total += w_i d_i */
INLINE void add_up(const Delta *deltas, Py_ssize_t k, const float *weights, Py_ssize_t at,
                          Py_ssize_t count, float *restrict total)
{
    float x[CHUNK], sum[CHUNK];
    load(deltas, at, count, x);
    for (Py_ssize_t i = 0; i < count; i++) sum[i] = x[i] * weights[0];
    for (Py_ssize_t r = 1; r < k; r++) {
        float w = weights[r];
        load(deltas + r, at, count, x);
        for (Py_ssize_t i = 0; i < count; i++) sum[i] += x[i] * w;
    }
    for (Py_ssize_t i = 0; i < count; i++) total[i] = sum[i];
}

WIDE static void weighted_sum(const Delta *deltas, Py_ssize_t k, Py_ssize_t n, const float *weights,
                              float *out)
{
    CHUNKS(n, add_up(deltas, k, weights, at, count, out + at););
}

WIDE static void elect_sign(const Delta *deltas, Py_ssize_t k, Py_ssize_t n, const float *weights,
                            float *out)
{
    CHUNKS(n, {
        float total[CHUNK];
        add_up(deltas, k, weights, at, count, total);
        for (Py_ssize_t i = 0; i < count; i++)
            out[at + i] = (float)((total[i] > 0.0f) - (total[i] < 0.0f));
    });
}

/* sum of w_i d_i over those with the elected sign; divided by the sum of their divisors if given */
WIDE static void disjoint(const Delta *deltas, Py_ssize_t k, Py_ssize_t n, const float *elected,
                          const float *weights, const float *divisors, float *out)
{
    CHUNKS(n, {
        float x[CHUNK];
        float total[CHUNK];
        float mass[CHUNK];
        const float *sign = elected + at;
        for (Py_ssize_t i = 0; i < count; i++) total[i] = mass[i] = 0.0f;
        for (Py_ssize_t r = 0; r < k; r++) {
            float w = weights[r];
            float v = divisors ? divisors[r] : 0.0f;
            load(deltas + r, at, count, x);
            for (Py_ssize_t i = 0; i < count; i++) {
                float agrees = x[i] * sign[i] > 0.0f ? 1.0f : 0.0f;
                total[i] += x[i] * agrees * w;
                mass[i] += agrees * v;
            }
        }
        if (divisors)
            for (Py_ssize_t i = 0; i < count; i++)
                total[i] /= mass[i] < 0x1p-126f ? 0x1p-126f : mass[i];
        for (Py_ssize_t i = 0; i < count; i++) out[at + i] = total[i];
    });
}

WIDE static double squares(const Delta *delta, Py_ssize_t n)
{
    enum { OFTEN = 1 << 12 }; /* entries added in float32 before they are added in float64 */
    float lanes[CHUNK] = {0};
    double sum = 0.0;
    CHUNKS(n, {
        float x[CHUNK];
        load(delta, at, count, x);
        for (Py_ssize_t i = 0; i < count; i++) lanes[i] += x[i] * x[i];
        if ((at + CHUNK) % OFTEN == 0 || at + CHUNK >= n)
            for (int i = 0; i < CHUNK; i++) {
                sum += lanes[i];
                lanes[i] = 0.0f;
            }
    });
    return sum;
}

/* kept = word < whole; write down where they are equal */
WIDE static Py_ssize_t draw(const uint16_t *words, Py_ssize_t n, uint16_t whole, uint8_t *kept,
                            int32_t *places)
{
    enum { GROUP = 64 };
    Py_ssize_t found = 0;
    for (Py_ssize_t at = 0; at < n; at += GROUP) {
        Py_ssize_t count = n - at < GROUP ? n - at : GROUP;
        uint16_t equal = 0;
        for (Py_ssize_t i = at; i < at + count; i++) {
            kept[i] = words[i] < whole;
            equal |= words[i] == whole;
        }
        if (equal)
            for (Py_ssize_t i = at; i < at + count; i++)
                if (words[i] == whole) places[found++] = (int32_t)i;
    }
    return found;
}

/* count magnitudes above `high`; write down those from `low` to `high`, and where they are */
WIDE static void bracket(const Delta *delta, Py_ssize_t n, int32_t low, int32_t high, int32_t *values,
                         int32_t *places, Py_ssize_t *above, Py_ssize_t *inside)
{
    uint32_t width = (uint32_t)high - (uint32_t)low;
    Py_ssize_t found = 0;
    CHUNKS(n, {
        float x[CHUNK];
        uint8_t between[CHUNK] = {0};
        int32_t greater = 0;
        load(delta, at, count, x);
        for (Py_ssize_t i = 0; i < count; i++) {
            uint32_t bits = as_bits(x[i]) & 0x7fffffff;
            greater += (int32_t)bits > high;
            between[i] = bits - (uint32_t)low <= width;
        }
        *above += greater;
        for (Py_ssize_t word = 0; word < count; word += 8) { /* most groups of eight hold none */
            uint64_t any;
            memcpy(&any, between + word, 8);
            for (; any; any &= any - 1) {
                Py_ssize_t i = word + (lowest_bit(any) >> 3);
                values[found] = (int32_t)(as_bits(x[i]) & 0x7fffffff);
                places[found++] = (int32_t)(at + i);
            }
        }
    });
    *inside = found;
}

/* out = base + merged, the base's own value where merged is zero; 1 if all of it is finite */
WIDE static int add_and_round(const void *base, int base_dtype, const float *merged, Py_ssize_t n,
                              int dtype, void *out)
{
    uint32_t bad = 0;
    CHUNKS(n, {
        float x[CHUNK];
        const float *delta = merged + at;
        uint16_t *half = (uint16_t *)out + at;
        widen(base, base_dtype, at, count, x);
        for (Py_ssize_t i = 0; i < count; i++) {
            x[i] = delta[i] != 0.0f ? x[i] + delta[i] : x[i];
            bad |= (as_bits(x[i]) & 0x7f800000) == 0x7f800000;
        }
        if (dtype == BF16)
            for (Py_ssize_t i = 0; i < count; i++) {
                half[i] = to_bf16(x[i]);
                bad |= (half[i] & 0x7f80) == 0x7f80;
            }
        else if (dtype == F16)
            for (Py_ssize_t i = 0; i < count; i++) {
                half[i] = to_f16(x[i]);
                bad |= (half[i] & 0x7c00) == 0x7c00;
            }
        else memcpy((float *)out + at, x, (size_t)count * 4);
    });
    return !bad;
}

INLINE float widened(const void *values, int dtype, Py_ssize_t i)
{
    if (dtype == BF16) return from_bf16(((const uint16_t *)values)[i]);
    if (dtype == F16) return from_f16(((const uint16_t *)values)[i]);
    return ((const float *)values)[i];
}

/* out[j] = the next value (minus the base's) where bit `skip` + j is set; others are left alone;
 * returns how many bits were set, never reading past the `most` values that there are */
static Py_ssize_t scatter(const void *values, Py_ssize_t most, int dtype, const uint8_t *bits,
                          Py_ssize_t skip, Py_ssize_t n, const float *base, float *out)
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
            if (next++ >= most) continue;
            float value = widened(values, dtype, next - 1);
            out[j] = base ? value - base[j] : value;
        }
    }
    return next;
}

/* ---- what Python calls: addresses and counts as integers, deltas and weights as tuples ---- */

enum { MOST_ROWS = 256 };

static int floats_of(PyObject *tuple, float *out, Py_ssize_t k)
{
    if (PyTuple_Size(tuple) != k) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a weight goes with each row");
        return -1;
    }
    for (Py_ssize_t i = 0; i < k; i++) out[i] = (float)PyFloat_AsDouble(PyTuple_GetItem(tuple, i));
    return PyErr_Occurred() ? -1 : 0;
}

/* a tuple of (stored, dtype, base or 0, its dtype, threshold or None, ties, kept or 0, divisor) */
static Py_ssize_t deltas_of(PyObject *tuple, Delta *out)
{
    Py_ssize_t k = PyTuple_Size(tuple);
    if (k < 1 || k > MOST_ROWS) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "too many rows, or none");
        return -1;
    }
    for (Py_ssize_t r = 0; r < k; r++) {
        PyObject *row = PyTuple_GetItem(tuple, r), *part[8];
        for (int i = 0; i < 8; i++)
            if (!(part[i] = PyTuple_GetItem(row, i))) return -1;
        Delta *delta = out + r;
        delta->stored = PyLong_AsVoidPtr(part[0]);
        delta->dtype = (int)PyLong_AsSsize_t(part[1]);
        delta->base = PyLong_AsVoidPtr(part[2]);
        delta->base_dtype = (int)PyLong_AsSsize_t(part[3]);
        delta->trims = part[4] != Py_None;
        delta->threshold = delta->trims ? (float)PyFloat_AsDouble(part[4]) : 0.0f;
        delta->below = delta->threshold > 0.0f ? as_float(as_bits(delta->threshold) - 1) : -1.0f;
        delta->ties = PyLong_AsSsize_t(part[5]);
        delta->kept = PyLong_AsVoidPtr(part[6]);
        delta->divisor = (float)PyFloat_AsDouble(part[7]);
        if (PyErr_Occurred()) return -1;
    }
    return k;
}

#define EXPECT(count)                                                                              \
    if (nargs != (count)) return PyErr_Format(PyExc_TypeError, "%d arguments expected", (count))
#define POINTER(i) PyLong_AsVoidPtr(args[i])
#define SIZE(i) PyLong_AsSsize_t(args[i])
#define RUN(...)                                                                                   \
    if (PyErr_Occurred()) return NULL;                                                             \
    Py_BEGIN_ALLOW_THREADS __VA_ARGS__; Py_END_ALLOW_THREADS

static PyObject *py_load(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(3);
    Delta deltas[MOST_ROWS];
    Py_ssize_t n = SIZE(1);
    float *out = POINTER(2);
    if (deltas_of(args[0], deltas) < 0) return NULL;
    RUN(load_all(deltas, n, out));
    Py_RETURN_NONE;
}

static PyObject *summed(PyObject *const *args, Py_ssize_t nargs, int elects)
{
    EXPECT(4);
    Delta deltas[MOST_ROWS];
    float weights[MOST_ROWS], *out = POINTER(3);
    Py_ssize_t n = SIZE(1), k = deltas_of(args[0], deltas);
    if (k < 0 || floats_of(args[2], weights, k) < 0) return NULL;
    RUN(elects ? elect_sign(deltas, k, n, weights, out) : weighted_sum(deltas, k, n, weights, out));
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
    EXPECT(6);
    Delta deltas[MOST_ROWS];
    const float *elected = POINTER(2);
    float weights[MOST_ROWS], divisors[MOST_ROWS], *out = POINTER(5);
    int divides = args[4] != Py_None;
    Py_ssize_t n = SIZE(1), k = deltas_of(args[0], deltas);
    if (k < 0 || floats_of(args[3], weights, k) < 0) return NULL;
    if (divides && floats_of(args[4], divisors, k) < 0) return NULL;
    RUN(disjoint(deltas, k, n, elected, weights, divides ? divisors : NULL, out));
    Py_RETURN_NONE;
}

static PyObject *py_squares(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(2);
    Delta delta[MOST_ROWS];
    Py_ssize_t n = SIZE(1);
    double sum = 0.0;
    if (deltas_of(args[0], delta) < 0) return NULL;
    RUN(sum = squares(delta, n));
    return PyFloat_FromDouble(sum);
}

static PyObject *py_draw(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(5);
    const uint16_t *words = POINTER(0);
    Py_ssize_t n = SIZE(1), whole = SIZE(2), found = 0;
    uint8_t *kept = POINTER(3);
    int32_t *places = POINTER(4);
    RUN(found = draw(words, n, (uint16_t)whole, kept, places));
    return PyLong_FromSsize_t(found);
}

static PyObject *py_bracket(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(6);
    Delta delta[MOST_ROWS];
    Py_ssize_t n = SIZE(1), above = 0, inside = 0;
    int32_t low = (int32_t)SIZE(2), high = (int32_t)SIZE(3), *values = POINTER(4), *places = POINTER(5);
    if (deltas_of(args[0], delta) < 0) return NULL;
    RUN(bracket(delta, n, low, high, values, places, &above, &inside));
    return Py_BuildValue("nn", above, inside);
}

static PyObject *py_add_and_round(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(6);
    const void *base = POINTER(0);
    const float *merged = POINTER(2);
    Py_ssize_t n = SIZE(3);
    int base_dtype = (int)SIZE(1), dtype = (int)SIZE(4), finite = 0;
    void *out = POINTER(5);
    RUN(finite = add_and_round(base, base_dtype, merged, n, dtype, out));
    return PyBool_FromLong(finite);
}

static PyObject *py_scatter(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    EXPECT(8);
    const void *values = POINTER(0), *bits = POINTER(3), *base = POINTER(6);
    Py_ssize_t most = SIZE(1), skip = SIZE(4), n = SIZE(5), found = 0;
    int dtype = (int)SIZE(2);
    float *out = POINTER(7);
    RUN(found = scatter(values, most, dtype, bits, skip, n, base, out));
    return PyLong_FromSsize_t(found);
}

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, NULL}

static PyMethodDef methods[] = {
    METHOD(load),    METHOD(weighted_sum), METHOD(elect_sign), METHOD(disjoint), METHOD(squares),
    METHOD(bracket), METHOD(draw),         METHOD(scatter),    METHOD(add_and_round),
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&module); }
