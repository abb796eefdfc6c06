/* Entries told apart and put in place by their bytes, whatever these stand for. */

#ifndef DELTAKIT_BYTES_H
#define DELTAKIT_BYTES_H

#include "delta.h"

/* Which of `count` entries, up to CHUNK, differ: to bits, and those of `ours` one after the other to
 * values, where these are given; each is written, and the next over it where it does not differ. */
#define DIFFER(type, name)                                                                         \
    INLINE Py_ssize_t name(const type *ours, const type *theirs, Py_ssize_t count, type *values,   \
                           uint8_t *bits)                                                          \
    {                                                                                              \
        uint8_t differs[CHUNK] = {0};                                                              \
        Py_ssize_t found = 0;                                                                      \
        for (Py_ssize_t i = 0; i < count; i++) differs[i] = ours[i] != theirs[i];                  \
        if (!values) for (Py_ssize_t i = 0; i < count; i++) found += differs[i];                   \
        else for (Py_ssize_t i = 0; i < count; i++) {                                              \
            values[found] = ours[i];                                                               \
            found += differs[i];                                                                   \
        }                                                                                          \
        for (Py_ssize_t i = 0; bits && i < count; i += 8) bits[i / 8] = packed(differs + i);       \
        return found;                                                                              \
    }                                                                                              \
    WIDE static Py_ssize_t name##_all(const type *ours, const type *theirs, Py_ssize_t n,          \
                                      type *values, uint8_t *bits)                                 \
    {                                                                                              \
        Py_ssize_t found = 0;                                                                      \
        CHUNKS(n, found += name(ours + at, theirs + at, count, values ? values + found : NULL,     \
                                bits ? bits + at / 8 : NULL););                                    \
        return found;                                                                              \
    }

/* out[j] = the next value wherever bit skip + j is set; how many are */
#define OVERWRITE(type, name)                                                                      \
    static Py_ssize_t name(const type *values, Py_ssize_t most, const uint8_t *bits,               \
                           Py_ssize_t skip, Py_ssize_t n, type *out)                               \
    {                                                                                              \
        Py_ssize_t next = 0;                                                                       \
        for (Py_ssize_t at = 0; at < n; at += 64) {                                                \
            uint64_t word = bits_from(bits, skip + at, n - at < 64 ? n - at : 64);                 \
            for (; word; word &= word - 1)                                                         \
                if (next++ < most) out[at + lowest_bit(word)] = values[next - 1];                  \
        }                                                                                          \
        return next;                                                                               \
    }

DIFFER(uint8_t, differ_8)
DIFFER(uint16_t, differ_16)
DIFFER(uint32_t, differ_32)
DIFFER(uint64_t, differ_64)
OVERWRITE(uint8_t, overwrite_8)
OVERWRITE(uint16_t, overwrite_16)
OVERWRITE(uint32_t, overwrite_32)
OVERWRITE(uint64_t, overwrite_64)

/* of entries of `size` bytes: 1, 2, 4 or 8 */
static Py_ssize_t differ(const void *ours, const void *theirs, int size, Py_ssize_t n, void *values,
                         uint8_t *bits)
{
    if (size == 1) return differ_8_all(ours, theirs, n, values, bits);
    if (size == 2) return differ_16_all(ours, theirs, n, values, bits);
    if (size == 4) return differ_32_all(ours, theirs, n, values, bits);
    return differ_64_all(ours, theirs, n, values, bits);
}

static Py_ssize_t overwrite(const void *values, Py_ssize_t most, int size, const uint8_t *bits,
                            Py_ssize_t skip, Py_ssize_t n, void *out)
{
    if (size == 1) return overwrite_8(values, most, bits, skip, n, out);
    if (size == 2) return overwrite_16(values, most, bits, skip, n, out);
    if (size == 4) return overwrite_32(values, most, bits, skip, n, out);
    return overwrite_64(values, most, bits, skip, n, out);
}

#endif
